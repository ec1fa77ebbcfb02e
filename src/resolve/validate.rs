//! `validate`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;

use super::{EvaluatorRequest, unused};
use crate::args::{LimitArgs, ValidateArgs};
use crate::error::UsageError;
use crate::evaluation::{AskedLimits, Text, WindowChoice, is_stored};
use crate::hub::{Wanted, local_path};
use crate::input::ModelInput;
use crate::onnx::find_graph;
use crate::outputs::Inputs;
use crate::report::file::ReportFile;
use crate::report::forms::ReportForms;

/// How far a candidate is from its reference.
pub struct ValidateRequest {
    pub candidate: PathBuf,
    pub reference: ModelInput,
    pub text: Option<Text>,
    /// Tokens that the reference writes, where the user says it.
    pub self_tokens: Option<NonZeroUsize>,
    pub seed: u64,
    pub windows: WindowChoice,
    pub per_layer: bool,
    pub limits: AskedLimits,
    pub forms: ReportForms,
    pub json: bool,
    pub evaluator: EvaluatorRequest,
}

impl ValidateRequest {
    pub(super) fn new(args: ValidateArgs) -> Result<ValidateRequest> {
        let evaluator = EvaluatorRequest::new(&args.evaluator)?;
        let console = evaluator.console;
        let reference = super::model(&args.against, &args.lora, console)?;
        let candidate = local_path(&args.candidate, Wanted::Model, console)?;
        let inputs: Inputs = reference.paths().chain([&candidate]).chain(&args.text).collect();
        let create = |path: &Option<PathBuf>| -> Result<Option<ReportFile>> {
            path.as_deref().map(|path| ReportFile::create(path, &inputs)).transpose()
        };
        let forms = ReportForms::new(create(&args.junit)?, create(&args.markdown)?, create(&args.html)?)?;
        let is_stored = is_stored(&args.against);
        if is_stored {
            reference.refuse_adapters("stored outputs")?;
        }
        if is_stored && args.self_tokens.is_some() {
            return Err(UsageError::with_hint(
                "stored outputs cannot write a text",
                "leave out --self: stored outputs bring their windows",
            )
            .into());
        }
        if is_stored && args.per_layer {
            return Err(UsageError::with_hint(
                "--per-layer needs a reference that runs; stored outputs have no layers",
                "name the reference model's folder or GGUF with --against",
            )
            .into());
        }
        let is_export = find_graph(&candidate)?.is_some();
        if is_export && args.per_layer {
            return Err(UsageError::with_hint(
                "--per-layer needs a candidate that plmconv's own evaluator runs; ONNX Runtime shows no layers",
                "leave out --per-layer, or judge a GGUF",
            )
            .into());
        }
        if is_export {
            evaluator.refuse_arithmetic()?;
        }
        let text = args.text.as_deref().map(Text::read).transpose()?;
        if is_export && is_stored {
            unused::warn_of_evaluator(&args.evaluator, evaluator.console);
        }
        if text.is_some() {
            unused::warn_of_seed(args.seed, "with --text", evaluator.console);
        } else if is_stored {
            unused::warn_of_seed(args.seed, "with stored outputs, which bring their text", evaluator.console);
        }
        Ok(ValidateRequest {
            candidate,
            reference,
            text,
            self_tokens: args.self_tokens,
            seed: args.seed.unwrap_or(0),
            windows: WindowChoice { ctx: args.windows.ctx, chunks: args.windows.chunks },
            per_layer: args.per_layer,
            limits: limits(args.limits),
            forms,
            json: args.json,
            evaluator,
        })
    }
}

/// The limits that the user sets.
pub(super) fn limits(args: LimitArgs) -> AskedLimits {
    let LimitArgs { max_kld, max_ppl_ratio, min_top1 } = args;
    AskedLimits { max_kld, max_ppl_ratio, min_top1 }
}
