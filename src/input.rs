//! Opening the model that the user names.

use std::path::Path;

use anyhow::Result;
use plmconv_formats::Model;

use crate::error::{At, Place};
use crate::progress::Console;

/// Opens a Hugging Face folder or a GGUF, and tells what is odd about it.
///
/// # Errors
/// As [`Model::open`].
pub fn open_model(path: &Path, console: Console) -> Result<Model> {
    let model = Model::open(path).at(Place::Model)?;
    console.warn_of(&model.warnings);
    Ok(model)
}
