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

    /// The coarsest way that at least a quarter of the layers' matrices are stored.
    fn prevailing_name(&self) -> &str {
        let mut kinds: Vec<(&str, u64, usize)> = Vec::new();
        for weight in self.weights.iter().filter(|weight| weight.name.contains(".layers.")) {
            let values: usize = weight.shape.iter().product();
            match kinds.iter_mut().find(|(name, ..)| *name == weight.stored_as) {
                Some((_, bytes, sum)) => (*bytes, *sum) = (*bytes + weight.bytes, *sum + values),
                None => kinds.push((&weight.stored_as, weight.bytes, values)),
            }
        }
        let all: usize = kinds.iter().map(|(.., values)| values).sum();
        let common = kinds.into_iter().filter(|(.., values)| 4 * values >= all);
        let bits = |(_, bytes, values): &(&str, u64, usize)| *bytes as f64 / *values as f64;
        common.min_by(|a, b| bits(a).total_cmp(&bits(b))).map_or("F32", |(name, ..)| name)
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
