//! Statistics that a run measures for itself.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_calibrate::Leftover;
use plmconv_calibrate::resume::{self, partial_path, with_suffix};
use plmconv_calibrate::statistics::Statistics;

use crate::error::{ParityFailure, UsageError, interrupted, leftover};
use crate::interrupt;
use crate::outputs::Inputs;
use crate::run::Run;

/// Statistics that `quantize` measures itself: a file beside the output, kept only for a run that goes on.
pub struct OwnStatistics {
    /// Where this run's are, if it measures.
    pub path: Option<PathBuf>,
    /// Where an interrupted run's are, that this run does not go on with; they go when its output is complete.
    earlier: Option<PathBuf>,
    /// This run goes on with what an interrupted one had measured.
    goes_on: bool,
    /// The user asked for that, whether there is any or not.
    pub resume: bool,
    dry_run: bool,
}

impl OwnStatistics {
    /// Beside `output`; this run may `resume` what an interrupted one had measured. Warns of such where it does not.
    ///
    /// # Errors
    /// A file of one of `inputs` is in the way.
    pub fn beside(output: &Path, inputs: &Inputs, resume: bool, run: Run) -> Result<OwnStatistics> {
        let path = with_suffix(output, ".partial.statistics");
        inputs.refuse(&path)?;
        let kept = path.exists() || partial_path(&path).exists();
        let goes_on = kept && resume;
        let own = OwnStatistics { path: Some(path), earlier: None, goes_on, resume, dry_run: run.dry_run };
        Ok(match &own.path {
            Some(path) if kept && !goes_on => {
                run.console.warn(&format!(
                    "{} holds what an interrupted run had measured: --resume continues from it. This run starts \
                     over; the file is removed when this run is complete, and stays if it is interrupted",
                    path.display()
                ));
                OwnStatistics {
                    path: Some(with_suffix(output, ".partial.new.statistics")),
                    earlier: own.path,
                    ..own
                }
            }
            _ => own,
        })
    }

    /// Whether an interrupted run measured them already.
    ///
    /// # Errors
    /// They are of another run.
    pub fn are_there(&self, path: &Path, request: &str) -> Result<bool> {
        if !self.goes_on || !path.exists() {
            return Ok(false);
        }
        if Statistics::open(path).is_ok_and(|found| found.answers(request)) {
            return Ok(true);
        }
        let message =
            format!("{}: not statistics that a run on this model with these arguments kept", path.display());
        Err(UsageError::with_hint(message, "leave out --resume to start over").into())
    }

    /// What a signal leaves there from now on.
    pub fn announce(&self) {
        interrupt::keeps(self.earlier.as_deref().or(self.path.as_deref()));
    }

    /// For what measures nothing.
    pub fn none() -> OwnStatistics {
        OwnStatistics { path: None, earlier: None, goes_on: false, resume: false, dry_run: true }
    }

    /// Removes them, unless the run was interrupted and can go on with them.
    pub fn close(&self, result: Result<()>) -> Result<()> {
        interrupt::keeps(None);
        let Some(path) = &self.path else { return result };
        let was_interrupted = result.as_ref().err().is_some_and(|error| leftover(error).is_some());
        let ended = result.as_ref().err().is_none_or(|error| error.is::<ParityFailure>());
        let is_complete = ended && !self.dry_run;
        let Some(earlier) = &self.earlier else {
            if was_interrupted && path.is_file() {
                return result.map_err(|error| keeping(error, path));
            }
            if is_complete || !(was_interrupted || self.goes_on) {
                remove(path)?;
            }
            return result;
        };
        remove(path)?;
        if is_complete {
            remove(earlier)?;
        }
        // What was kept of these statistics has just been removed; what was kept of the output is still there.
        result.map_err(|error| match leftover(&error) {
            Some(Leftover::Kept(kept)) if !kept.exists() => interrupted(Leftover::InTheWay(earlier.clone())),
            Some(Leftover::Nothing) => interrupted(Leftover::InTheWay(earlier.clone())),
            _ => error,
        })
    }
}

/// Ctrl-C, with the statistics at `path` still there.
fn keeping(error: anyhow::Error, path: &Path) -> anyhow::Error {
    match leftover(&error) {
        Some(Leftover::Nothing) => interrupted(Leftover::Kept(path.into())),
        _ => error,
    }
}

/// Removes statistics and what was finished of them; a file that is not ours stays.
fn remove(path: &Path) -> Result<()> {
    resume::discard(path);
    if Statistics::open(path).is_ok() {
        std::fs::remove_file(path).map_err(plmconv_formats::Error::io(path))?;
    }
    Ok(())
}
