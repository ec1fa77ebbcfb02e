//! Opening the model that the user names.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::model::Merging;
use plmconv_formats::{Adapter, Model};

use crate::error::{At, Place, UsageError};
use crate::passes::adapter::Merged;
use crate::progress::Console;

/// A model that the user names, and what is to be merged into it.
#[derive(Clone, Debug)]
pub struct ModelInput {
    pub path: PathBuf,
    /// In the order in which they are merged.
    pub adapters: Vec<AdapterInput>,
}

/// An adapter's folder, and what it is multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterInput {
    pub path: PathBuf,
    pub scale: f64,
}

impl ModelInput {
    /// A model as it is.
    pub fn plain(path: impl Into<PathBuf>) -> ModelInput {
        ModelInput { path: path.into(), adapters: Vec::new() }
    }

    /// Everything that is read when it is opened.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.path).chain(self.adapters.iter().map(|adapter| &adapter.path))
    }

    /// For what no adapter can be merged into.
    ///
    /// # Errors
    /// There is one; `what` says what the model is.
    pub fn refuse_adapters(&self, what: &str) -> Result<()> {
        if self.adapters.is_empty() {
            return Ok(());
        }
        let message = format!("{}: {what}, into which --lora merges nothing", self.path.display());
        Err(UsageError::with_hint(message, "name the checkpoint's folder, or leave out --lora").into())
    }
}

impl AdapterInput {
    /// `ADAPTER` or `ADAPTER=SCALE`. A folder whose name has a `=` is one.
    ///
    /// # Errors
    /// A scale that is not a number.
    pub fn parse(text: &OsStr) -> Result<AdapterInput> {
        let whole = || AdapterInput { path: text.into(), scale: 1.0 };
        let split = text.to_str().and_then(|text| text.rsplit_once('='));
        let Some((path, scale)) = split.filter(|_| !Path::new(text).exists()) else { return Ok(whole()) };
        match scale.trim().parse::<f64>() {
            Ok(scale) if scale.is_finite() => Ok(AdapterInput { path: path.into(), scale }),
            _ => {
                let message = format!("--lora {}: `{scale}` is not a scale", Path::new(text).display());
                Err(UsageError::with_hint(message, "write ADAPTER or ADAPTER=SCALE, e.g. ./adapter=0.5")
                    .into())
            }
        }
    }
}

/// Opens a Hugging Face folder or a GGUF, merges its adapters into it, and tells what is odd about it.
///
/// # Errors
/// As [`Model::open_merged`] and [`Adapter::open`].
pub fn open_model(input: &ModelInput, console: Console) -> Result<Model> {
    let open = |adapter: &AdapterInput| Adapter::open(&adapter.path, adapter.scale).at(Place::Adapter);
    let adapters = input.adapters.iter().map(open).collect::<Result<Vec<_>>>()?;
    let merging = Merging { adapters: &adapters, merge: &Merged::source };
    let model = Model::open_merged(&input.path, merging).at(Place::Model)?;
    console.warn_of(&model.warnings);
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_follows_the_last_equals_sign() {
        let parse = |text: &str| AdapterInput::parse(OsStr::new(text));
        let adapter = |path: &str, scale| AdapterInput { path: path.into(), scale };
        assert_eq!(parse("a/b").expect("an adapter"), adapter("a/b", 1.0));
        assert_eq!(parse("a/r=8=-0.5").expect("an adapter"), adapter("a/r=8", -0.5));
        assert!(parse("a/r=x").is_err() && parse("a=inf").is_err());
        let dir = tempfile::tempdir().expect("tempdir");
        let named = dir.path().join("r=8");
        std::fs::create_dir(&named).expect("create");
        let found = AdapterInput::parse(named.as_os_str()).expect("an adapter");
        assert_eq!(found, AdapterInput { path: named, scale: 1.0 });
    }
}
