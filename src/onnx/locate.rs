//! Exports on disk: which graph a path means.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::hub;

use crate::error::UsageError;

/// The graph that `path` names: an .onnx file, or a folder with one in it or in its subfolder `onnx`. None if it
/// names something else; a folder of safetensors is a checkpoint whatever else is in it. A model's folder in the hub's
/// cache stands for its snapshot.
///
/// # Errors
/// A folder with several graphs.
pub fn find_graph(path: &Path) -> Result<Option<PathBuf>> {
    if has_extension(path, "onnx") && path.is_file() {
        return Ok(Some(path.into()));
    }
    let snapshot = hub::snapshot(path)?;
    let path = snapshot.as_deref().unwrap_or(path);
    let mut graphs = files(path, "onnx");
    graphs.extend(files(&path.join("onnx"), "onnx"));
    if graphs.is_empty() || !files(path, "safetensors").is_empty() {
        return Ok(None);
    }
    if let [first, _, ..] = graphs.as_slice() {
        let message = format!("{}: there are {} ONNX graphs here", path.display(), graphs.len());
        return Err(UsageError::with_hint(message, format!("name one, e.g. {}", first.display())).into());
    }
    Ok(graphs.pop())
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// Files of a folder by their extension, in order; none where there is no folder.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| has_extension(path, extension)).collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_a_folder_and_what_is_neither() {
        let dir = tempfile::tempdir().expect("tempdir");
        let find = || find_graph(dir.path());
        assert!(find().expect("no graph").is_none());
        let graph = dir.path().join("onnx/model.onnx");
        std::fs::create_dir(dir.path().join("onnx")).expect("create");
        std::fs::write(&graph, b"").expect("write");
        assert_eq!(find().expect("one graph"), Some(graph.clone()));
        assert_eq!(find_graph(&graph).expect("a graph"), Some(graph));
        std::fs::write(dir.path().join("onnx/model_q4.onnx"), b"").expect("write");
        assert!(find().expect_err("two graphs").to_string().contains("2 ONNX graphs"));
        std::fs::write(dir.path().join("model.safetensors"), b"").expect("write");
        assert!(find().expect("a checkpoint").is_none());
    }
}
