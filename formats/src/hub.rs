//! The Hugging Face hub's cache, whose folders are named after commits:
//! `models--ORGANIZATION--NAME/snapshots/COMMIT/config.json`, with `refs/main` naming the commit of a branch.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// What a model's folder of the cache is called, before its id.
const PREFIX: &str = "models--";

/// What the folder of a model (`organization/name`) is called.
pub fn folder_name(id: &str) -> String {
    format!("{PREFIX}{}", id.replace('/', "--"))
}

/// The snapshot of a commit in a model's folder of the cache, if it is there. What is said to be a commit may come from
/// anywhere: it is one name of a folder, not a path that leads elsewhere.
pub fn snapshot_of(folder: &Path, commit: &str) -> Option<PathBuf> {
    let snapshot = folder.join("snapshots").join(commit);
    (Path::new(commit).file_name() == Some(OsStr::new(commit)) && snapshot.is_dir()).then_some(snapshot)
}

/// The id on the hub (`organization/name`, or a name alone) of a model whose folder is a snapshot in the cache, given
/// as such or by a link. `None` for any other folder.
pub fn model_id(folder: &Path) -> Option<String> {
    // As it is spelled, then as it lies on disk: either may have lost what the other still tells.
    let spelled = std::path::absolute(folder).ok();
    let real = folder.canonicalize().ok();
    spelled.into_iter().chain(real).find_map(|path| id_of_snapshot(&path))
}

/// The snapshot to read where `folder` is a model's whole folder in the cache: the one of `refs/main`, else the only
/// one. `None` where it is not such a folder.
///
/// # Errors
/// [`Error::NoSnapshot`] if the cache does not tell which snapshot is meant.
pub fn snapshot(folder: &Path) -> Result<Option<PathBuf>> {
    let snapshots = folder.join("snapshots");
    if folder.join("config.json").exists() || !snapshots.is_dir() {
        return Ok(None);
    }
    let main = std::fs::read_to_string(folder.join("refs/main")).ok();
    if let Some(snapshot) = main.and_then(|commit| snapshot_of(folder, commit.trim())) {
        return Ok(Some(snapshot));
    }
    let entries = std::fs::read_dir(&snapshots).map_err(Error::io(&snapshots))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).filter(|path| path.is_dir()).collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(Some(only.clone())),
        _ => Err(Error::NoSnapshot { path: folder.to_path_buf(), found }),
    }
}

fn id_of_snapshot(path: &Path) -> Option<String> {
    let snapshots = path.parent()?;
    if snapshots.file_name()? != "snapshots" {
        return None;
    }
    let id = snapshots.parent()?.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    // The hub allows no `--` in a name, so the first one stands for the slash.
    Some(id.replacen("--", "/", 1)).filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached() -> (tempfile::TempDir, PathBuf) {
        let guard = tempfile::tempdir().expect("a temporary folder");
        let folder = guard.path().join("models--PLM-Team--PLM-1.8B-Instruct");
        std::fs::create_dir_all(folder.join("snapshots/3f2a9c0d")).expect("can be made");
        std::fs::create_dir_all(folder.join("refs")).expect("can be made");
        (guard, folder)
    }

    #[test]
    fn a_snapshot_has_the_models_id_however_it_is_spelled() {
        let (guard, folder) = cached();
        let snapshot = folder.join("snapshots/3f2a9c0d");
        let id = Some("PLM-Team/PLM-1.8B-Instruct".to_string());
        assert_eq!(model_id(&snapshot), id);
        assert_eq!(model_id(&snapshot.join("")), id);
        assert_eq!(model_id(&snapshot.join(".")), id);
        assert_eq!(model_id(&snapshot.join("../3f2a9c0d")), id);
        assert_eq!(model_id(&folder), None);
        assert_eq!(model_id(&guard.path().join("snapshots/3f2a9c0d")), None);
        assert_eq!(id_of_snapshot(Path::new("/h/models--gpt2/snapshots/1")), Some("gpt2".into()));
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_snapshot_has_the_models_id() {
        let (guard, folder) = cached();
        let link = guard.path().join("latest");
        std::os::unix::fs::symlink(folder.join("snapshots/3f2a9c0d"), &link).expect("can be linked");
        assert_eq!(model_id(&link).as_deref(), Some("PLM-Team/PLM-1.8B-Instruct"));
        // The model's folder may itself be a link to another disk.
        let (other, moved) = (guard.path().join("disk"), guard.path().join("models--A--B"));
        std::fs::rename(&folder, &other).expect("can be moved");
        std::os::unix::fs::symlink(&other, &moved).expect("can be linked");
        assert_eq!(model_id(&moved.join("snapshots/3f2a9c0d")).as_deref(), Some("A/B"));
    }

    #[test]
    fn the_models_folder_leads_to_its_snapshot() {
        let (_guard, folder) = cached();
        let first = folder.join("snapshots/3f2a9c0d");
        assert_eq!(snapshot(&folder).expect("one"), Some(first.clone()));
        assert_eq!(snapshot(&first).expect("is none"), None);
        let second = folder.join("snapshots/b2");
        std::fs::create_dir(&second).expect("can be made");
        assert!(matches!(snapshot(&folder), Err(Error::NoSnapshot { found, .. }) if found.len() == 2));
        std::fs::write(folder.join("refs/main"), "b2\n").expect("can be written");
        assert_eq!(snapshot(&folder).expect("named"), Some(second));
        std::fs::write(folder.join("refs/main"), "../refs").expect("can be written");
        assert!(snapshot(&folder).is_err());
    }
}
