//! What the user may say, raw. Only this module knows clap; src/resolve turns this into checked requests.

mod edit;
mod evaluation;
mod lora;
mod onnx;
mod shell;
mod verification;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::log::{self, LogFormat, Severity, log_with_hint};
use crate::terminal::is_hidden;

pub use edit::EditArgs;
pub use evaluation::{
    ArithmeticArg, AttentionArg, EvaluatorArgs, GenerateArgs, LimitArgs, PerplexityArgs, ReferenceArgs,
    ValidateArgs, WindowArgs,
};
pub use lora::LoraArgs;
pub use onnx::{OnnxArgs, OnnxBlockArgs, OnnxFloatArg, OpsetArg, ProfileArg, QuantFormatArg};
pub use shell::{CompletionsArgs, ManArgs, TypesArgs, completions, manual};
pub use verification::VerifyArgs;

/// Convert, quantize, inspect and validate PLM models.
#[derive(Debug, Parser)]
#[command(name = "plmconv", version = VERSION, arg_required_else_help = true, max_term_width = 100, after_help = "\
Results go to stdout, progress and warnings to stderr. Exit codes: 0 done, 1 failure (a bad file, a full disk), 2 usage,
3 parity or verification failed, 128 + n ended by signal n (130 is Ctrl-C).")]
struct Cli {
    /// Form of the lines on stderr
    #[arg(
        long,
        global = true,
        value_enum,
        value_name = "FORMAT",
        default_value = "text",
        hide_short_help = true,
        display_order = 1000
    )]
    log_format: LogFormatArg,
    #[command(subcommand)]
    command: Command,
}

/// What `--version` says: the release, and the commit where this was built from a checkout.
const VERSION: &str = match option_env!("PLMCONV_COMMIT") {
    Some(commit) => commit,
    None => env!("CARGO_PKG_VERSION"),
};

/// The command of these arguments, the first of which is the program's name, and the form of messages. Where they
/// name no command, prints what is wrong or the help that was asked for, and ends the process.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> (Command, LogFormat) {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let cli = Cli::try_parse_from(&arguments).unwrap_or_else(|error| end_with(&error, &arguments));
    (cli.command, cli.log_format.into())
}

