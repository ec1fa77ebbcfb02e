//! What quantize and convert share: open, plan, run, report.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_formats::{Layout, Model};
use rayon::ThreadPool;

use crate::args::{Format, LayoutArg, OutputArgs};
use crate::error::{At, Place, UsageError};
use crate::onnx::{self, OnnxPlan};
use crate::outputs::Inputs;
use crate::passes::Pass;
use crate::pipeline::{self, Written};
use crate::plan::{Arrangement, Plan, Target, Types, parse_size};
use crate::progress::Console;
use crate::report;
use crate::report::outline::Outline;

/// The part of a target that the common arguments say; the types are the command's.
pub fn target(args: &OutputArgs) -> Result<Target> {
    let split_max_size = args.split_max_size.as_deref().map(parse_size).transpose()?;
    Ok(Target {
        output: args.output.clone(),
        overwrite: args.force,
        tokenizer_pre: args.tokenizer_pre.clone(),
        arrangement: split_max_size.map_or(Arrangement::OneFile, Arrangement::Shards),
        layout: args.layout.map_or(Layout::Plm, Layout::from),
        passes: passes(args)?,
        ..Target::new(Types::Source)
    })
}

impl From<LayoutArg> for Layout {
    fn from(layout: LayoutArg) -> Layout {
        match layout {
            LayoutArg::Plm => Layout::Plm,
            LayoutArg::Latent => Layout::Latent,
        }
    }
}

/// The passes the user names. None by default: none was measured to help a quantized file (docs/latent.md).
pub fn passes(args: &OutputArgs) -> Result<Vec<Pass>> {
    let named = args.passes.iter().map(|n| n.trim()).filter(|n| !n.is_empty());
    let found = named.map(|name| {
        Pass::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = Pass::all().map(Pass::name).collect();
            UsageError::with_hint(format!("unknown pass `{name}`"), format!("known: {}", known.join(", ")))
                .into()
        })
    });
    found.collect()
}

/// Refuses a flag that says nothing about `format`: `given`, the first of the other format's flags.
pub fn refuse_flag(given: Option<&'static str>, format: Format) -> Result<()> {
    let Some(flag) = given else { return Ok(()) };
    let (other, hint) = match (format, flag) {
        (Format::Gguf, _) => ("an ONNX graph", "add --to onnx, or leave it out"),
        (Format::Onnx, "--layout") => {
            ("a GGUF", "leave it out; --profile chooses the cache of an ONNX graph")
        }
        (Format::Onnx, _) => ("a GGUF", "leave it out, or write a GGUF with --to gguf"),
    };
    Err(UsageError::with_hint(format!("{flag} is about {other}"), hint).into())
}

/// Writes `model` as a GGUF and prints what was written, or prints the plan.
pub fn run(model: Model, target: Target, inputs: &Inputs, args: &OutputArgs) -> Result<()> {
    let Some((plan, written, elapsed)) = write(model, target, inputs, args)? else { return Ok(()) };
    written.commit()?;
    report::written::print(&plan.outline(), elapsed, args.json, None)
}

/// Writes `model` as a GGUF that does not have its name yet, with what was planned and the time it took. A dry run
/// prints the plan instead.
pub fn write(
    model: Model,
    target: Target,
    inputs: &Inputs,
    args: &OutputArgs,
) -> Result<Option<(Plan, Written, Duration)>> {
    let pool = thread_pool(args.threads)?;
    let plan = pool.install(|| Plan::new(model, target)).at(Place::GgufMetadata)?;
    args.console().warn_of(&plan.warnings);
    report_fallbacks(&plan, args.console());
    report_pair(&plan, args.console());
    if !args.dry_run {
        plan.check_outputs(inputs)?;
    }
    let done = carry_out(&plan.outline(), args, &pool, |bar| pipeline::run(&plan, bar, args.console()))?;
    Ok(done.map(|(written, elapsed)| (plan, written, elapsed)))
}

/// Writes `model` as an ONNX folder and prints what was written, or prints the plan.
pub fn run_onnx(model: Model, target: onnx::Target, inputs: &Inputs, args: &OutputArgs) -> Result<()> {
    if !args.dry_run {
        inputs.check_folder(&target.output_path(&model), args.force)?;
    }
    let pool = thread_pool(args.threads)?;
    let plan = pool.install(|| OnnxPlan::new(model, target)).at(Place::Model)?;
    args.console().warn_of(&plan.sidecars.warnings);
    let outline = plan.outline();
    let written = carry_out(&outline, args, &pool, |bar| onnx::write(&plan, bar, args.console()))?;
    let Some((folder, elapsed)) = written else { return Ok(()) };
    folder.commit().at(Place::Output)?;
    report::written::print(&outline, elapsed, args.json, None)
}

/// Does what was planned, under a bar and on the workers: what came of it and the time it took. A dry run prints the plan
/// instead.
fn carry_out<T: Send>(
    outline: &Outline,
    args: &OutputArgs,
    pool: &ThreadPool,
    work: impl FnOnce(&ProgressBar) -> Result<T> + Send,
) -> Result<Option<(T, Duration)>> {
    if args.dry_run {
        report::plan::print(outline, args.json)?;
        return Ok(None);
    }
    let started = Instant::now();
    let bar = args.console().bar(outline.source_bytes, "quantizing");
    let done = pool.install(|| work(&bar)).at(Place::Output)?;
    bar.finish_and_clear();
    Ok(Some((done, started.elapsed())))
}

fn report_fallbacks(plan: &Plan, console: Console) {
    let fallbacks: Vec<_> = plan.tensors.iter().filter(|t| t.fallback_from.is_some()).collect();
    if let Some(first) = fallbacks.first() {
        let from = first.fallback_from.map(|d| d.name()).unwrap_or_default();
        console.warn(&format!(
            "{} of {} tensors have rows that {from} blocks do not divide; they become {} (see --dry-run)",
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

/// The workers the user asked for.
pub fn thread_pool(threads: Option<std::num::NonZeroUsize>) -> Result<ThreadPool> {
    let threads = threads.map_or(0, |n| n.get());
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("starting the worker threads")
}
