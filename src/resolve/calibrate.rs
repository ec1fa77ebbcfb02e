//! `calibrate`

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Context, Result};
use plmconv_calibrate::Sample;
use plmconv_calibrate::statistics::Statistics;
use plmconv_formats::atomic::follow_links;

use super::unused;
use crate::args::{CalibrateArgs, SampleArgs};
use crate::error::{At, Place};
use crate::guidance::TextSource;
use crate::input::ModelInput;
use crate::outputs::Inputs;
use crate::progress::Console;

/// Statistics in a file.
pub struct CalibrateRequest {
    pub task: CalibrateTask,
    pub output: PathBuf,
    pub overwrite: bool,
    pub json: bool,
    pub console: Console,
}

/// Where statistics come from.
pub enum CalibrateTask {
    /// Text that runs through a model.
    Text { model: ModelInput, text: TextSource, resume: bool, threads: Option<NonZeroUsize> },
    /// Others, added up.
    Merge(Vec<Statistics>),
}

impl CalibrateRequest {
    pub(super) fn new(args: &CalibrateArgs) -> Result<CalibrateRequest> {
        let console = Console { quiet: args.quiet, verbose: false };
        let model = |path: &PathBuf| super::model(path, &args.adapters.lora, console);
        let model = args.model.as_ref().map(model).transpose()?;
        let models = model.iter().flat_map(ModelInput::paths);
        let inputs: Inputs = models.chain(&args.text).chain(&args.merge).collect();
        let output = follow_links(&args.output).at(Place::StatisticsOutput)?;
        inputs.check_file(&output, args.force)?;
        let task = if args.merge.is_empty() {
            CalibrateTask::Text {
                model: model.context("MODEL is missing")?,
                text: text_source(&args.text, args.self_tokens, &args.sample),
                resume: args.resume,
                threads: args.threads,
            }
        } else {
            let open = |path: &PathBuf| Statistics::open(path).at(Place::Statistics);
            CalibrateTask::Merge(args.merge.iter().map(open).collect::<Result<_>>()?)
        };
        unused::warn_of_calibrate(args, console);
        Ok(CalibrateRequest { task, output, overwrite: args.force, json: args.json, console })
    }
}

/// The texts in `files`; `written` more tokens are written by the model itself.
pub(super) fn text_source(
    files: &[PathBuf],
    written: Option<NonZeroUsize>,
    sample: &SampleArgs,
) -> TextSource {
    let sample = Sample {
        window: sample.calibration_ctx.unwrap_or(256),
        windows: sample.calibration_chunks.unwrap_or(128),
        seed: sample.seed.unwrap_or(0),
    };
    TextSource { files: files.to_vec(), written: written.map(NonZeroUsize::get), sample }
}
