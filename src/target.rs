//! The choices that shape an output: resolved from the arguments, or from a file's recipe, before anything is read of
//! the model.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_calibrate::{Limit, OnnxMenu};
use plmconv_formats::atomic::follow_links;
use plmconv_formats::gguf::{ShardName, Value};
use plmconv_formats::onnx::{BlockFormat, Opset, Profile, QuantFormat};
use plmconv_formats::{DType, Layout, Role, hub};
use plmconv_quant::policy::{FileType, Policy};
use regex::Regex;

use crate::passes::Pass;
use crate::plan::StoredTypes;

/// What to write, in one of the formats [`Gguf`] and [`Onnx`].
#[derive(Clone, Debug)]
pub struct Target<F> {
    pub format: F,
    /// The name that the user gave.
    pub output: Option<PathBuf>,
    pub overwrite: bool,
    /// Rewrites before anything else.
    pub passes: Vec<Pass>,
    pub allow_requantize: bool,
    /// The version of plmconv that a recipe names.
    pub made_by: String,
}

/// A target in either format that is for a runtime.
pub enum AnyTarget {
    Gguf(Target<Gguf>),
    Onnx(Target<Onnx>),
}

/// What only a Hugging Face folder has.
#[derive(Clone, Copy, Debug)]
pub struct Safetensors {
    /// F32, F16 or BF16; else what the matrices have.
    pub dtype: Option<DType>,
    /// Of a file's data.
    pub shard_bytes: Option<u64>,
}

/// What only an adapter's GGUF has.
#[derive(Clone, Copy, Debug)]
pub struct GgufLora {
    /// F32, F16 or BF16.
    pub dtype: DType,
}

/// What only a GGUF has.
#[derive(Clone, Debug)]
pub struct Gguf {
    pub types: Types,
    /// llama.cpp's name of the pre-tokenizer, where the user says it.
    pub tokenizer_pre: Option<String>,
    pub arrangement: Arrangement,
    pub layout: Layout,
    /// Go on with what an interrupted run had finished.
    pub resume: bool,
}

/// What only an ONNX folder has.
#[derive(Clone, Debug)]
pub struct Onnx {
    pub profile: Profile,
    pub opset: Opset,
    pub num_logits_to_keep: bool,
    /// F32 or F16.
    pub float: DType,
    pub weights: OnnxWeights,
    /// The first pattern found in a tensor's GGUF name decides.
    pub overrides: Vec<(Regex, WeightType)>,
    pub token_embedding: Option<WeightType>,
    /// As the user asked; else 32, or what a budget chooses.
    pub block_size: Option<usize>,
    pub symmetric: bool,
    pub quant_format: QuantFormat,
    pub accuracy_level: i64,
}

/// What decides the types of a GGUF.
#[derive(Clone, Debug)]
pub enum Types {
    /// A preset of llama-quantize, with the user's exceptions.
    Preset(Policy),
    /// The least predicted divergence within a size.
    Budget {
        /// Which tensors keep the type the user gave them.
        policy: Policy,
        /// What the user calls the mixture; else it is `auto`.
        file_type: Option<FileType>,
        limit: Limit,
    },
    /// Every matrix keeps its own float type.
    Source,
    /// Those that a file has.
    Stored(StoredTypes),
}

/// Which files the tensors of a GGUF go into.
#[derive(Clone, Debug)]
pub enum Arrangement {
    OneFile,
    /// Shards of at most so many bytes of tensor data.
    Shards(u64),
    /// As in these files.
    Like(Vec<Arranged>),
}

/// The order of an existing file, or of one shard of a set.
#[derive(Clone, Debug)]
pub struct Arranged {
    pub path: PathBuf,
    /// Keys of its metadata.
    pub keys: Vec<String>,
    pub tensors: Vec<String>,
    /// What it must have at these keys, or must not have at all, whatever is derived.
    pub given: Vec<(String, Option<Value>)>,
}

/// What decides how the matrices of an ONNX graph are stored, where no override says it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnnxWeights {
    /// All alike; see [`Onnx::by_default`] for the embedding.
    Preset(WeightType),
    /// The least predicted divergence within a size.
    Budget {
        /// What the user calls the mixture; else it is `auto`.
        name: Option<WeightType>,
        limit: Limit,
    },
}

/// How a matrix of an ONNX graph is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// In the graph's float type.
    Float,
    /// In blocks of codes of so many bits.
    Bits(usize),
}

