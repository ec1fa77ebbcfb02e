//! Telling an earlier folder of plmconv's from any other.

use std::path::Path;

use super::{INDEX, WRITER};
use crate::onnx::is_companion;
use crate::safetensors::SafetensorsFile;

/// Says why a folder must not be replaced by a checkpoint; an earlier one of plmconv's may be, and an empty folder.
///
/// A folder is an earlier one if every `.safetensors` file in it says that plmconv wrote it, there is one at least,
/// and there is nothing else but an index and what comes along with a model, by its names.
///
/// # Errors
/// What is in the way, as a clause that follows a colon.
pub fn may_replace(folder: &Path) -> Result<(), String> {
    let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
    let (mut is_empty, mut has_weights) = (true, false);
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_weights = name.ends_with(".safetensors");
        let is_file = entry.file_type().map_err(unreadable)?.is_file();
        if !is_file || !(is_weights || name == INDEX || is_companion(&name)) {
            return Err(format!("it holds `{name}`, which is not part of a checkpoint that plmconv wrote"));
        }
        if is_weights && !is_ours(&entry.path()) {
            return Err(format!("plmconv did not write `{name}`"));
        }
        is_empty = false;
        has_weights |= is_weights;
    }
    if is_empty || has_weights { Ok(()) } else { Err("it holds no weights that plmconv wrote".into()) }
}

fn is_ours(path: &Path) -> bool {
    let file = SafetensorsFile::open(path);
    file.is_ok_and(|file| file.metadata.iter().any(|(key, value)| (key.as_str(), value.as_str()) == WRITER))
}
