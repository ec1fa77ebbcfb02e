//! The commands that run a model.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::TextTokenizer;
use plmconv_quant::simd::{Level, LevelError};
use plmconv_validate::{Arithmetic, Attention, Options, Windows};

use super::unused;
use crate::args::{
    ArithmeticArg, AttentionArg, EvaluatorArgs, GenerateArgs, InspectArgs, PerplexityArgs, ReferenceArgs,
    WindowArgs,
};
use crate::error::{At, Place, UsageError};
use crate::evaluation::{DEFAULT_CTX, Text, windows_of};
use crate::input::ModelInput;
use crate::onnx::find_graph;
use crate::outputs::Inputs;
use crate::progress::Console;

/// How a model is run.
#[derive(Clone, Copy, Debug)]
pub struct EvaluatorRequest {
    pub options: Options,
    /// As the user asked; else that of the runtime that a file is for.
    pub arithmetic: Option<Arithmetic>,
    pub console: Console,
}

/// A text and the windows of it that are run.
pub struct ScoredText {
    pub text: String,
    pub ctx: usize,
    /// All, if not said.
    pub chunks: Option<usize>,
}

/// How well a model predicts a text.
pub struct PerplexityRequest {
    pub model: ModelInput,
    pub text: ScoredText,
    pub json: bool,
    pub evaluator: EvaluatorRequest,
}

/// A model's outputs on a text, in a file.
pub struct ReferenceRequest {
    pub model: ModelInput,
    pub text: ScoredText,
    pub output: PathBuf,
    pub overwrite: bool,
    pub top_k: Option<usize>,
    pub json: bool,
    pub evaluator: EvaluatorRequest,
}

/// A text that goes on.
pub struct GenerateRequest {
    pub model: ModelInput,
    pub prompt: String,
    /// At most so many tokens.
    pub tokens: usize,
    pub temperature: f32,
    pub seed: u64,
    pub chat: bool,
    pub json: bool,
    pub evaluator: EvaluatorRequest,
}

/// What a file holds.
pub struct InspectRequest {
    pub model: ModelInput,
    /// Instead, how sparse its activations are on a text.
    pub sparsity: Option<SparsityRequest>,
    /// Instead, one value of its metadata.
    pub key: Option<String>,
    pub json: bool,
    pub console: Console,
}

/// How sparse a model's activations are on a text.
pub struct SparsityRequest {
    pub text: ScoredText,
    pub evaluator: EvaluatorRequest,
}

impl EvaluatorRequest {
    /// # Errors
    /// An unknown instruction set, or one that this CPU does not have.
    pub(super) fn new(args: &EvaluatorArgs) -> Result<EvaluatorRequest> {
        let kernel = match args.kernel.as_deref() {
            Some(name) if !name.eq_ignore_ascii_case("auto") => {
                let hint = "leave out --kernel to take the fastest one there is";
                name.parse().map_err(|e: LevelError| UsageError::with_hint(e.to_string(), hint))?
            }
            _ => Level::detect(),
        };
        let arithmetic = args.arithmetic.map(|name| match name {
            ArithmeticArg::Exact => Arithmetic::Exact,
            ArithmeticArg::Llama => Arithmetic::Llama,
        });
        let options = Options {
            threads: args.threads.map_or(0, NonZeroUsize::get),
            kernel,
            attention: match args.attention.unwrap_or(AttentionArg::Expanded) {
                AttentionArg::Expanded => Attention::Expanded,
                AttentionArg::Absorbed => Attention::Absorbed,
            },
            arithmetic: arithmetic.unwrap_or_default(),
            exact: args.exact,
        };
        Ok(EvaluatorRequest { options, arithmetic, console: console(args) })
    }

    /// For an ONNX export, whose numbers are those of ONNX Runtime. Whoever asks for others would take these for them.
    ///
    /// # Errors
    /// The user asked for an arithmetic.
    pub(super) fn refuse_arithmetic(&self) -> Result<()> {
        let Some(asked) = self.arithmetic else { return Ok(()) };
        let hint = "leave it out; an export with `--accuracy-level 1` rounds no activations";
        let message =
            format!("--arithmetic {}: ONNX Runtime runs an ONNX export, in its own arithmetic", asked.name());
        Err(UsageError::with_hint(message, hint).into())
    }

