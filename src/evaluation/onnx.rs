//! ONNX exports among the models that are run: which graph is meant, and what runs it.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::error::UsageError;

/// An export of ours on disk.
#[derive(Debug)]
pub struct OnnxExport {
    /// The .onnx file.
    pub graph: PathBuf,
    /// Where config.json and the tokenizer are.
    #[cfg_attr(not(feature = "ort"), expect(dead_code, reason = "only what runs it reads them"))]
    pub folder: PathBuf,
}

impl OnnxExport {
    /// The export that `path` names: a graph, or a folder with one graph in it or in its subfolder `onnx`. None if
    /// it names something else; a folder of safetensors is a checkpoint whatever else is in it.
    ///
    /// # Errors
    /// A folder with several graphs.
    pub fn find(path: &Path) -> Result<Option<OnnxExport>> {
        if has_extension(path, "onnx") && path.is_file() {
            return Ok(Some(OnnxExport { graph: path.into(), folder: folder_of(path) }));
        }
        let mut graphs = files(path, "onnx");
        graphs.extend(files(&path.join("onnx"), "onnx"));
        if graphs.is_empty() || !files(path, "safetensors").is_empty() {
            return Ok(None);
        }
        if let [_, second, ..] = graphs.as_slice() {
            return Err(UsageError::with_hint(
                format!("{}: there are {} ONNX graphs here", path.display(), graphs.len()),
                format!("name one of them, such as {}", second.display()),
            )
            .into());
        }
        Ok(graphs.pop().map(|graph| OnnxExport { graph, folder: path.into() }))
    }
}

/// The hf profile's graphs lie in a subfolder of the folder that has the tokenizer.
fn folder_of(graph: &Path) -> PathBuf {
    let parent = graph.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    if parent.join("config.json").is_file() {
        return parent;
    }
    parent.join("..")
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// Files of a folder by their extension, in order; none where there is no folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| has_extension(path, extension)).collect();
    found.sort();
    found
}

#[cfg(feature = "ort")]
pub use session::OnnxSession;

#[cfg(feature = "ort")]
mod session {
    use std::path::Path;

    use anyhow::{Context, Result};
    use plmconv_formats::onnx::{GraphWeights, Stored};
    use plmconv_formats::{DType, Error as FormatError, TextTokenizer};
    use plmconv_validate::Runtime;
    use plmconv_validate::onnx::OnnxModel;

    use super::OnnxExport;
    use crate::evaluation::Description;

    /// An export in ONNX Runtime.
    pub struct OnnxSession {
        pub export: OnnxExport,
        pub model: OnnxModel,
        pub tokenizer: TextTokenizer,
        weights: GraphWeights,
    }

    /// `max_position_embeddings` of a config.json, which may be labelled with another architecture.
    fn context(path: &Path) -> Result<usize> {
        let text = std::fs::read_to_string(path).map_err(FormatError::io(path))?;
        let config: serde_json::Value = serde_json::from_str(&text)
            .map_err(|e| FormatError::Json { path: path.into(), detail: e.to_string() })?;
        let key = "max_position_embeddings";
        let found = config[key].as_u64().and_then(|n| usize::try_from(n).ok());
        found.ok_or_else(|| FormatError::MissingKey { path: path.into(), key: key.into() }.into())
    }

    impl OnnxSession {
        /// Loads the graph, to be run by `threads` threads (0: the runtime's choice).
        ///
        /// # Errors
        /// A graph, config or tokenizer that cannot be read; ONNX Runtime's own.
        pub fn open(export: OnnxExport, threads: usize) -> Result<OnnxSession> {
            let weights = GraphWeights::read(&export.graph)?;
            let context = context(&export.folder.join("config.json"))?;
            let model = OnnxModel::open(&export.graph, context, threads)?;
            let tokenizer = TextTokenizer::from_folder(&export.folder, model.vocab_size())
                .context("the tokenizer beside the graph")?;
            Ok(OnnxSession { export, model, tokenizer, weights })
        }

        /// The type of GGUF that is about as coarse.
        pub fn prevailing_type(&self) -> DType {
            match self.weights.prevailing {
                Stored::Float(dtype) => dtype,
                Stored::Blocks { bits, .. } if bits > 4 => DType::Q8_0,
                Stored::Blocks { .. } => DType::Q4_0,
            }
        }

        pub fn describe(&self) -> Description {
            Description {
                path: self.export.graph.clone(),
                format: "ONNX",
                dtype: self.weights.prevailing.to_string(),
                bits_per_weight: self.weights.bytes as f64 * 8.0 / self.weights.values.max(1) as f64,
                tensor_bytes: self.weights.bytes,
            }
        }
    }
}