impl<F> Target<F> {
    /// One new output under its default name.
    pub fn new(format: F) -> Target<F> {
        Target {
            format,
            output: None,
            overwrite: false,
            passes: Vec::new(),
            allow_requantize: false,
            made_by: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// The folder the user named, without a separator at its end, so that files beside it can be named after it.
    fn folder(&self) -> Option<PathBuf> {
        self.output.as_ref().map(|path| path.components().collect())
    }
}

impl Target<Gguf> {
    /// The name the user gave, with its links followed (a split's shards have names of their own), else
    /// `<name>-<TYPE>.gguf` or `<name>-latent-<TYPE>.gguf` in the current folder, after the model at `source`. Without a
    /// type it is `converted`.
    ///
    /// # Errors
    /// A name that cannot be an output's.
    pub fn output_path(&self, source: &Path) -> Result<PathBuf> {
        let layout = match self.format.layout {
            Layout::Plm => "",
            Layout::Latent => "latent-",
        };
        let type_name = match &self.format.types {
            // `auto` is what a budget makes.
            Types::Source => "converted",
            types => types.name(),
        };
        let default = || PathBuf::from(format!("{}-{layout}{type_name}.gguf", model_name(source)));
        let path = self.output.clone().unwrap_or_else(default);
        Ok(if self.is_split() { path } else { follow_links(&path)? })
    }

    /// Whether a set of shards is asked for.
    pub fn is_split(&self) -> bool {
        matches!(self.format.arrangement, Arrangement::Shards(_))
    }
}

impl Gguf {
    /// One file of these types and nothing else.
    pub fn new(types: Types) -> Gguf {
        Gguf {
            types,
            tokenizer_pre: None,
            arrangement: Arrangement::OneFile,
            layout: Layout::Plm,
            resume: false,
        }
    }
}

/// What types are called that are those of a file and of no choice that plmconv knows.
pub const STORED: &str = "stored";

impl Types {
    /// The name that the user chose, if there is one.
    pub fn file_type(&self) -> Option<FileType> {
        match self {
            Types::Preset(policy) => Some(policy.file_type),
            Types::Budget { file_type, .. } => *file_type,
            Types::Source | Types::Stored(_) => None,
        }
    }

    /// What the user calls them.
    pub fn name(&self) -> &'static str {
        match self {
            Types::Stored(_) => STORED,
            named => named.file_type().map_or("auto", FileType::name),
        }
    }
}

impl Target<GgufLora> {
    /// The file the user named, with its links followed, else `<name>-lora-<TYPE>.gguf` in the current folder, after the
    /// adapter at `source`.
    ///
    /// # Errors
    /// A name that cannot be an output's.
    pub fn output_path(&self, source: &Path) -> Result<PathBuf> {
        let type_name = self.format.dtype.name().to_ascii_lowercase();
        let default = || format!("{}-lora-{type_name}.gguf", model_name(source)).into();
        Ok(follow_links(&self.output.clone().unwrap_or_else(default))?)
    }
}

impl Target<Safetensors> {
    /// The folder the user named, else `<name>-hf` in the current folder, after the model at `source`.
    pub fn output_path(&self, source: &Path) -> PathBuf {
        self.folder().unwrap_or_else(|| format!("{}-hf", model_name(source)).into())
    }
}

impl Target<Onnx> {
    /// The folder the user named, else `<name>-onnx-<TYPE>` or `<name>-onnx-<PROFILE>-<TYPE>` in the current folder, after
    /// the model at `source`.
    pub fn output_path(&self, source: &Path) -> PathBuf {
        let profile = match self.format.profile {
            Profile::Latent => String::new(),
            other => format!("{}-", other.name()),
        };
        let default = || format!("{}-onnx-{profile}{}", model_name(source), self.format.type_name()).into();
        self.folder().unwrap_or_else(default)
    }
}

/// Values of a block where nobody says otherwise.
const BLOCK_SIZE: usize = 32;

impl Onnx {
    /// A graph of the default profile with these weights.
    pub fn new(float: DType, weights: OnnxWeights) -> Onnx {
        Onnx {
            profile: Profile::Latent,
            opset: Opset::V21,
            num_logits_to_keep: false,
            float,
            weights,
            overrides: Vec::new(),
            token_embedding: None,
            block_size: None,
            symmetric: true,
            quant_format: QuantFormat::NBits,
            accuracy_level: 4,
        }
    }

    /// The type of a matrix that the user does not name. The embedding gets 8 bits beside matrices of 4: it is the head
    /// too, and what is lost in the head reaches the logits as it is (docs/onnx.md has the figures).
    pub fn by_default(&self, role: Role) -> WeightType {
        match (self.prevailing(), role) {
            (WeightType::Bits(4), Role::TokenEmbedding) => WeightType::Bits(8),
            (weights, _) => weights,
        }
    }

