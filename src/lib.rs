//! The program `plmconv` as a library, so that main.rs is a call and the fuzz targets reach what reads files.
//! Nothing here is an interface that stays.

#![doc(hidden)]

mod args;
mod budget;
mod commands;
mod error;
pub mod evaluation;
mod guidance;
mod interrupt;
mod layouts;
pub mod onnx;
mod outputs;
mod passes;
mod pipeline;
pub mod plan;
pub mod progress;
mod readback;
mod report;
pub mod resume;
mod sensitivity;
pub mod statistics;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

/// Parses the arguments, runs the command, and says which code the process ends with.
pub fn run() -> ExitCode {
    match execute(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
}

/// Runs the command of these arguments, the first of which is the program's name. Ends the process where they are
/// none.
pub fn execute(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    commands::run(args::Cli::parse_from(arguments).command)
}
