//! One thin file per subcommand.

mod calibrate;
mod checked;
mod convert;
mod generate;
mod inspect;
mod perplexity;
mod quantize;
mod reference;
mod sparsity;
mod validate;
mod verify;
mod write;

use anyhow::Result;

use crate::args::Command;
use crate::interrupt;

/// Runs a command.
pub fn run(command: Command) -> Result<()> {
    // What writes nothing has nothing to clean up.
    if !matches!(command, Command::Inspect(_) | Command::Perplexity(_) | Command::Generate(_)) {
        interrupt::listen()?;
    }
    match command {
        Command::Quantize(args) => quantize::run(&args),
        Command::Calibrate(args) => calibrate::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Reference(args) => reference::run(&args),
        Command::Generate(args) => generate::run(&args),
    }
}
