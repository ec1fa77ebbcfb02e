//! `plmconv`: parse, run, exit code.

// `terminal` is where all printing goes through.
#![deny(clippy::print_stderr, clippy::print_stdout)]

#[macro_use]
mod terminal;

mod args;
mod budget;
mod commands;
mod error;
mod evaluation;
mod guidance;
mod layouts;
mod onnx;
mod passes;
mod pipeline;
mod plan;
mod progress;
mod report;
mod resume;
mod sensitivity;
mod statistics;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::try_parse().unwrap_or_else(|error| error::usage(&error));
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
}
