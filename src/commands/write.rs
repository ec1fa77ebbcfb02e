//! What quantize and convert share: plan, run, report.

use anyhow::Result;
use indicatif::ProgressBar;
use plmconv_formats::atomic::AtomicFolder;
use plmconv_formats::{checkpoint as checkpoint_folder, onnx as onnx_export};
use rayon::ThreadPool;

use crate::checkpoint::{self, CheckpointPlan};
use crate::error::{At, Place};
use crate::onnx::{self, OnnxPlan};
use crate::outputs::Inputs;
use crate::pipeline::{self, Written};
use crate::plan::Plan;
use crate::progress::{Console, Unit};
use crate::report;
use crate::report::outline::Outline;
use crate::run::Run;

/// Writes what is planned as a GGUF and prints what was written, or prints the plan.
pub fn run(plan: &Plan, inputs: &Inputs, run: Run) -> Result<()> {
    let Some(written) = write_gguf(plan, inputs, false, run)? else { return Ok(()) };
    written.commit()?;
    report::written::print(&plan.outline(), run, None)
}

/// Writes what is planned as a GGUF that does not have its name yet. A dry run prints the plan instead.
pub fn write_gguf(plan: &Plan, inputs: &Inputs, may_be_rejected: bool, run: Run) -> Result<Option<Written>> {
    run.console.warn_of(&plan.warnings);
    report_fallbacks(plan, run.console);
    report_pair(plan, run.console);
    if !run.dry_run {
        plan.check_outputs(inputs, may_be_rejected)?;
    }
    carry_out(&plan.outline(), run, &run.pool()?, |bar| pipeline::run(plan, bar, run.console))
}

/// Writes what is planned as an ONNX folder and prints what was written, or prints the plan.
pub fn run_onnx(plan: &OnnxPlan, inputs: &Inputs, run: Run) -> Result<()> {
    run.console.warn_of(&plan.companions.warnings);
    if !run.dry_run {
        inputs.check_folder(&plan.output, plan.overwrite, onnx_export::may_replace)?;
    }
    write_folder(&plan.outline(), run, |bar| onnx::write(plan, bar, run.console))
}

/// Writes what is planned as a Hugging Face folder and prints what was written, or prints the plan.
pub fn run_checkpoint(plan: &CheckpointPlan, inputs: &Inputs, run: Run) -> Result<()> {
    run.console.warn_of(&plan.checkpoint.warnings);
    if !run.dry_run {
        inputs.check_folder(&plan.output, plan.overwrite, checkpoint_folder::may_replace)?;
    }
    write_folder(&plan.outline(), run, |bar| checkpoint::write(plan, bar, run.console))
}

/// Gives the folder that `work` fills its name, and prints what was written, or prints the plan.
fn write_folder(
    outline: &Outline,
    run: Run,
    work: impl FnOnce(&ProgressBar) -> Result<AtomicFolder> + Send,
) -> Result<()> {
    let Some(folder) = carry_out(outline, run, &run.pool()?, work)? else { return Ok(()) };
    folder.commit().at(Place::Output)?;
    report::written::print(outline, run, None)
}

/// Does what was planned, under a bar and on the workers. A dry run prints the plan instead.
fn carry_out<T: Send>(
    outline: &Outline,
    run: Run,
    pool: &ThreadPool,
    work: impl FnOnce(&ProgressBar) -> Result<T> + Send,
) -> Result<Option<T>> {
    if run.dry_run {
        report::plan::print(outline, run.json)?;
        return Ok(None);
    }
    let bar = run.console.bar(outline.source_bytes, Unit::Bytes, "quantizing");
    let done = pool.install(|| work(&bar)).at(Place::Output)?;
    bar.finish_and_clear();
    Ok(Some(done))
}

fn report_fallbacks(plan: &Plan, console: Console) {
    let fallbacks: Vec<_> = plan.tensors.iter().filter(|t| t.fallback_from.is_some()).collect();
    if let Some(first) = fallbacks.first() {
        let from = first.fallback_from.map(|d| d.name()).unwrap_or_default();
        console.warn(&format!(
            "{} of {} tensors have rows that are not whole {from} blocks; they become {} (see --dry-run)",
            fallbacks.len(),
            plan.tensors.len(),
            first.dtype
        ));
    }
}

/// How far the latent layout's FFN is from squared ReLU at most.
fn report_pair(plan: &Plan, console: Console) {
    let worst = plan.pair_factors.iter().map(|f| f.error_bound()).fold(0.0, f64::max);
    if worst > 0.0 {
        console.note(&format!("squared ReLU as a gated pair: no neuron is off by more than {worst:.1e}"));
    }
}
