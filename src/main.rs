//! `plmconv`: parse, run, exit code.

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
mod recipe;
mod report;
mod resume;
mod sensitivity;
mod statistics;
mod verification;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match commands::run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
}
