//! `verify`

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::args::VerifyArgs;
use crate::error::UsageError;
use crate::input::ModelInput;
use crate::run::Run;

/// A file beside what it was made from.
pub struct VerifyRequest {
    pub file: PathBuf,
    pub model: ModelInput,
    /// What guided its rounding.
    pub statistics: Option<PathBuf>,
    pub imatrix: Option<PathBuf>,
    /// Metadata keys, or files of a folder, that may differ.
    pub except: Vec<String>,
    pub run: Run,
}

impl VerifyRequest {
    pub(super) fn new(args: VerifyArgs) -> Result<VerifyRequest> {
        let real = |path: &Path| path.canonicalize().ok();
        if real(&args.file).is_some_and(|file| real(&args.model) == Some(file)) {
            let hint = "MODEL is what FILE was made from: the checkpoint, or its GGUF of f32, f16 or bf16";
            return Err(UsageError::with_hint("FILE and MODEL are the same", hint).into());
        }
        let run = super::run(&args.run, false);
        Ok(VerifyRequest {
            run,
            file: args.file,
            model: super::model(&args.model, &args.adapters.lora, run.console)?,
            statistics: args.stats,
            imatrix: args.imatrix,
            except: args.except,
        })
    }
}

/// A file has to be given where its digest is known, and only there.
///
/// # Errors
/// It is missing, or given where nothing needs it.
pub fn refuse_unasked(flag: &str, what: &str, given: Option<&Path>, wanted: Option<&str>) -> Result<()> {
    let (message, hint) = match (given, wanted) {
        (None, Some(digest)) => (
            format!("the file was rounded by {what}, which verifying needs: SHA-256 {digest}"),
            format!("give the file with {flag}; docs/verify.md says how to get one again"),
        ),
        (Some(path), None) => {
            (format!("{}: the file was not rounded by {what}", path.display()), format!("leave out {flag}"))
        }
        _ => return Ok(()),
    };
    Err(UsageError::with_hint(message, hint).into())
}
