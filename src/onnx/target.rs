//! The choices that shape an export, resolved from the arguments.

use std::path::PathBuf;

use anyhow::Result;
use plmconv_calibrate::Rounding;
use plmconv_formats::onnx::{BlockFormat, Opset, Profile, QuantFormat};
use plmconv_formats::{DType, Model};
use regex::Regex;

use crate::args::{OnnxArgs, OnnxBlockArgs, OnnxFloat, OpsetArg, ProfileArg, QuantFormatArg};
use crate::error::UsageError;
use crate::passes::Pass;
use crate::plan::model_name;

/// How the matrices are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// In the graph's float type.
    Float,
    /// In blocks of codes of so many bits.
    Bits(usize),
}

/// What to write.
#[derive(Debug)]
pub struct Target {
    pub profile: Profile,
    pub opset: Opset,
    pub num_logits_to_keep: bool,
    /// F32 or F16.
    pub float: DType,
    /// Every matrix's, unless an override says otherwise.
    pub weights: WeightType,
    /// The first pattern found in a tensor's GGUF name decides.
    pub overrides: Vec<(Regex, WeightType)>,
    pub token_embedding: Option<WeightType>,
    pub block_size: usize,
    pub symmetric: bool,
    pub quant_format: QuantFormat,
    pub accuracy_level: i64,
    pub rounding: Rounding,
    pub passes: Vec<Pass>,
    pub allow_requantize: bool,
    pub output: Option<PathBuf>,
    pub overwrite: bool,
    /// The version of plmconv that the graph and its recipe name.
    pub made_by: String,
}

impl WeightType {
    /// The type of one tensor: `q4`, `q8`, or the graph's own float type.
    ///
    /// # Errors
    /// Another name.
    pub fn from_name(name: &str, float: DType) -> Result<WeightType> {
        match name.to_ascii_lowercase().as_str() {
            "q4" => Ok(WeightType::Bits(4)),
            "q8" => Ok(WeightType::Bits(8)),
            other if other == float.name().to_ascii_lowercase() => Ok(WeightType::Float),
            _ => {
                let own = float.name().to_ascii_lowercase();
                let hint =
                    format!("q4, q8 and the graph's {own} are possible; q4_k and the like are types of GGUF");
                Err(UsageError::with_hint(format!("`{name}` is no type of a weight in ONNX"), hint).into())
            }
        }
    }
}

impl Target {
    /// An export with these weights, as far as the arguments of both commands say it.
    pub fn new(args: &OnnxArgs, float: DType, weights: WeightType) -> Target {
        Target {
            profile: match args.profile.unwrap_or(ProfileArg::Latent) {
                ProfileArg::Latent => Profile::Latent,
                ProfileArg::Genai => Profile::Genai,
                ProfileArg::Hf => Profile::Hf,
            },
            opset: match args.opset.unwrap_or(OpsetArg::V21) {
                OpsetArg::V21 => Opset::V21,
                OpsetArg::V23 => Opset::V23,
            },
            num_logits_to_keep: args.num_logits_to_keep,
            float,
            weights,
            overrides: Vec::new(),
            token_embedding: None,
            block_size: 32,
            symmetric: true,
            quant_format: QuantFormat::NBits,
            accuracy_level: 4,
            rounding: Rounding::default(),
            passes: Vec::new(),
            allow_requantize: false,
            output: None,
            overwrite: false,
            made_by: env!("CARGO_PKG_VERSION").into(),
        }
    }

    /// With the blocks that the arguments say.
    pub fn with_blocks(self, args: &OnnxBlockArgs) -> Target {
        Target {
            block_size: args.block_size.unwrap_or(self.block_size),
            symmetric: !args.asymmetric,
            quant_format: match args.quant_format.unwrap_or(QuantFormatArg::Nbits) {
                QuantFormatArg::Nbits => QuantFormat::NBits,
                QuantFormatArg::Qdq => QuantFormat::Qdq,
            },
            accuracy_level: args.accuracy_level.unwrap_or(self.accuracy_level),
            ..self
        }
    }

    /// The blocks of codes of `bits`.
    pub fn block_format(&self, bits: usize) -> BlockFormat {
        BlockFormat { bits, block_size: self.block_size, symmetric: self.symmetric }
    }

    /// What the export's files are called by, as clients look for them: `fp16`, `q4`, `q4f16`; empty for float32.
    pub fn type_suffix(&self) -> &'static str {
        match (self.weights, self.float) {
            (WeightType::Float, DType::F16) => "fp16",
            (WeightType::Float, _) => "",
            (WeightType::Bits(4), DType::F16) => "q4f16",
            (WeightType::Bits(4), _) => "q4",
            // transformers.js asks for `model_quantized.onnx` when told q8.
            (WeightType::Bits(_), DType::F16) => "q8f16",
            (WeightType::Bits(_), _) => "quantized",
        }
    }

    /// The folder the user named, else `<name>-onnx-<TYPE>` in the current folder.
    pub fn output_path(&self, model: &Model) -> PathBuf {
        let default = || PathBuf::from(format!("{}-onnx-{}", model_name(model.path()), self.type_name()));
        // Without a separator at its end, so that files beside it can be named after it.
        self.output.as_ref().map_or_else(default, |path| path.components().collect())
    }

    /// What the user calls it.
    pub fn type_name(&self) -> String {
        match self.weights {
            WeightType::Float => self.float.name().to_ascii_lowercase(),
            WeightType::Bits(bits) => {
                format!("q{bits}{}", if self.float == DType::F16 { "f16" } else { "" })
            }
        }
    }
}

impl From<OnnxFloat> for DType {
    fn from(float: OnnxFloat) -> DType {
        match float {
            OnnxFloat::F32 => DType::F32,
            OnnxFloat::F16 => DType::F16,
        }
    }
}
