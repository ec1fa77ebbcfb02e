//! Telling an earlier export from any other folder.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::companions::is_companion;
use super::export::PRODUCER;
use super::read::OnnxFile;

/// Says why a folder must not be replaced by an export; an earlier export may be, and an empty folder.
///
/// A folder is an earlier export if it holds exactly one ONNX graph, at its top or in its subfolder `onnx`, whose
/// `producer_name` is `plmconv`; beside the graph the data files that the graph names; at the top files that an export
/// brings along (tokenizer and configuration, by their names); and nothing else: no other file or folder, no link.
///
/// # Errors
/// What is in the way, as a clause that follows a colon.
pub fn may_replace(folder: &Path) -> Result<(), String> {
    let found = files(folder)?;
    if found.is_empty() {
        return Ok(());
    }
    let is_graph = |path: &&PathBuf| path.extension().is_some_and(|extension| extension == "onnx");
    let graphs: Vec<&PathBuf> = found.iter().filter(is_graph).collect();
    let [graph] = graphs.as_slice() else {
        return Err(format!(
            "it is not an earlier export of plmconv, with {} in it",
            match graphs.len() {
                0 => "no ONNX graph".to_string(),
                count => format!("{count} ONNX graphs"),
            }
        ));
    };
    let read =
        OnnxFile::open(&folder.join(graph)).map_err(|error| format!("it holds a damaged graph: {error}"))?;
    if read.producer.split(' ').next() != Some(PRODUCER) {
        return Err(format!("plmconv did not write its graph `{}`", graph.display()));
    }
    let place = graph.parent().unwrap_or(Path::new(""));
    let external = read.initializers.iter().filter_map(|initializer| initializer.external.as_ref());
    let data: BTreeSet<PathBuf> = external.map(|external| place.join(&external.file)).collect();
    let belongs =
        |path: &PathBuf| path == *graph || data.contains(path) || path.to_str().is_some_and(is_companion);
    match found.iter().find(|path| !belongs(path)) {
        Some(other) => Err(format!("it holds `{}`, which is not part of an export", other.display())),
        None => Ok(()),
    }
}

/// All files at the top and in the subfolder `onnx`, relative to the folder.
fn files(folder: &Path) -> Result<BTreeSet<PathBuf>, String> {
    let mut found = BTreeSet::new();
    for place in ["", "onnx"] {
        let place = Path::new(place);
        if place != Path::new("") && !folder.join(place).is_dir() {
            continue;
        }
        let unreadable = |error: std::io::Error| format!("it cannot be read: {error}");
        for entry in std::fs::read_dir(folder.join(place)).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let (kind, path) = (entry.file_type().map_err(unreadable)?, place.join(entry.file_name()));
            if kind.is_file() {
                found.insert(path);
            } else if !(kind.is_dir() && path == Path::new("onnx")) {
                return Err(format!("it holds `{}`, which is not part of an export", path.display()));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_folders_and_those_of_others() {
        let dir = tempfile::tempdir().expect("tempdir");
        let why = |name: &str| may_replace(&dir.path().join(name)).expect_err("refused");
        may_replace(dir.path()).expect("nothing is lost");
        std::fs::create_dir(dir.path().join("onnx")).expect("folder");
        may_replace(dir.path()).expect("nothing is lost");
        std::fs::write(dir.path().join("config.json"), b"{}").expect("write");
        assert!(why("").contains("no ONNX graph"));
        std::fs::write(dir.path().join("onnx/model.onnx"), b"not a graph").expect("write");
        assert!(why("").contains("damaged graph"));
        std::fs::write(dir.path().join("model.onnx"), b"").expect("write");
        assert!(why("").contains("2 ONNX graphs"));
        std::fs::create_dir(dir.path().join("sub")).expect("folder");
        assert!(why("").contains("`sub`"));
        assert!(why("nowhere").contains("cannot be read"));
    }
}
