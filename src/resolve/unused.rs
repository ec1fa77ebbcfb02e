//! Flags that have no effect where they are given. A warning names them, since the user expects something from
//! it. Flags that only permit something (`--force`) or choose how much is printed are left alone.

use crate::args::{
    CalibrateArgs, EffortArg, EvaluatorArgs, InspectArgs, PartArg, QuantFormatArg, QuantizeArgs,
};
use crate::args::{SampleArgs, WindowArgs};
use crate::progress::Console;

/// A flag, and whether it was given.
type Flag = (&'static str, bool);

/// Warns of each given flag that it has no effect, and says why.
fn warn(flags: &[Flag], why: &str, console: Console) {
    for (flag, _) in flags.iter().filter(|(_, given)| *given) {
        console.warn(&format!("{flag} has no effect {why}"));
    }
}

pub(super) fn warn_of_quantize(args: &QuantizeArgs, console: Console) {
    let measures = !args.calibrate.is_empty() || args.self_tokens.is_some();
    let effort = ("--effort", args.effort.is_some());
    let without = ("--without", !args.without.is_empty());
    let has_statistics = measures || args.stats.is_some();
    let is_guided = has_statistics && args.effort != Some(EffortArg::Fast);
    if !has_statistics {
        warn(&[effort, without], "without --calibrate, --self or --stats", console);
    } else if !is_guided {
        let feedback = args.without.iter().any(|part| *part != PartArg::Balance);
        let why = "on error feedback with --effort fast, which has none";
        warn(&[("--without", feedback)], why, console);
    }
    warn_of_sample(&args.sample, measures, !args.calibrate.is_empty(), console);
    if !is_guided && !measures {
        let why = "here: only a run that is guided by statistics keeps what it has finished";
        warn(&[("--resume", args.resume)], why, console);
    }
    if args.blocks.quant_format == Some(QuantFormatArg::Qdq) {
        let level = ("--accuracy-level", args.blocks.accuracy_level.is_some());
        warn(&[level], "with --quant-format qdq, which has no MatMulNBits nodes", console);
    }
}

fn warn_of_sample(sample: &SampleArgs, measures: bool, has_texts: bool, console: Console) {
    let chunks = ("--calibration-chunks", sample.calibration_chunks.is_some());
    if !measures {
        let others =
            [("--calibration-ctx", sample.calibration_ctx.is_some()), ("--seed", sample.seed.is_some())];
        warn(&[&others[..], &[chunks]].concat(), "without --calibrate or --self", console);
    } else if !has_texts {
        warn(&[chunks], "on text that the model writes itself, all of which is used", console);
    }
}

pub(super) fn warn_of_calibrate(args: &CalibrateArgs, console: Console) {
    let SampleArgs { calibration_ctx, calibration_chunks, seed } = args.sample;
    let chunks = ("--calibration-chunks", calibration_chunks.is_some());
    if !args.merge.is_empty() {
        let flags = [
            ("--calibration-ctx", calibration_ctx.is_some()),
            chunks,
            ("--seed", seed.is_some()),
            ("--threads", args.threads.is_some()),
        ];
        warn(&flags, "with --merge, which runs no text", console);
    } else if args.text.is_empty() {
        warn(&[chunks], "on text that the model writes itself, all of which is used", console);
    }
}

/// `--sparsity` is what runs the model.
pub(super) fn warn_of_inspect(args: &InspectArgs, console: Console) {
    if args.sparsity.is_some() {
        return warn(&[("--verbose", args.verbose)], "with --sparsity", console);
    }
    let WindowArgs { ctx, chunks } = args.windows;
    let windows = [("--ctx", ctx.is_some()), ("--chunks", chunks.is_some())];
    let threads = ("--threads", args.evaluator.threads.is_some());
    let flags = [&windows[..], &[threads], &evaluator_flags(&args.evaluator)].concat();
    warn(&flags, "without --sparsity", console);
}

/// Where ONNX Runtime runs all that is run. `--exact` tells it how to fuse.
pub(super) fn warn_of_evaluator(args: &EvaluatorArgs, console: Console) {
    let flags = [("--kernel", args.kernel.is_some()), ("--attention", args.attention.is_some())];
    warn(&flags, "on an ONNX export, which ONNX Runtime runs", console);
}

fn evaluator_flags(args: &EvaluatorArgs) -> [Flag; 4] {
    [
        ("--kernel", args.kernel.is_some()),
        ("--arithmetic", args.arithmetic.is_some()),
        ("--exact", args.exact),
        ("--attention", args.attention.is_some()),
    ]
}

/// Where no text is generated.
pub(super) fn warn_of_seed(seed: Option<u64>, why: &str, console: Console) {
    warn(&[("--seed", seed.is_some())], why, console);
}
