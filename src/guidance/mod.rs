//! What guides the rounding: an importance matrix, or statistics, which may have to be measured first.

mod own;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use plmconv_calibrate::statistics::Statistics;
use plmconv_calibrate::{
    Calibration, CalibrationText, Destination, Direction, Menu, Rounding, Sample, Sensitivity,
};
use plmconv_formats::{Imatrix, Model};
use plmconv_quant::feedback::Effort;

use crate::error::{At, Place};
use crate::evaluation::read_text;
use crate::interrupt;
use crate::passes::{self, Pass};
use crate::progress::{Console, Watch};
use crate::run::Run;

pub use own::OwnStatistics;

/// What guides the rounding, and how.
pub struct Guidance {
    pub by: Source,
    /// `None`: columns are weighed by their importance, and no errors are made up for.
    pub effort: Option<Effort>,
    /// Left out of the feedback.
    pub without: Vec<Direction>,
    /// Channels are rescaled before they are rounded.
    pub balance: bool,
}

/// Where guidance comes from.
pub enum Source {
    /// Each weight is rounded by itself.
    Nothing,
    Imatrix {
        imatrix: Imatrix,
        path: PathBuf,
    },
    Statistics(Box<Statistics>),
    /// Statistics that are measured first.
    Text(TextSource),
}

/// A text to calibrate on. It is read once the model is open, so that a change of the model from then on is noticed.
pub struct TextSource {
    pub files: Vec<PathBuf>,
    /// Tokens that the model writes itself.
    pub written: Option<usize>,
    pub sample: Sample,
}

impl TextSource {
    /// Reads the files.
    ///
    /// # Errors
    /// Files that cannot be read, or are not UTF-8.
    pub fn read(&self) -> Result<CalibrationText> {
        let texts = self.files.iter().map(|path| read_text(path)).collect::<Result<Vec<_>>>()?;
        Ok(CalibrationText::new(texts, self.written, self.sample))
    }
}

impl Guidance {
    /// Rounding to the nearest.
    pub fn none() -> Guidance {
        Guidance { by: Source::Nothing, effort: None, without: Vec::new(), balance: false }
    }

    /// Whether columns will differ in importance.
    pub fn has_importance(&self) -> bool {
        !matches!(self.by, Source::Nothing)
    }

    /// Whether text has to run through the model first.
    pub fn is_measured(&self) -> bool {
        matches!(self.by, Source::Text(_))
    }

    /// The rounding for `model` as `passes` leave it. Where a text has to be run for it, what that gives is `own`.
    ///
    /// # Errors
    /// Statistics or an importance matrix of another model; what running a text may end with.
    pub fn rounding(self, model: &Model, passes: &[Pass], own: &OwnStatistics, run: Run) -> Result<Rounding> {
        let Guidance { by, effort, without, balance } = self;
        let rounding = match by {
            Source::Nothing => Rounding::default(),
            Source::Imatrix { imatrix, path } => {
                Rounding::from_imatrix(imatrix, &path, model, &Watch::new(run.console))?
            }
            Source::Statistics(statistics) => {
                let rewritten = rewritten(model, passes)?;
                Rounding::from_statistics(*statistics, rewritten.as_ref().unwrap_or(model), effort, balance)?
            }
            Source::Text(text) => {
                let text = text.read()?;
                let rewritten = rewritten(model, passes)?;
                let model = rewritten.as_ref().unwrap_or(model);
                Rounding::from_statistics(measured(&text, model, own, run)?, model, effort, balance)?
            }
        };
        Ok(rounding.without(without))
    }
}

/// The model as the passes leave it, if there are any: of a copy, since the plan rewrites the open one itself.
fn rewritten(model: &Model, passes: &[Pass]) -> Result<Option<Model>> {
    if passes.is_empty() {
        return Ok(None);
    }
    Ok(Some(passes::apply(model.clone(), passes)?))
}

/// Statistics of `model` on `text`: what an interrupted run had measured, or measured now.
fn measured(text: &CalibrationText, model: &Model, own: &OwnStatistics, run: Run) -> Result<Statistics> {
    let path = own.path.as_deref().expect("a place for what is measured");
    if !own.are_there(path, &text.request(model)?)? {
        // What a killed run left there may be replaced.
        let to = Destination { path, overwrite: Statistics::open(path).is_ok(), resume: own.resume };
        let started = Instant::now();
        run.pool()?.install(|| calibrate(model, text, to, run.console))?;
        run.console.note(&format!("calibrated in {:.1} s", started.elapsed().as_secs_f64()));
    }
    own.announce();
    Statistics::open(path).at(Place::Statistics)
}

/// Runs the text through `model` and writes the statistics.
///
/// # Errors
/// As [`Calibration`], with Ctrl-C as what stops it.
pub fn calibrate(model: &Model, text: &CalibrationText, to: Destination<'_>, console: Console) -> Result<()> {
    let calibration = Calibration::new(model, text)?;
    // From here on there may be finished layers to keep.
    let _stoppable = interrupt::stoppable();
    Ok(calibration.run(to, &Watch::new(console))?)
}

/// How much each way of `menu` to store it would harm each matrix of `model`.
///
/// # Errors
/// As [`Sensitivity::measure`], with Ctrl-C as what stops it.
pub fn sensitivity(model: &Model, rounding: &Rounding, menu: Menu, run: Run) -> Result<Sensitivity> {
    // It looks for a signal between two matrices.
    let _stoppable = interrupt::stoppable();
    let mut tensors = model.tensors.clone();
    if let Some(balance) = rounding.balance() {
        passes::balance::apply(&mut tensors, balance);
    }
    let watch = Watch::new(run.console);
    Ok(run.pool()?.install(|| Sensitivity::measure(&tensors, rounding, menu, &watch))?)
}
