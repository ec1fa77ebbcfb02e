//! Commands inside another program: results and warnings come back as values, nothing is printed, and no signal is
//! caught. The Python module is made of this.

use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};

use crate::log::{self, Severity};
use crate::report::Capture;
use crate::resolve::Request;
use crate::{args, commands, error, interrupt};

pub use crate::error::Failure;
pub use crate::progress::{Snapshot, Unit, snapshots};
pub use crate::run as main;

/// What came of a command.
#[derive(Debug)]
pub struct Outcome {
    /// What it would have printed on stdout.
    pub output: String,
    /// Warnings in their order.
    pub warnings: Vec<String>,
    /// How it failed, if it did.
    pub failure: Option<Failure>,
}

/// One command at a time: what they print and Ctrl-C are of the whole process.
static RUNNING: Mutex<()> = Mutex::new(());

/// Runs the command of these arguments, the first of which is the program's name. Waits for one that runs already.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Outcome {
    let _running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    interrupt::clear();
    log::keep();
    let capture = Capture::start();
    let _stoppable = interrupt::stoppable();
    let result = execute(arguments);
    let output = capture.finish();
    let warnings = log::take_kept().into_iter();
    let warnings = warnings.filter(|(level, _)| *level == Severity::Warning).map(|(_, line)| line).collect();
    Outcome { output, warnings, failure: result.err() }
}

fn execute(arguments: impl IntoIterator<Item = OsString>) -> Result<(), Failure> {
    let command = args::parse_quietly(arguments).map_err(Failure::of_usage)?;
    Request::new(command).and_then(commands::run).map_err(|error| error::failure(&error))
}

/// Ends the command that runs, which then fails as after Ctrl-C.
pub fn stop() {
    interrupt::request();
}