    /// The type that gives the export its name; a budget that has none takes that of 4 bits.
    fn prevailing(&self) -> WeightType {
        match self.weights {
            OnnxWeights::Preset(weights) => weights,
            OnnxWeights::Budget { name, .. } => name.unwrap_or(WeightType::Bits(4)),
        }
    }

    /// The budget, if there is one.
    pub fn limit(&self) -> Option<Limit> {
        match self.weights {
            OnnxWeights::Preset(_) => None,
            OnnxWeights::Budget { limit, .. } => Some(limit),
        }
    }

    /// What a budget chooses from. ONNX Runtime rounds activations of DequantizeLinear's weights as it does at level 4.
    pub fn menu(&self) -> OnnxMenu {
        OnnxMenu {
            float: self.float,
            block_size: self.block_size,
            asymmetric: !self.symmetric,
            rounds_activations: self.accuracy_level == 4 || self.quant_format == QuantFormat::Qdq,
        }
    }

    /// The blocks of codes of `bits`.
    pub fn block_format(&self, bits: usize) -> BlockFormat {
        BlockFormat { bits, block_size: self.block_size.unwrap_or(BLOCK_SIZE), symmetric: self.symmetric }
    }

    /// What the export's files are called by, as clients look for them: `fp16`, `q4`, `q4f16`; empty for float32.
    pub fn type_suffix(&self) -> &'static str {
        match (self.prevailing(), self.float) {
            (WeightType::Float, DType::F16) => "fp16",
            (WeightType::Float, _) => "",
            (WeightType::Bits(4), DType::F16) => "q4f16",
            (WeightType::Bits(4), _) => "q4",
            // transformers.js asks for `model_quantized.onnx` when told q8.
            (WeightType::Bits(_), DType::F16) => "q8f16",
            (WeightType::Bits(_), _) => "quantized",
        }
    }

    /// What the user calls it.
    pub fn type_name(&self) -> String {
        match self.weights {
            OnnxWeights::Budget { name: None, .. } => "auto".into(),
            OnnxWeights::Preset(WeightType::Float) => self.float.name().to_ascii_lowercase(),
            OnnxWeights::Preset(weights) | OnnxWeights::Budget { name: Some(weights), .. } => {
                format!("{}{}", weights.name(self.float), if self.float == DType::F16 { "f16" } else { "" })
            }
        }
    }
}

impl WeightType {
    /// `q4`, `q8`, or in a graph of `float` that type's name.
    pub fn name(self, float: DType) -> String {
        match self {
            WeightType::Float => float.name().to_ascii_lowercase(),
            WeightType::Bits(bits) => format!("q{bits}"),
        }
    }
}

/// A model's name in a default output name: its own in the hub's cache, else its folder's or its file's.
fn model_name(path: &Path) -> String {
    let name = if !path.is_dir() {
        // Not the name of what it may be a link to: in the cache that is a digest.
        path.file_stem().map(|stem| without_shard_number(&stem.to_string_lossy()).to_string())
    } else if let Some(id) = hub::model_id(path) {
        id.rsplit('/').next().map(str::to_string)
    } else {
        let resolved = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        resolved.file_name().map(|name| name.to_string_lossy().into_owned())
    };
    name.unwrap_or_else(|| "model".into())
}

/// `model-00001-of-00003` → `model`
fn without_shard_number(stem: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    let parts = stem.rsplit_once("-of-").and_then(|(rest, count)| Some((rest.rsplit_once('-')?, count)));
    match parts {
        Some(((name, number), count)) if is_number(number) && is_number(count) => name,
        _ => stem,
    }
}

/// `model.gguf` → `model-00001-of-00003.gguf`, llama.cpp's pattern.
pub fn shard_path(output: &Path, index: usize, count: usize) -> PathBuf {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    output.with_file_name(ShardName { stem, number: index + 1, count }.file_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_models_name_is_the_one_that_people_know_it_by() {
        let dir = tempfile::tempdir().expect("tempdir");
        let snapshot = dir.path().join("models--PLM-Team--PLM-1.8B/snapshots/3f2a9c0d");
        std::fs::create_dir_all(&snapshot).expect("create");
        assert_eq!(model_name(&snapshot), "PLM-1.8B");
        assert_eq!(model_name(&snapshot.join("")), "PLM-1.8B");
        assert_eq!(model_name(&snapshot.join("x-f16.gguf")), "x-f16");
        assert_eq!(model_name(&dir.path().join("x-f16-00001-of-00003.gguf")), "x-f16");
        assert_eq!(model_name(&dir.path().join("1-of-3.gguf")), "1-of-3");
        assert_eq!(model_name(&snapshot.join("..")), "snapshots");
    }
}
