//! `plmconv`: parse, run, exit code.

mod args;
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
mod statistics;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
}
