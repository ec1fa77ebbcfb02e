//! The program `plmconv` as a library, so that main.rs is a call and the fuzz targets reach what reads files.
//! Nothing here is an interface that stays; [`embed`] is what the Python module is made of.

#![doc(hidden)]
// `terminal` is where all printing goes through.
#![deny(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod terminal;

mod args;
mod checkpoint;
mod commands;
mod edit;
pub mod embed;
mod error;
mod evaluation;
mod guidance;
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "only fetching needs it"))]
mod hub;
mod input;
mod interrupt;
mod layouts;
mod log;
pub mod onnx;
mod outputs;
mod passes;
mod pipeline;
mod plan;
mod progress;
mod readback;
mod recipe;
mod report;
mod resolve;
mod run;
mod target;
mod verification;

use std::ffi::OsString;

use plmconv_quant::simd::Level;

use crate::args::Command;
use crate::resolve::Request;

/// The environment variable that names the instruction set to use: it changes the speed, and no byte of any output.
const INSTRUCTIONS: &str = "PLMCONV_SIMD";

/// Runs the command of these arguments, the first of which is the program's name, and says which code the process ends
/// with.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    match choose_instructions().and_then(|()| execute(arguments)) {
        Ok(()) => 0,
        Err(e) => error::report(&e),
    }
}

/// Runs the command of these arguments, the first of which is the program's name. Ends the process where they are
/// none.
pub fn execute(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    let (command, log_format) = args::parse(arguments);
    log::choose(log_format);
    // What writes nothing has nothing to clean up.
    let writes_nothing = matches!(
        command,
        Command::Inspect(_)
            | Command::Perplexity(_)
            | Command::Generate(_)
            | Command::Types(_)
            | Command::Completions(_)
            | Command::Man(_)
    );
    if !writes_nothing {
        interrupt::listen()?;
    }
    commands::run(Request::new(command)?)
}

/// Takes the instruction set that [`INSTRUCTIONS`] names, if it is set.
fn choose_instructions() -> anyhow::Result<()> {
    if let Some(name) = std::env::var_os(INSTRUCTIONS) {
        let level: Level = name.to_string_lossy().parse().map_err(|e| {
            let hint = format!("unset {INSTRUCTIONS} to take the fastest one there is");
            error::UsageError::with_hint(format!("{INSTRUCTIONS}: {e}"), hint)
        })?;
        level.choose();
    }
    Ok(())
}
