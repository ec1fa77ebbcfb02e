//! What `--to onnx` adds to the commands that write a model.

use clap::{Args, ValueEnum};

/// The graph's interface and operators.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "ONNX")]
pub struct OnnxArgs {
    /// Client whose inputs and outputs the graph has [default: latent]
    #[arg(long, value_enum)]
    pub profile: Option<ProfileArg>,
    /// Operators: 21 for the oldest runtimes, 23 with RMSNormalization, RotaryEmbedding and Attention [default: 21]
    #[arg(long, value_enum, hide_short_help = true)]
    pub opset: Option<OpsetArg>,
    /// Add the input `num_logits_to_keep` (0 keeps all)
    #[arg(long, hide_short_help = true)]
    pub num_logits_to_keep: bool,
}

/// How `quantize --to onnx` stores weights.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "ONNX")]
pub struct OnnxBlockArgs {
    /// MatMulNBits nodes, or DequantizeLinear before MatMul [default: nbits]
    #[arg(long, value_enum, hide_short_help = true)]
    pub quant_format: Option<QuantFormatArg>,
    /// Weights of a row that share a scale: 16, 32, 64, 128 or 256 [default: 32]
    #[arg(long, value_name = "N", value_parser = block_size, hide_short_help = true)]
    pub block_size: Option<usize>,
    /// Give every block a zero point too
    #[arg(long, hide_short_help = true)]
    pub asymmetric: bool,
    /// What MatMulNBits may round activations to: 0 the runtime's choice, 1 f32, 2 f16, 3 bf16, 4 int8 [default: 4]
    #[arg(long, value_name = "LEVEL", value_parser = clap::value_parser!(i64).range(0..=4), hide_short_help = true)]
    pub accuracy_level: Option<i64>,
    /// Type of activations, norms, scales and the cache [default: f32]
    #[arg(long, value_enum, hide_short_help = true)]
    pub float_type: Option<OnnxFloatArg>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProfileArg {
    /// One latent cache tensor a layer: the smallest cache
    Latent,
    /// The latent in two halves, for onnxruntime-genai
    Genai,
    /// Expanded keys and values, for optimum and transformers.js
    Hf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OpsetArg {
    #[value(name = "21")]
    V21,
    #[value(name = "23")]
    V23,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum QuantFormatArg {
    Nbits,
    Qdq,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnnxFloatArg {
    F32,
    F16,
}

fn block_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size @ (16 | 32 | 64 | 128 | 256)) => Ok(size),
        _ => Err("16, 32, 64, 128 and 256 are possible".into()),
    }
}