    /// For a model that may be an ONNX export.
    fn for_model(args: &EvaluatorArgs, model: &ModelInput) -> Result<EvaluatorRequest> {
        let request = EvaluatorRequest::new(args)?;
        if find_graph(&model.path)?.is_some() {
            model.refuse_adapters("an ONNX export")?;
            request.refuse_arithmetic()?;
            unused::warn_of_evaluator(args, request.console);
        }
        Ok(request)
    }
}

fn console(args: &EvaluatorArgs) -> Console {
    Console { quiet: args.quiet, verbose: false }
}

impl ScoredText {
    fn read(path: &Path, windows: WindowArgs) -> Result<ScoredText> {
        let ctx = windows.ctx.unwrap_or(DEFAULT_CTX);
        Ok(ScoredText { text: Text::read(path)?.content, ctx, chunks: windows.chunks })
    }

    /// The windows that `tokens`, which are the text's, are cut into.
    ///
    /// # Errors
    /// As [`windows_of`].
    pub fn windows<'a>(&self, tokens: &'a [u32], tokenizer: &TextTokenizer) -> Result<Windows<'a>> {
        windows_of(tokens, tokenizer, self.ctx, self.chunks).at(Place::Windows)
    }
}

impl PerplexityRequest {
    pub(super) fn new(args: PerplexityArgs) -> Result<PerplexityRequest> {
        let model = super::model(&args.model, &args.adapters.lora, console(&args.evaluator))?;
        let evaluator = EvaluatorRequest::for_model(&args.evaluator, &model)?;
        let text = ScoredText::read(&args.text, args.windows)?;
        Ok(PerplexityRequest { model, text, json: args.json, evaluator })
    }
}

impl ReferenceRequest {
    pub(super) fn new(args: ReferenceArgs) -> Result<ReferenceRequest> {
        let evaluator = EvaluatorRequest::new(&args.evaluator)?;
        let model = super::model(&args.model, &args.adapters.lora, console(&args.evaluator))?;
        let inputs: Inputs = model.paths().chain([&args.text]).collect();
        inputs.check_file(&args.output, args.force)?;
        Ok(ReferenceRequest {
            text: ScoredText::read(&args.text, args.windows)?,
            model,
            output: args.output,
            overwrite: args.force,
            top_k: args.top_k.map(NonZeroUsize::get),
            json: args.json,
            evaluator,
        })
    }
}

impl GenerateRequest {
    pub(super) fn new(args: GenerateArgs) -> Result<GenerateRequest> {
        let model = super::model(&args.model, &args.adapters.lora, console(&args.evaluator))?;
        let evaluator = EvaluatorRequest::for_model(&args.evaluator, &model)?;
        if args.temperature == 0.0 {
            let why = "with --temp 0, which always takes the most likely token";
            unused::warn_of_seed(args.seed, why, evaluator.console);
        }
        Ok(GenerateRequest {
            model,
            prompt: args.prompt.or(args.prompt_flag).unwrap_or_default(),
            tokens: args.tokens,
            temperature: args.temperature,
            seed: args.seed.unwrap_or(0),
            chat: args.chat,
            json: args.json,
            evaluator,
        })
    }
}

impl InspectRequest {
    pub(super) fn new(args: InspectArgs) -> Result<InspectRequest> {
        let console = Console { verbose: args.verbose, ..console(&args.evaluator) };
        unused::warn_of_inspect(&args, console);
        let sparsity = |path: &PathBuf| -> Result<SparsityRequest> {
            let evaluator = EvaluatorRequest::new(&args.evaluator)?;
            Ok(SparsityRequest { text: ScoredText::read(path, args.windows)?, evaluator })
        };
        let sparsity = args.sparsity.as_ref().map(sparsity).transpose()?;
        let model = super::model(&args.path, &args.adapters.lora, console)?;
        Ok(InspectRequest { model, sparsity, key: args.key, json: args.json, console })
    }
}
