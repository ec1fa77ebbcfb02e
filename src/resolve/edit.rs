//! `edit`

use std::path::PathBuf;

use anyhow::Result;
use plmconv_formats::small_file;

use crate::args::EditArgs;
use crate::edit::Edits;
use crate::error::{At, Place, UsageError};
use crate::outputs::Inputs;
use crate::progress::Console;

/// A GGUF's metadata in another form.
pub struct EditRequest {
    pub file: PathBuf,
    pub edits: Edits,
    /// Elsewhere than in place of the file.
    pub output: Option<PathBuf>,
    pub overwrite: bool,
    pub dry_run: bool,
    pub json: bool,
    pub inputs: Inputs,
    pub console: Console,
}

impl EditRequest {
    pub(super) fn new(args: EditArgs) -> Result<EditRequest> {
        let set = args.set.iter().map(|text| key_and_value(text)).collect::<Result<_>>()?;
        let template = |path: &PathBuf| -> Result<String> {
            small_file::utf8(path, small_file::read(path).at(Place::Template)?).at(Place::Template)
        };
        let chat_template = args.chat_template.as_ref().map(template).transpose()?;
        let edits = Edits { set, remove: args.remove, chat_template };
        if edits.is_empty() {
            let hint =
                "give --set KEY=VALUE, --remove KEY or --chat-template FILE; inspect shows what is there";
            return Err(UsageError::with_hint("nothing to edit", hint).into());
        }
        Ok(EditRequest {
            inputs: std::iter::once(&args.file).chain(&args.chat_template).collect(),
            file: args.file,
            edits,
            output: args.output,
            overwrite: args.force,
            dry_run: args.dry_run,
            json: args.json,
            console: Console { quiet: args.quiet, verbose: false },
        })
    }
}

fn key_and_value(text: &str) -> Result<(String, String)> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => {
            Err(UsageError::with_hint(format!("`{text}` is not KEY=VALUE"), "e.g. general.name=Mine").into())
        }
    }
}
