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
mod report;
mod resume;
mod sensitivity;
mod statistics;

use std::process::ExitCode;

use clap::Parser;
use plmconv_quant::simd::Level;

/// The environment variable that names the instruction set to use: it changes the speed, and no byte of any output.
const INSTRUCTIONS: &str = "PLMCONV_SIMD";

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match choose_instructions().and_then(|()| commands::run(cli.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => error::report(&e),
    }
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
