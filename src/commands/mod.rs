//! One thin file per subcommand.

mod calibrate;
mod convert;
mod inspect;
mod quantize;
mod write;

use anyhow::Result;

use crate::args::Command;

/// Runs a command.
pub fn run(command: Command) -> Result<()> {
    match command {
        Command::Quantize(args) => quantize::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
    }
}