/// As [`parse`], for a command line that the user did not type.
///
/// # Errors
/// The first line of what is wrong with it.
pub fn parse_quietly(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, String> {
    let parsed = Cli::try_parse_from(arguments);
    parsed.map(|cli| cli.command).map_err(|error| {
        let reason = error.to_string();
        reason.lines().next().unwrap_or_default().to_string()
    })
}

/// Prints clap's message and ends the process. An argument may be a name that a shell took from a folder.
fn end_with(error: &clap::Error, arguments: &[OsString]) -> ! {
    let text = || error.render().to_string().trim_end().to_string();
    if error.use_stderr() && asks_for_json(arguments) {
        let text = text();
        let (message, hint) = text.split_once("\n\n").unwrap_or((&text, ""));
        let hint = Some(hint).filter(|hint| !hint.is_empty());
        log_with_hint(Severity::Error, message.trim_start_matches("error: "), hint);
        std::process::exit(error.exit_code());
    }
    // With colours it would be printed as the argument has it.
    if arguments.iter().any(|argument| argument.to_string_lossy().contains(is_hidden)) {
        tell!("{}", text());
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// Whether arguments that cannot be parsed as a whole ask for JSON.
fn asks_for_json(arguments: &[OsString]) -> bool {
    let asks = arguments.windows(2).any(|two| two[0] == "--log-format" && two[1] == "json")
        || arguments.iter().any(|argument| argument == "--log-format=json");
    log::choose(if asks { LogFormat::Json } else { LogFormat::Text });
    asks
}

/// The form of the lines on stderr.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormatArg {
    Text,
    /// One object a line: `level` and `message`, with an error's `hint`; progress once a minute
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(format: LogFormatArg) -> LogFormat {
        match format {
            LogFormatArg::Text => LogFormat::Text,
            LogFormatArg::Json => LogFormat::Json,
        }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Quantize(Box<QuantizeArgs>),
    Calibrate(CalibrateArgs),
    Convert(ConvertArgs),
    Inspect(InspectArgs),
    Perplexity(PerplexityArgs),
    Validate(ValidateArgs),
    Verify(VerifyArgs),
    Reference(ReferenceArgs),
    Generate(GenerateArgs),
    Edit(EditArgs),
    Types(TypesArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Quantize a PLM checkpoint into a GGUF that llama.cpp runs, or a folder that ONNX Runtime runs
#[derive(Debug, Args)]
#[command(after_help = "\
GGUF types: q4 (= q4_k_m), q8 (= q8_0), q2 q3 q5 q6, f32 f16 bf16 q8_0 q4_0 q4_1 q5_0 q5_1 q2_k q2_k_s q3_k_s
            q3_k_m q3_k_l q4_k_s q4_k_m q5_k_s q5_k_m q6_k iq4_nl iq4_xs iq3_m
            iq3_s iq3_xs* iq3_xxs* iq2_m* iq2_s* iq2_xs* iq2_xxs* iq1_m* iq1_s* q2_0 q1_0 tq1_0 tq2_0
            (*: useless without --imatrix, --calibrate, --self or --stats, as q2_k_s; mxfp4 and nvfp4 by --tensor-type)
ONNX types: q4 (the embedding, which is the head, in 8 bits) q8 auto
Every GGUF tensor's bytes equal those of llama.cpp's convert_hf_to_gguf.py followed by llama-quantize, unless
--calibrate, --self or --stats is given: rounding then makes up for its own errors, at the same size and in the same formats.

Examples: plmconv quantize q4 ./PLM-1.8B-Instruct
          plmconv quantize q4 ./PLM-1.8B-Instruct --to onnx --profile genai")]
pub struct QuantizeArgs {
    /// Target type, in any case (see below); with a target size or bits per weight `auto`, or the name it goes by
    #[arg(value_name = "TYPE")]
    pub file_type: String,
    /// A Hugging Face folder or a name on the hub (ORGANIZATION/NAME), or a PLM GGUF of f32, f16 or bf16
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// The format to write
    #[arg(long, value_enum, default_value = "gguf")]
    pub to: FormatArg,
    #[command(flatten)]
    pub output: OutputArgs,
    /// GGUF: give every matrix the target's base type instead of llama-quantize's mixture
    #[arg(long, help_heading = TYPES, hide_short_help = true)]
    pub pure: bool,
    /// Type of the token embedding, which is also the output head
    #[arg(long, value_name = "TYPE", alias = "output-tensor-type", help_heading = TYPES, hide_short_help = true)]
    pub token_embedding_type: Option<String>,
    /// Type of the tensors whose GGUF name matches a regex; repeatable, the first match wins
    #[arg(long, value_name = "PATTERN=TYPE", help_heading = TYPES)]
    pub tensor_type: Vec<String>,
    /// A file with one PATTERN=TYPE per line (`#` begins a comment)
    #[arg(long, value_name = "FILE", help_heading = TYPES, hide_short_help = true)]
    pub tensor_type_file: Option<PathBuf>,
    /// Give every matrix the type that it has in this GGUF
    #[arg(long, value_name = "FILE", conflicts_with = "pure", help_heading = TYPES, hide_short_help = true)]
    pub like: Option<PathBuf>,
    /// The llama.cpp release whose mixtures the GGUF types name
    #[arg(long, value_enum, value_name = "RELEASE", conflicts_with_all = ["pure", "like"], help_heading = TYPES,
          hide_short_help = true)]
    pub mixture: Option<MixtureArg>,
    /// Run this text through the model first and let it guide the rounding; repeatable
    #[arg(long, value_name = "TEXT", conflicts_with_all = ["stats", "imatrix"], help_heading = GUIDED)]
    pub calibrate: Vec<PathBuf>,
    /// The same on N tokens that the model writes itself, alone or in addition to --calibrate
    #[arg(long = "self", value_name = "N", conflicts_with_all = ["stats", "imatrix"], help_heading = GUIDED)]
    pub self_tokens: Option<NonZeroUsize>,
    /// Let these statistics, written by `plmconv calibrate`, guide the rounding
    #[arg(long, value_name = "STATS", conflicts_with = "imatrix", help_heading = GUIDED)]
    pub stats: Option<PathBuf>,
    /// Use llama.cpp's importance matrix (.gguf or .dat) exactly as llama-quantize does
    #[arg(long, value_name = "FILE", help_heading = GUIDED)]
    pub imatrix: Option<PathBuf>,
    /// Choose each matrix's type for the least divergence in a file no larger than this, e.g. 1.1G, 950M or bytes
    #[arg(long, value_name = "SIZE", conflicts_with_all = BUDGET_CONFLICTS, help_heading = TYPES)]
    pub target_size: Option<String>,
    /// The same within this many bits per weight, e.g. 4.5
    #[arg(long, value_name = "BITS", conflicts_with_all = BUDGET_CONFLICTS, conflicts_with = "target_size", help_heading = TYPES)]
    pub target_bpw: Option<f64>,
    /// How long to search with --calibrate, --self or --stats [default: normal]
    #[arg(long, value_enum, help_heading = GUIDED, hide_short_help = true)]
    pub effort: Option<EffortArg>,
    /// Leave a part of guided rounding out, to see what it brings; repeatable
    #[arg(long, value_enum, value_name = "PART", help_heading = GUIDED, hide_short_help = true)]
    pub without: Vec<PartArg>,
    /// Continue from what the same command had finished when Ctrl-C ended it; otherwise start from the beginning
    #[arg(long, help_heading = GUIDED, hide_short_help = true)]
    pub resume: bool,
    /// Quantize a file that is already quantized, at a loss of quality
    #[arg(long, help_heading = TYPES, hide_short_help = true)]
    pub allow_requantize: bool,
    #[command(flatten)]
    pub sample: SampleArgs,
    #[command(flatten)]
    pub check: CheckArgs,
    #[command(flatten)]
    pub onnx: OnnxArgs,
    #[command(flatten)]
    pub blocks: OnnxBlockArgs,
}

/// Groups of `--help`; what most people want comes first, and `-h` shows little more.
const TYPES: &str = "Types";
const GUIDED: &str = "Guided rounding";
const GGUF_FILE: &str = "GGUF";

/// A budget chooses types itself, by statistics of the model as it comes and in the layout `plm`.
const BUDGET_CONFLICTS: [&str; 5] = ["pure", "imatrix", "passes", "like", "mixture"];

/// Validation right after writing.
#[derive(Debug, Args)]
#[command(next_help_heading = "Validation")]
pub struct CheckArgs {
    /// GGUF: validate the written file against MODEL on this text; a failure renames it to <OUT>.rejected (exit code 3)
    #[arg(long, value_name = "TEXT", conflicts_with = "dry_run")]
    pub validate: Option<PathBuf>,
    /// Tokens of a window of the validation [default: 512]
    #[arg(long, value_name = "N", requires = "validate", hide_short_help = true)]
    pub validate_ctx: Option<usize>,
    /// At most this many windows of the validation [default: all]
    #[arg(long, value_name = "N", requires = "validate", hide_short_help = true)]
    pub validate_chunks: Option<usize>,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// Measure on a text which errors matter, for `quantize --stats`
#[derive(Debug, Args)]
#[command(after_help = "\
The result is also an importance matrix that llama-quantize reads.

Example: plmconv calibrate ./PLM-1.8B-Instruct --text mixed.txt -o stats.gguf")]
pub struct CalibrateArgs {
    /// A Hugging Face folder or a name on the hub (ORGANIZATION/NAME), or a PLM GGUF of f32, f16 or bf16
    #[arg(required_unless_present = "merge")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// Text to run through the model; repeatable
    #[arg(long, value_name = "FILE", required_unless_present_any = ["merge", "self_tokens"])]
    pub text: Vec<PathBuf>,
    /// Run N tokens that the model writes itself through it, alone or in addition to --text
    #[arg(long = "self", value_name = "N")]
    pub self_tokens: Option<NonZeroUsize>,
    /// Add up the statistics of several runs on the same model instead
    #[arg(long, value_name = "STATS", num_args = 1.., conflicts_with_all = ["model", "text", "self_tokens", "lora"])]
    pub merge: Vec<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "STATS")]
    pub output: PathBuf,
    /// Continue from what the same command had finished when Ctrl-C ended it; otherwise start from the beginning
    #[arg(long, conflicts_with = "merge")]
    pub resume: bool,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Worker threads [default: all cores]
    #[arg(short = 'j', long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Tell neither progress nor warnings, only the result and errors
    #[arg(short, long)]
    pub quiet: bool,
    #[command(flatten)]
    pub sample: SampleArgs,
}

/// Which part of the calibration text is used.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Calibration text")]
pub struct SampleArgs {
    /// Tokens of a window of calibration text [default: 256]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one, hide_short_help = true)]
    pub calibration_ctx: Option<usize>,
    /// Windows of calibration text, spread evenly over it; of what the model writes all are used [default: 128]
    #[arg(long, value_name = "N", value_parser = at_least_one, hide_short_help = true)]
    pub calibration_chunks: Option<usize>,
    /// Chooses the tokens drawn from the model's predictions, for --self and for the gradients [default: 0]
    #[arg(long, value_name = "N", hide_short_help = true)]
    pub seed: Option<u64>,
}

fn at_least_one(text: &str) -> Result<usize, std::num::ParseIntError> {
    text.parse().map(NonZeroUsize::get)
}

/// Convert a PLM checkpoint without quantizing it
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// A Hugging Face folder or a name on the hub (ORGANIZATION/NAME), or a PLM GGUF; with --to gguf-lora an adapter's folder
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// The format to write
    #[arg(long, value_enum)]
    pub to: FormatArg,
    /// Type of the matrices. GGUF: f32, f16, bf16, or `auto`, which keeps each in its own (norms are always f32).
    /// ONNX: f32 or f16, of everything. Safetensors: f32, f16 or bf16, of everything; `auto` is the type that the matrices
    /// have, f32 for quantized ones. GGUF-LoRA: f32, f16 or bf16 [default: auto, f32 for ONNX and GGUF-LoRA]
    #[arg(long, value_enum, alias = "outtype")]
    pub dtype: Option<DtypeArg>,
    /// GGUF-LoRA: the Hugging Face folder of the model that the adapter is for; its config.json is all that is read
    #[arg(long, value_name = "MODEL", conflicts_with = "lora")]
    pub base: Option<PathBuf>,
    #[command(flatten)]
    pub output: OutputArgs,
    #[command(flatten)]
    pub onnx: OnnxArgs,
}

/// Show what a model file or folder holds
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// Any GGUF, safetensors or ONNX file, a Hugging Face folder, or an exported ONNX folder
    pub path: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// Run the model on this text and show how sparse its FFN activations are, layer by layer
    #[arg(long, value_name = "TEXT")]
    pub sparsity: Option<PathBuf>,
    #[command(flatten)]
    pub windows: WindowArgs,
    /// Print one value of a GGUF's metadata and nothing else; texts as they are
    #[arg(long, value_name = "KEY", conflicts_with = "sparsity")]
    pub key: Option<String>,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Show every tensor, and long metadata values whole
    #[arg(short, long)]
    pub verbose: bool,
    #[command(flatten)]
    pub evaluator: EvaluatorArgs,
}

