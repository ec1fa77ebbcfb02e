//! Whoever waits for a long run.

use std::fmt;
use std::path::PathBuf;

use crate::error::{Error, Leftover, Result};

/// Hears how far a run is and what is odd about it, and may stop it. Called from any thread.
pub trait Monitor: Sync {
    /// Whether the run should stop at its next step.
    fn should_stop(&self) -> bool;
    /// `done` of `total` steps of `task` are done.
    fn progress(&self, task: Task, done: usize, total: usize);
    /// Something the user should know of.
    fn notice(&self, notice: &Notice);

    /// Fails if the run should stop.
    ///
    /// # Errors
    /// [`Error::Interrupted`]
    fn check(&self) -> Result<()> {
        if self.should_stop() { Err(Error::Interrupted(Leftover::Nothing)) } else { Ok(()) }
    }
}

/// The parts of a run that take long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The model writes a text; steps are tokens.
    Writing,
    /// Text runs through the layers; steps are passes of one layer.
    Calibrating,
    /// Sensitivities are measured; steps are matrices.
    Measuring,
}

/// What the user should know of.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The text has fewer tokens than the widest matrices have inputs.
    FewTokens {
        /// Tokens of the text.
        tokens: usize,
        /// Inputs of the widest matrices.
        inputs: usize,
        /// What these are called.
        role: &'static str,
    },
    /// Every input of a matrix was zero.
    UnusedMatrix {
        /// Its GGUF name.
        matrix: String,
    },
    /// Neurons that never fired.
    SilentNeurons {
        /// Layers, and how many neurons of each.
        layers: Vec<(usize, usize)>,
    },
    /// An interrupted run's work lies there and is not used.
    EarlierWork {
        /// The kept file.
        path: PathBuf,
    },
    /// A calibration goes on where an interrupted one stopped.
    GoingOn {
        /// Layers that are still to be done.
        layers_left: usize,
    },
    /// Matrices that an importance matrix has no entry for.
    MissingEntries {
        /// The importance matrix.
        path: PathBuf,
        /// GGUF names.
        missing: Vec<String>,
        /// Matrices of the model.
        matrices: usize,
    },
    /// Entries of an importance matrix that are of no matrix of the model.
    StrayEntries {
        /// The importance matrix.
        path: PathBuf,
        /// Their names.
        stray: Vec<String>,
        /// All entries.
        entries: usize,
    },
}

impl Notice {
    /// Whether it is a warning, or only tells what is done.
    pub fn is_warning(&self) -> bool {
        !matches!(self, Notice::GoingOn { .. })
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::FewTokens { tokens, inputs, role } => write!(
                f,
                "{tokens} tokens of text are fewer than the {inputs} inputs of the widest matrices ({role}): \
                 the directions they leave open are damped, and more text gives better results"
            ),
            Notice::UnusedMatrix { matrix } => write!(
                f,
                "every input of `{matrix}` is zero on this text: it is rounded without regard to it"
            ),
            Notice::SilentNeurons { layers } => {
                let layers: Vec<String> =
                    layers.iter().map(|(layer, count)| format!("{count} in layer {layer}")).collect();
                write!(f, "neurons that never fire on this text, so count little: {}", layers.join(", "))
            }
            Notice::EarlierWork { path } => {
                write!(f, "{} holds what an interrupted run had finished", path.display())
            }
            Notice::GoingOn { layers_left } => write!(f, "going on with {layers_left} layers left"),
            Notice::MissingEntries { path, missing, matrices } => write!(
                f,
                "{}: no entry for {} of {matrices} matrices, which are rounded without regard to their inputs: {}",
                path.display(),
                missing.len(),
                some_of(missing)
            ),
            Notice::StrayEntries { path, stray, entries } => write!(
                f,
                "{}: {} of {entries} entries are of no matrix of this model: {}",
                path.display(),
                stray.len(),
                some_of(stray)
            ),
        }
    }
}

/// The first few of `names`, and how many more there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Nobody waits.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Monitor for Silent {
    fn should_stop(&self) -> bool {
        false
    }

    fn progress(&self, _: Task, _: usize, _: usize) {}

    fn notice(&self, _: &Notice) {}
}
