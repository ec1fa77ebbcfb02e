//! ONNX exports among the models that are run.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plmconv_formats::onnx::{OnnxFile, Weight};
use plmconv_formats::{Error as FormatError, TextTokenizer, json};
use plmconv_validate::onnx::OnnxModel;
use plmconv_validate::{Options, Runtime};

use super::Description;

/// An export in ONNX Runtime.
pub struct OnnxSession {
    pub graph: PathBuf,
    pub model: OnnxModel,
    pub tokenizer: TextTokenizer,
    weights: Vec<Weight>,
}

impl OnnxSession {
    /// Loads a graph.
    ///
    /// # Errors
    /// A graph, config or tokenizer that cannot be read; ONNX Runtime's own.
    pub fn open(graph: PathBuf, options: Options) -> Result<OnnxSession> {
        let mut weights = OnnxFile::open(&graph)?.weights();
        weights.retain(|weight| weight.name.ends_with(".weight") && weight.shape.len() > 1);
        let folder = folder_of(&graph);
        let model = OnnxModel::open(&graph, context_of(&folder.join("config.json"))?, options)?;
        let tokenizer = TextTokenizer::from_folder(&folder, model.vocab_size())
            .context("the tokenizer beside the graph")?;
        Ok(OnnxSession { graph, model, tokenizer, weights })
    }

    /// Bytes of all matrices.
    fn tensor_bytes(&self) -> u64 {
        self.weights.iter().map(|weight| weight.bytes).sum()
    }

    /// Average bits of a weight.
    pub fn bits_per_weight(&self) -> f64 {
        let values: usize = self.weights.iter().map(|weight| weight.shape.iter().product::<usize>()).sum();
        self.tensor_bytes() as f64 * 8.0 / values.max(1) as f64
    }

    /// The coarsest way that at least a quarter of the layers' matrices are stored. Blocks of so many bits count
    /// together, since a budget mixes their sizes; the most common of them gives the name.
    fn prevailing_name(&self) -> &str {
        let layers = || self.weights.iter().filter(|weight| weight.name.contains(".layers."));
        let values = |weight: &Weight| weight.shape.iter().product::<usize>();
        let mut kinds: Vec<(&str, usize)> = Vec::new();
        let mut names: Vec<(&str, usize)> = Vec::new();
        for weight in layers() {
            count(&mut kinds, kind(&weight.stored_as), values(weight));
            count(&mut names, &weight.stored_as, values(weight));
        }
        let all: usize = kinds.iter().map(|(_, values)| values).sum();
        let common = kinds.into_iter().filter(|(_, values)| 4 * values >= all);
        let coarsest = common.min_by_key(|(kind, _)| bits(kind)).map_or("F32", |(kind, _)| kind);
        let named = names.into_iter().filter(|(name, _)| kind(name) == coarsest);
        named.max_by_key(|(_, values)| *values).map_or(coarsest, |(name, _)| name)
    }

    pub fn describe(&self) -> Description {
        Description {
            path: self.graph.clone(),
            format: "ONNX",
            dtype: self.prevailing_name().into(),
            bits_per_weight: self.bits_per_weight(),
            tensor_bytes: self.tensor_bytes(),
        }
    }
}

/// `Q4 x64 asymmetric` → `Q4`; a float type is itself.
fn kind(stored_as: &str) -> &str {
    stored_as.split(' ').next().unwrap_or(stored_as)
}

/// Bits of a code or a float: the digits of a kind's name.
fn bits(kind: &str) -> u32 {
    kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(u32::MAX)
}

/// Adds to what is counted under a name.
fn count<'a>(counts: &mut Vec<(&'a str, usize)>, name: &'a str, values: usize) {
    match counts.iter_mut().find(|(other, _)| *other == name) {
        Some((_, sum)) => *sum += values,
        None => counts.push((name, values)),
    }
}

/// Where config.json and the tokenizer are: the hf profile's graphs lie in a subfolder.
fn folder_of(graph: &Path) -> PathBuf {
    let beside = graph.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    if beside.join("config.json").is_file() { beside } else { beside.join("..") }
}

/// `max_position_embeddings` of a config.json, which may be labelled with another architecture.
fn context_of(path: &Path) -> Result<usize> {
    let config: serde_json::Value = json::read(path)?;
    let key = "max_position_embeddings";
    let found = config[key].as_u64().and_then(|n| usize::try_from(n).ok());
    found.ok_or_else(|| FormatError::MissingKey { path: path.into(), key: key.into() }.into())
}
