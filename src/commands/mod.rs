//! One thin file per subcommand.

mod calibrate;
mod checked;
mod convert;
mod edit;
mod generate;
mod inspect;
mod perplexity;
mod quantize;
mod reference;
mod shell;
mod sparsity;
mod validate;
mod verify;
mod write;

use anyhow::Result;

use crate::resolve::Request;

/// Runs a command.
pub fn run(request: Request) -> Result<()> {
    match request {
        Request::Quantize(request) => quantize::run(*request),
        Request::Calibrate(request) => calibrate::run(request),
        Request::Convert(request) => convert::run(request),
        Request::Inspect(request) => inspect::run(&request),
        Request::Perplexity(request) => perplexity::run(&request),
        Request::Validate(request) => validate::run(*request),
        Request::Verify(request) => verify::run(&request),
        Request::Reference(request) => reference::run(&request),
        Request::Generate(request) => generate::run(&request),
        Request::Edit(request) => edit::run(&request),
        Request::Shell(request) => shell::run(&request),
    }
}