/// What the commands that write a model have in common.
#[derive(Debug, Args)]
pub struct OutputArgs {
    /// File to write, for ONNX the folder [default: <name>-<TYPE>.gguf, <name>-onnx-<TYPE>, in the current folder]
    #[arg(short, long, value_name = "OUT", alias = "outfile")]
    pub output: Option<PathBuf>,
    /// Replace the output if it exists
    #[arg(long)]
    pub force: bool,
    /// Print the plan for each tensor and the exact size; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// GGUF: split into shards of at most this size, e.g. 512M, 2G or bytes (powers of ten, as gguf-split counts)
    #[arg(long, value_name = "SIZE", help_heading = GGUF_FILE, hide_short_help = true)]
    pub split_max_size: Option<String>,
    /// GGUF: architecture, `plm`, or `latent` for a small cache in stock llama.cpp (see below) [default: plm]
    #[arg(long, value_enum, help_heading = GGUF_FILE)]
    pub layout: Option<LayoutArg>,
    /// Function-preserving rewrites before quantizing, comma separated: fold-latent-norm, turn-latent, turn-values,
    /// turn-keys, rescale-neurons, sort-neurons
    #[arg(long, value_name = "LIST", value_delimiter = ',', help_heading = GGUF_FILE, hide_short_help = true)]
    pub passes: Vec<String>,
    /// GGUF: llama.cpp's name for the pre-tokenizer, if it cannot be derived (e.g. qwen2)
    #[arg(long, value_name = "NAME", help_heading = GGUF_FILE, hide_short_help = true)]
    pub tokenizer_pre: Option<String>,
    #[command(flatten)]
    pub run: RunArgs,
}

