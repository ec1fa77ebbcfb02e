//! Arguments become requests. What a command is asked for is resolved here once and as a whole: flags are put
//! together, inputs of the user are read or opened, and places for outputs are checked, so that what can be known to
//! fail has failed before the first long step. Commands decide nothing about arguments.

mod calibrate;
mod convert;
mod edit;
mod evaluation;
mod output;
mod quantize;
mod recipe;
mod shell;
mod size;
mod unused;
mod validate;
mod verify;

use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::args::{Command, RunArgs};
use crate::hub::{self, Wanted};
use crate::input::{AdapterInput, ModelInput};
use crate::progress::Console;
use crate::run::Run;

pub use calibrate::{CalibrateRequest, CalibrateTask};
pub use convert::{ConvertRequest, ConvertTarget};
pub use edit::EditRequest;
pub use evaluation::{
    EvaluatorRequest, GenerateRequest, InspectRequest, PerplexityRequest, ReferenceRequest, SparsityRequest,
};
pub use quantize::{CheckRequest, QuantizeRequest};
pub use recipe::of_recipe;
pub use shell::ShellRequest;
pub use validate::ValidateRequest;
pub use verify::{VerifyRequest, refuse_unasked};

/// A command with everything it needs to run.
pub enum Request {
    Quantize(Box<QuantizeRequest>),
    Calibrate(CalibrateRequest),
    Convert(ConvertRequest),
    Inspect(InspectRequest),
    Perplexity(PerplexityRequest),
    Validate(Box<ValidateRequest>),
    Verify(VerifyRequest),
    Reference(ReferenceRequest),
    Generate(GenerateRequest),
    Edit(EditRequest),
    /// A list, script or page about plmconv itself.
    Shell(ShellRequest),
}

impl Request {
    /// What the arguments ask for. Warns of flags that change nothing.
    ///
    /// # Errors
    /// Flags that contradict each other or mean nothing, inputs that cannot be used, places that cannot be written.
    pub fn new(command: Command) -> Result<Request> {
        Ok(match command {
            Command::Quantize(args) => Request::Quantize(Box::new(QuantizeRequest::new(&args)?)),
            Command::Calibrate(args) => Request::Calibrate(CalibrateRequest::new(&args)?),
            Command::Convert(args) => Request::Convert(ConvertRequest::new(args)?),
            Command::Inspect(args) => Request::Inspect(InspectRequest::new(args)?),
            Command::Perplexity(args) => Request::Perplexity(PerplexityRequest::new(args)?),
            Command::Validate(args) => Request::Validate(Box::new(ValidateRequest::new(args)?)),
            Command::Verify(args) => Request::Verify(VerifyRequest::new(args)?),
            Command::Reference(args) => Request::Reference(ReferenceRequest::new(args)?),
            Command::Generate(args) => Request::Generate(GenerateRequest::new(args)?),
            Command::Edit(args) => Request::Edit(EditRequest::new(args)?),
            Command::Types(args) => Request::Shell(ShellRequest::Types { json: args.json }),
            Command::Completions(args) => Request::Shell(ShellRequest::Completions(args.shell)),
            Command::Man(args) => Request::Shell(ShellRequest::manual(args.command)?),
        })
    }
}

/// How a command runs that streams a model.
fn run(args: &RunArgs, dry_run: bool) -> Run {
    let RunArgs { threads, json, quiet, verbose } = *args;
    Run { threads, json, dry_run, started: Instant::now(), console: Console { quiet, verbose } }
}

/// The model that the user calls `path`, on disk or on the hub, with the adapters that `--lora` names.
fn model(path: &Path, lora: &[OsString], console: Console) -> Result<ModelInput> {
    let adapter = |text: &OsString| -> Result<AdapterInput> {
        let adapter = AdapterInput::parse(text)?;
        let path = hub::local_path(&adapter.path, Wanted::Adapter, console)?;
        Ok(AdapterInput { path, ..adapter })
    };
    let adapters = lora.iter().map(adapter).collect::<Result<_>>()?;
    Ok(ModelInput { path: hub::local_path(path, Wanted::Model, console)?, adapters })
}
