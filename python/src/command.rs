//! Commands as the program has them.

use std::ffi::OsString;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use plmconv::embed;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

/// How often Python looks for Ctrl-C and is told how far a command is.
const PULSE: Duration = Duration::from_millis(100);

/// Output, warnings, and of a failure the sentence, the hint and the exit code.
type Answer = (String, Vec<String>, Option<(String, Option<String>, u8)>);

/// Runs a command on a thread of its own, so that Python stays free. `progress` is called with the task, what is done of
/// it, the total and their unit.
///
/// Raises what `progress` raises and KeyboardInterrupt, after the command has ended and cleared up.
#[pyfunction]
#[pyo3(signature = (arguments, progress=None))]
pub fn run(py: Python<'_>, arguments: Vec<OsString>, progress: Option<Py<PyAny>>) -> PyResult<Answer> {
    let (sender, receiver) = channel();
    let worker = thread::spawn(move || {
        let arguments = std::iter::once(OsString::from("plmconv")).chain(arguments);
        // Whoever waited may be gone.
        let _ = sender.send(embed::run(arguments));
    });
    let receiver = std::sync::Mutex::new(receiver);
    let wait = || receiver.lock().unwrap_or_else(|e| e.into_inner()).recv_timeout(PULSE);
    let outcome = loop {
        match py.detach(wait) {
            Ok(outcome) => break outcome,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(PyRuntimeError::new_err("plmconv failed in a way it should not"));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
        let told = py.check_signals().and_then(|()| tell(py, progress.as_ref()));
        if let Err(error) = told {
            embed::stop();
            py.detach(|| worker.join()).ok();
            return Err(error);
        }
    };
    let failure = outcome.failure.map(|failure| (failure.message, failure.hint, failure.exit_code));
    Ok((outcome.output, outcome.warnings, failure))
}

fn tell(py: Python<'_>, progress: Option<&Py<PyAny>>) -> PyResult<()> {
    let Some(progress) = progress else { return Ok(()) };
    for at in embed::snapshots() {
        progress.call1(py, (at.task, at.done, at.total, at.unit.name()))?;
    }
    Ok(())
}

/// The program itself, with the terminal as its own; returns its exit code.
#[pyfunction]
pub fn main(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| embed::main(arguments))
}