/// How the commands that stream a model run, and what they tell.
#[derive(Clone, Copy, Debug, Args)]
pub struct RunArgs {
    /// Worker threads [default: all cores]
    #[arg(short = 'j', long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,
    /// Write the result as JSON
    #[arg(long)]
    pub json: bool,
    /// Tell neither progress nor warnings, only the result and errors
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,
    /// A line for each tensor
    #[arg(short, long)]
    pub verbose: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LayoutArg {
    /// llama.cpp's `plm`: the smaller file, a cache of expanded keys and values; today's llama.cpp needs `-fa off`
    Plm,
    /// llama.cpp's `deepseek2`: a file about 1.13 times as large, a cache 8.9 times smaller, flash attention
    Latent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    Gguf,
    Onnx,
    /// A Hugging Face folder; `convert` only
    Safetensors,
    /// A LoRA adapter for llama.cpp's `--lora`, where MODEL is an adapter's folder; `convert` only
    GgufLora,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MixtureArg {
    /// Those of llama-quantize
    Current,
    /// Those that the files published with PLM have
    #[value(name = "2025-03")]
    March2025,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum EffortArg {
    /// Weigh columns by their importance only
    Fast,
    /// Make up for rounding errors
    Normal,
    /// The same with a wider search of scales
    Max,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PartArg {
    /// Each row's errors made up for further right in the row
    Columns,
    /// Errors made up for in the rows below
    Rows,
    /// Channels rescaled before they are rounded
    Balance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DtypeArg {
    F32,
    F16,
    Bf16,
    Auto,
}
