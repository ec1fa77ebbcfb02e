//! The program `plmconv` as a library, so that main.rs is a call and the fuzz targets reach what reads files.
//! Nothing here is an interface that stays.

#![doc(hidden)]

mod args;
mod budget;
mod commands;
mod error;
pub mod evaluation;
mod guidance;
mod input;
mod interrupt;
mod layouts;
pub mod onnx;
mod outputs;
mod passes;
mod pipeline;
pub mod plan;
mod progress;
mod readback;
mod report;
pub mod resume;
mod sensitivity;
pub mod statistics;

use std::process::ExitCode;

use clap::Parser;

/// Parses the arguments, runs the command, and says which code the process ends with.
pub fn run() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
}
