//! Arguments of the commands that run a model.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::LoraArgs;

/// Measure how well a model predicts a text, as llama-perplexity does
#[derive(Debug, Args)]
#[command(after_help = "Example: plmconv perplexity model-q4_k_m.gguf --text wiki.test.raw")]
pub struct PerplexityArgs {
    /// A Hugging Face folder or a name on the hub (ORGANIZATION/NAME), a PLM GGUF of any type, or an ONNX folder (feature `ort`)
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// UTF-8 text to score
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub evaluator: EvaluatorArgs,
}

/// Measure how far a converted model is from its source; exit code 3 if too far
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 the candidate is as near as the limits ask, 3 it is not, 1 something went wrong, 2 wrong usage.
Without --text the reference writes the text itself (--self N, reproducible by --seed).

Example: plmconv validate model-q4_k_m.gguf --against ./PLM-1.8B-Instruct --text wiki.test.raw --html report.html")]
pub struct ValidateArgs {
    /// The model to judge: a Hugging Face folder, a PLM GGUF of any type, or an ONNX folder (feature `ort`)
    pub candidate: PathBuf,
    /// What it is judged by: a folder or a name on the hub, a GGUF of any type, or stored outputs (.safetensors)
    #[arg(long, value_name = "REFERENCE")]
    pub against: PathBuf,
    /// Merge this LoRA adapter (a folder that peft saved) into REFERENCE first, times SCALE; repeatable, in order
    #[arg(long, value_name = "ADAPTER[=SCALE]")]
    pub lora: Vec<OsString>,
    /// UTF-8 text to compare on (stored outputs bring their own)
    #[arg(long, value_name = "FILE", conflicts_with = "self_tokens")]
    pub text: Option<PathBuf>,
    /// Compare on a text of N tokens that the reference writes [default without --text: 1024]
    #[arg(long = "self", value_name = "N")]
    pub self_tokens: Option<NonZeroUsize>,
    /// Seed of the text that the reference writes [default: 0]
    #[arg(long, value_name = "SEED")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Also compare the residual stream after every layer, and name the matrices that rounding of activations harms
    #[arg(long)]
    pub per_layer: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Write the checks as JUnit XML
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub junit: Option<PathBuf>,
    /// Write a summary in Markdown, e.g. for $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub markdown: Option<PathBuf>,
    /// Write one self-contained page with plots
    #[arg(long, value_name = "FILE", help_heading = "Reports")]
    pub html: Option<PathBuf>,
    /// Write the result as JSON
    #[arg(long, help_heading = "Reports")]
    pub json: bool,
    #[command(flatten)]
    pub evaluator: EvaluatorArgs,
}

/// Store a model's outputs on a text, to compare other models with later
#[derive(Debug, Args)]
#[command(
    after_help = "Example: plmconv reference ./PLM-1.8B-Instruct --text ci.txt --top-k 64 -o ci.safetensors"
)]
pub struct ReferenceArgs {
    /// A Hugging Face folder or a name on the hub (ORGANIZATION/NAME), or a PLM GGUF of any type
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// UTF-8 text to run
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// The safetensors file to write
    #[arg(short, long, value_name = "REF")]
    pub output: PathBuf,
    /// Store the K most likely tokens of each position instead of all logits
    #[arg(long, value_name = "K")]
    pub top_k: Option<NonZeroUsize>,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub evaluator: EvaluatorArgs,
}

/// Continue a text, token by token
#[derive(Debug, Args)]
#[command(after_help = "Example: plmconv generate --chat model-q4_k_m.gguf \"Name three rivers.\"")]
pub struct GenerateArgs {
    /// A Hugging Face folder, a PLM GGUF of any type, or an ONNX folder (feature `ort`)
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// The text to continue, or with --chat the user's message
    #[arg(required_unless_present = "prompt_flag")]
    pub prompt: Option<String>,
    /// The same, as llama.cpp's programs take it
    #[arg(short = 'p', long = "prompt", value_name = "PROMPT", conflicts_with = "prompt", hide = true)]
    pub prompt_flag: Option<String>,
    /// Write at most this many tokens
    #[arg(short = 'n', long = "tokens", value_name = "N", default_value_t = 64, aliases = ["predict", "n-predict"])]
    pub tokens: usize,
    /// Sampling temperature; 0 always takes the most likely token
    #[arg(long = "temp", value_name = "T", default_value_t = 0.0)]
    pub temperature: f32,
    /// Seed of the sampling [default: 0]
    #[arg(long)]
    pub seed: Option<u64>,
    /// Put the prompt through the model's chat template
    #[arg(long)]
    pub chat: bool,
    /// Write the result as JSON, once it is complete
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub evaluator: EvaluatorArgs,
}

/// How a text is cut.
#[derive(Clone, Copy, Debug, Args)]
pub struct WindowArgs {
    /// Tokens of a window; its second half is scored [default: 512]
    #[arg(long, value_name = "N")]
    pub ctx: Option<usize>,
    /// Run at most this many windows [default: all]
    #[arg(long, value_name = "N")]
    pub chunks: Option<usize>,
}

/// What decides between pass and fail. Each has a default that follows from the candidate's type.
#[derive(Clone, Copy, Debug, Default, Args)]
#[command(next_help_heading = "Limits [default: by the candidate's type]")]
pub struct LimitArgs {
    /// Largest mean KL divergence from the reference, in nats per token
    #[arg(long, value_name = "NATS", value_parser = limit)]
    pub max_kld: Option<f64>,
    /// Largest ratio of the candidate's perplexity to the reference's
    #[arg(long, value_name = "RATIO", value_parser = limit)]
    pub max_ppl_ratio: Option<f64>,
    /// Smallest share of positions where both find the same token most likely, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = limit)]
    pub min_top1: Option<f64>,
}

/// A number that others can be compared with.
fn limit(text: &str) -> Result<f64, String> {
    let limit: f64 = text.parse().map_err(|_| "not a number")?;
    if limit.is_nan() { Err("nothing is within a limit that is not a number".into()) } else { Ok(limit) }
}

/// How a model is run.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Evaluator")]
pub struct EvaluatorArgs {
    /// Worker threads, without effect on the numbers [default: all cores]
    #[arg(short = 'j', long, value_name = "N", help_heading = None::<&str>)]
    pub threads: Option<NonZeroUsize>,
    /// Instruction set: auto, generic, avx2, avx512 or neon [default: auto]
    #[arg(long, value_name = "KERNEL")]
    pub kernel: Option<String>,
    /// Whose arithmetic is computed: `llama` rounds activations and the cache as llama.cpp's CPU code does, `exact`
    /// nothing, so that weights alone count; not for an ONNX export [default: llama for a GGUF that is run or judged, else exact]
    #[arg(long, value_enum, value_name = "WHOSE")]
    pub arithmetic: Option<ArithmeticArg>,
    /// Compute every product in f32
    #[arg(long)]
    pub exact: bool,
    /// Which form of latent attention is computed; both are the same function [default: expanded]
    #[arg(long, value_enum)]
    pub attention: Option<AttentionArg>,
    /// Tell neither progress nor warnings, only the result and errors
    #[arg(short, long, help_heading = None::<&str>)]
    pub quiet: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttentionArg {
    Expanded,
    Absorbed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ArithmeticArg {
    Exact,
    Llama,
}
