//! `types`, `completions` and `man`

use anyhow::Result;
use clap_complete::Shell;

use crate::args;
use crate::error::UsageError;

/// What is printed.
pub enum ShellRequest {
    Types {
        json: bool,
    },
    Completions(Shell),
    /// A page in roff.
    Manual(Vec<u8>),
}

impl ShellRequest {
    pub(super) fn manual(command: Option<String>) -> Result<ShellRequest> {
        let page = args::manual(command.as_deref())?;
        let name = command.unwrap_or_default();
        page.map(ShellRequest::Manual).ok_or_else(|| {
            UsageError::with_hint(
                format!("`{name}` is not a command of plmconv"),
                "plmconv --help lists them",
            )
            .into()
        })
    }
}
