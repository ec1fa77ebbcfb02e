//! `plmconv quantize TYPE MODEL`

use anyhow::Result;
use plmconv_calibrate::{Menu, Rounding};
use plmconv_formats::Model;

use super::checked::Check;
use super::write;
use crate::error::{At, Place};
use crate::guidance::{Guidance, OwnStatistics, sensitivity};
use crate::input::open_model;
use crate::interrupt;
use crate::onnx::{OnnxDraft, OnnxPlan};
use crate::outputs::Inputs;
use crate::plan::{Draft, Plan};
use crate::resolve::QuantizeRequest;
use crate::run::Run;
use crate::target::{AnyTarget, Gguf, Onnx, Target, Types};

pub fn run(request: QuantizeRequest) -> Result<()> {
    let QuantizeRequest { model, target, guidance, check, inputs, run } = request;
    let input = model;
    let model = open_model(&input, run.console)?;
    let check = check.map(|check| Check::new(check, input, &model, run)).transpose()?;
    match target {
        AnyTarget::Gguf(target) => gguf(model, target, check, Job { guidance, inputs, run }),
        AnyTarget::Onnx(target) => onnx(model, target, Job { guidance, inputs, run }),
    }
}

/// What both formats need besides their target.
struct Job {
    guidance: Guidance,
    inputs: Inputs,
    run: Run,
}

fn gguf(model: Model, target: Target<Gguf>, check: Option<Check>, job: Job) -> Result<()> {
    let Job { guidance, inputs, run } = job;
    let output = target.output_path(model.path())?;
    let resume = target.format.resume;
    let draft = Draft::new(model, target, guidance.has_importance()).at(Place::GgufMetadata)?;
    warn_if_idle(&guidance, draft.quantizes, run);
    let own = match guidance.is_measured() {
        true => OwnStatistics::beside(&output, &inputs, resume, run)?,
        false => OwnStatistics::none(),
    };
    let plan = plan(draft, guidance, &own, &|_| Ok(()), run);
    own.close(plan.and_then(|plan| match check {
        None => write::run(&plan, &inputs, run),
        Some(check) => check.run(plan, &inputs),
    }))
}

/// Refuses rounding that is not the one wanted.
pub type CheckRounding<'a> = dyn Fn(&Rounding) -> Result<()> + 'a;

/// The plan of a draft; `check` sees the rounding before anything is measured by it.
pub fn plan(
    draft: Draft,
    guidance: Guidance,
    own: &OwnStatistics,
    check: &CheckRounding<'_>,
    run: Run,
) -> Result<Plan> {
    let (model, target) = (draft.model(), draft.target());
    // What is measured here is kept, so a signal waits for the next step.
    let _stoppable = guidance.is_measured().then(interrupt::stoppable);
    let rounding = guidance.rounding(model, &target.passes, own, run)?;
    check(&rounding)?;
    interrupt::check()?;
    let is_budget = matches!(target.format.types, Types::Budget { .. });
    let sensitivity = is_budget.then(|| sensitivity(model, &rounding, Menu::Gguf, run)).transpose()?;
    let plan = run.pool()?.install(|| draft.finish(rounding, sensitivity)).at(Place::GgufMetadata)?;
    interrupt::check()?;
    Ok(plan)
}

fn onnx(model: Model, target: Target<Onnx>, job: Job) -> Result<()> {
    let Job { guidance, inputs, run } = job;
    let output = target.output_path(model.path());
    let draft = OnnxDraft::new(model, target).at(Place::Model)?;
    warn_if_idle(&guidance, draft.quantizes(), run);
    let own = match guidance.is_measured() {
        true => OwnStatistics::beside(&output, &inputs, false, run)?,
        false => OwnStatistics::none(),
    };
    let plan = onnx_plan(draft, guidance, &own, &|_| Ok(()), run);
    own.close(plan.and_then(|plan| write::run_onnx(&plan, &inputs, run)))
}

/// The plan of an ONNX draft, as [`plan`].
pub fn onnx_plan(
    draft: OnnxDraft,
    guidance: Guidance,
    own: &OwnStatistics,
    check: &CheckRounding<'_>,
    run: Run,
) -> Result<OnnxPlan> {
    let (model, target) = (draft.model(), draft.target());
    let rounding = guidance.rounding(model, &target.passes, own, run)?;
    check(&rounding)?;
    let menu = target.format.limit().map(|_| Menu::Onnx(target.format.menu()));
    let sensitivity = menu.map(|menu| sensitivity(model, &rounding, menu, run)).transpose()?;
    run.pool()?.install(|| draft.finish(rounding, sensitivity)).at(Place::Model)
}

/// Where no tensor is rounded to blocks, nothing is there to be guided.
fn warn_if_idle(guidance: &Guidance, quantizes: bool, run: Run) {
    if guidance.has_importance() && !quantizes {
        run.console.warn("no tensor is rounded to blocks, so what guides the rounding changes no weight");
    }
}
