//! What the programs here have in common on the command line.

use std::error::Error;
use std::num::NonZeroUsize;
use std::process::ExitCode;

/// The number of cores: what `--threads` is by default.
pub fn all_cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Prints the error, if there is one, and says which code the process ends with.
pub fn finish(result: Result<(), Box<dyn Error>>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
