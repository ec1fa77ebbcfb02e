//! What was changed in a file's metadata.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::inspect::{MetadataValue, shown};
use super::print_document;
use crate::edit::Change;
use crate::terminal::one_line;

#[derive(Serialize)]
struct EditJson<'a> {
    /// Empty if nothing was to be written.
    files: &'a [PathBuf],
    changes: Vec<ChangeJson<'a>>,
}

#[derive(Serialize)]
struct ChangeJson<'a> {
    key: &'a str,
    before: Option<MetadataValue<'a>>,
    after: Option<MetadataValue<'a>>,
}

/// Prints the files and the changes.
pub fn print(files: &[PathBuf], changes: &[Change], json: bool) -> Result<()> {
    if json {
        let changes = changes.iter().map(|change| ChangeJson {
            key: &change.key,
            before: change.before.as_ref().map(MetadataValue::Gguf),
            after: change.after.as_ref().map(MetadataValue::Gguf),
        });
        return print_document("edit", &EditJson { files, changes: changes.collect() });
    }
    for file in files {
        say!("{}", file.display());
    }
    for change in changes {
        let value = |value: &Option<_>| match value {
            Some(value) => shown(MetadataValue::Gguf(value), false),
            None => Ok("none".to_string()),
        };
        say!("  {}: {} -> {}", one_line(&change.key), value(&change.before)?, value(&change.after)?);
    }
    Ok(())
}
