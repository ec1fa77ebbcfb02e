//! `plmconv calibrate MODEL --text FILE -o STATS.gguf`, or with `--self N`

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use plmconv_calibrate::statistics::{Statistics, merge};
use plmconv_calibrate::{Calibration, CalibrationText, Destination, Sample};
use plmconv_formats::Model;
use plmconv_formats::atomic::follow_links;

use super::write::thread_pool;
use crate::args::{CalibrateArgs, SampleArgs};
use crate::error::{At, Place};
use crate::evaluation::read_text;
use crate::input::open_model;
use crate::interrupt;
use crate::outputs::Inputs;
use crate::progress::{Console, Watch};

pub fn run(args: &CalibrateArgs) -> Result<()> {
    let inputs: Inputs = args.model.iter().chain(&args.text).chain(&args.merge).collect();
    let output = follow_links(&args.output)?;
    inputs.check_file(&output, args.force)?;
    if !args.merge.is_empty() {
        return run_merge(&args.merge, &output, args.force).at(Place::StatisticsOutput);
    }
    let console = Console { quiet: args.quiet, verbose: false };
    let path = args.model.as_ref().context("MODEL is missing")?;
    let model = open_model(path, console)?;
    let text = read_text_of(&args.text, args.self_tokens, &args.sample)?;
    let to = Destination { path: &output, overwrite: args.force, resume: args.resume };
    thread_pool(args.threads)?.install(|| run_text(&model, &text, to, console).at(Place::StatisticsOutput))
}

fn run_merge(paths: &[PathBuf], output: &Path, overwrite: bool) -> Result<()> {
    let open = |path: &PathBuf| Statistics::open(path).at(Place::Statistics);
    let files = paths.iter().map(open).collect::<Result<Vec<_>>>()?;
    Ok(merge(&files, output, overwrite)?)
}

/// Runs the text through `model` and writes the statistics.
///
/// # Errors
/// As [`Calibration`], with Ctrl-C as what stops it.
pub fn run_text(model: &Model, text: &CalibrationText, to: Destination<'_>, console: Console) -> Result<()> {
    let calibration = Calibration::new(model, text)?;
    let (tokens, started) = (calibration.tokens(), Instant::now());
    // From here on there may be finished layers to keep.
    let _stoppable = interrupt::stoppable();
    calibration.run(to, &Watch::new(console))?;
    console.note(&format!("calibrated on {tokens} tokens in {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Reads `files`; `written` more tokens are written by the model itself.
///
/// # Errors
/// Files that cannot be read, or are not UTF-8.
pub fn read_text_of(
    files: &[PathBuf],
    written: Option<NonZeroUsize>,
    sample: &SampleArgs,
) -> Result<CalibrationText> {
    let texts = files.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
    let SampleArgs { calibration_ctx: window, calibration_chunks: windows, seed } = *sample;
    Ok(CalibrationText::new(texts, written.map(NonZeroUsize::get), Sample { window, windows, seed }))
}
