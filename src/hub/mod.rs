//! Models on the Hugging Face hub: from the cache that huggingface_hub keeps, else fetched into it.

mod cache;
#[cfg(feature = "hub")]
mod client;
mod error;
#[cfg(feature = "hub")]
mod fetch;
mod name;
mod settings;
mod wanted;

use std::path::{Path, PathBuf};

pub use error::HubError;
pub use name::HubName;
pub use wanted::Wanted;

use crate::progress::Console;
use cache::Cache;
use settings::Settings;

/// The local path of what the user names: itself if something is there, else the snapshot of the model on the hub
/// that it names. A name that is not there is left alone; its reader reports it.
///
/// # Errors
/// What is neither in the cache nor can be fetched.
pub fn local_path(path: &Path, wanted: Wanted, console: Console) -> Result<PathBuf, HubError> {
    let name = if path.symlink_metadata().is_ok() { None } else { HubName::parse(path) };
    let Some(name) = name else { return Ok(path.into()) };
    let settings = Settings::of_environment()?;
    let cache = Cache::new(&settings.cache, &name);
    let cached = cache.snapshot(&name.revision);
    if let Some(snapshot) = cached.clone().filter(|snapshot| wanted.is_complete(snapshot)) {
        console.note(&format!("{name}: taken from the cache, {}", snapshot.display()));
        return Ok(snapshot);
    }
    if settings.offline {
        // What is there may be all that there is.
        return match cached {
            Some(snapshot) if wanted.may_do(&snapshot) => Ok(snapshot),
            _ => Err(HubError::Offline { name: name.to_string(), cache: cache.folder().into() }),
        };
    }
    fetch(&name, wanted, &cache, &settings, console)
}

#[cfg(feature = "hub")]
use fetch::fetch;

#[cfg(not(feature = "hub"))]
fn fetch(name: &HubName, _: Wanted, cache: &Cache, _: &Settings, _: Console) -> Result<PathBuf, HubError> {
    Err(HubError::NotBuilt { name: name.to_string(), cache: cache.folder().into() })
}
