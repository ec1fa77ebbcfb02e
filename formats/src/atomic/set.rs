//! Files that only mean something together.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::destination::{check_file, parent};
use super::file::{AtomicFile, sync_folder};
use super::temporary::{self, Workspace, clean_up, uninterrupted};
use crate::error::{Error, Result};

/// Stands in a workspace whose files are all complete and are being given their names. It lists the files that go when
/// these have come.
const COMMIT: &str = ".commit";
/// The same while it is written.
const COMMIT_DRAFT: &str = ".commit.draft";

/// One file or several, all complete, that get their names together.
///
/// Several names cannot change at once. So the files are moved into one folder first and a list is put beside them;
/// from then on the change is only ever finished, by this run or by the next. The first file is what a reader opens:
/// the old one goes before anything else changes, and the new one comes last, so that in between there is nothing to
/// open.
#[derive(Debug)]
pub struct AtomicSet {
    files: Vec<AtomicFile>,
    /// Where several files wait, under their final names.
    workspace: Option<Workspace>,
    /// Files of an earlier set that this one replaces under other names.
    replaced: Vec<PathBuf>,
}

impl AtomicSet {
    /// Takes complete files, the first of which opens all. They are in one folder.
    ///
    /// # Errors
    /// Several files cannot be moved together.
    pub fn new(files: Vec<AtomicFile>, replaced: Vec<PathBuf>) -> Result<AtomicSet> {
        let (Some(first), true) = (files.first(), files.len() > 1 || !replaced.is_empty()) else {
            return Ok(AtomicSet { files, workspace: None, replaced });
        };
        let workspace = Workspace::create(first.destination())?;
        let inside = |file: AtomicFile| {
            let path = workspace.path().join(file.destination().file_name().unwrap_or_default());
            file.moved(path)
        };
        let files = files.into_iter().map(inside).collect::<Result<_>>()?;
        Ok(AtomicSet { files, workspace: Some(workspace), replaced })
    }

    /// The first file, before it has its name: a reader that opens it finds the others beside it.
    pub fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), AtomicFile::path)
    }

    /// Syncs the files and gives them their names.
    ///
    /// # Errors
    /// Whatever the file system says. Nothing has changed then, or the next run that writes these files finishes it.
    pub fn commit(self) -> Result<()> {
        let AtomicSet { files, workspace, replaced } = self;
        let Some(mut workspace) = workspace else {
            return files.into_iter().try_for_each(AtomicFile::commit);
        };
        files.iter().try_for_each(AtomicFile::seal)?;
        let _uninterrupted = uninterrupted();
        files.iter().try_for_each(AtomicFile::check)?;
        let folder = files.first().map_or(Path::new("."), |file| parent(file.destination())).to_path_buf();
        write_list(workspace.path(), &replaced)?;
        workspace.keep();
        files.into_iter().try_for_each(AtomicFile::keep)?;
        roll_forward(workspace.path(), &folder)?;
        workspace.remove();
        Ok(())
    }

    /// Syncs the files and leaves each under its final name with `suffix` behind it; returns the names.
    ///
    /// # Errors
    /// A name cannot be given.
    pub fn set_aside(self, suffix: &str) -> Result<Vec<PathBuf>> {
        let set_aside = |file: AtomicFile| {
            let mut name = file.destination().as_os_str().to_os_string();
            name.push(suffix);
            let path = PathBuf::from(name);
            file.set_aside(&path)?;
            Ok(path)
        };
        self.files.into_iter().map(set_aside).collect()
    }
}

/// Whether a set can be written as `targets`, as [`check_file`] says it of one file. What killed runs left of outputs
/// whose names are `related` is finished or removed.
///
/// # Errors
/// As [`check_file`]; a target that is a symbolic link, since the files of a set are in one folder.
pub fn check_set(targets: &[PathBuf], overwrite: bool, related: impl Fn(&str) -> bool) -> Result<()> {
    if let Some(first) = targets.first() {
        clean_up(first, related)?;
    }
    for target in targets {
        if target.is_symlink() {
            return Err(Error::NotAnOutput { path: target.clone(), kind: "a link, which a shard cannot be" });
        }
        check_file(target, overwrite)?;
    }
    Ok(())
}

/// Whether the file of this name belongs to a set that a killed run was putting in place.
pub(crate) fn unfinished(path: &Path) -> bool {
    let Some(name) = path.file_name() else { return false };
    let entries = std::fs::read_dir(parent(path)).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .any(|folder| folder.join(COMMIT).is_file() && folder.join(name).exists())
}

fn write_list(workspace: &Path, replaced: &[PathBuf]) -> Result<()> {
    let names = replaced.iter().filter_map(|path| path.file_name()?.to_str());
    let list = serde_json::to_vec(&names.collect::<Vec<_>>()).expect("names are JSON");
    let (draft, path) = (workspace.join(COMMIT_DRAFT), workspace.join(COMMIT));
    std::fs::write(&draft, list)
        .and_then(|()| File::options().write(true).open(&draft)?.sync_all())
        .and_then(|()| std::fs::rename(&draft, &path))
        .map_err(Error::io(&path))?;
    sync_folder(workspace)
}

/// Gives the files of a workspace that has a list the names they do not have yet, in `folder`, and removes what the
/// list names. Does nothing without a list.
pub(super) fn roll_forward(workspace: &Path, folder: &Path) -> Result<()> {
    let list = match std::fs::read(workspace.join(COMMIT)) {
        Ok(list) => list,
        Err(_) => return Ok(()),
    };
    let io = || Error::io(folder);
    let files = temporary::content(workspace).map_err(io())?;
    let mut files: Vec<_> = files.into_iter().filter(|path| !path.ends_with(COMMIT)).collect();
    if files.len() > 1 {
        let first = files[0].file_name().unwrap_or_default();
        remove_if_there(&folder.join(first)).map_err(io())?;
    }
    let others = files.len().min(1);
    files.rotate_left(others);
    for path in files {
        let name = path.file_name().unwrap_or_default();
        std::fs::rename(&path, folder.join(name)).map_err(io())?;
    }
    sync_folder(folder)?;
    let mut replaced: Vec<String> = serde_json::from_slice(&list).unwrap_or_default();
    replaced.sort();
    // Names, not paths: nothing outside the folder is meant.
    for name in replaced.iter().filter(|name| Path::new(name).file_name().is_some_and(|n| n == name.as_str()))
    {
        remove_if_there(&folder.join(name)).map_err(io())?;
    }
    sync_folder(folder)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;
    use std::io::Write;

    const NAMES: [&str; 3] = ["m-1", "m-2", "m-3"];

    fn files(dir: &Path, names: &[&str], text: &str) -> Vec<AtomicFile> {
        let write = |name: &&str| {
            let file = AtomicFile::create(dir.join(name), true).expect("create");
            file.file().write_all(text.as_bytes()).expect("write");
            file
        };
        names.iter().map(write).collect()
    }

    fn texts(dir: &Path) -> Vec<String> {
        NAMES.iter().map(|name| std::fs::read_to_string(dir.join(name)).unwrap_or_default()).collect()
    }

    #[test]
    fn all_appear_and_what_they_replace_goes() {
        let dir = tempfile::tempdir().expect("tempdir");
        for name in ["old-1", "old-2", "other"] {
            std::fs::write(dir.path().join(name), name).expect("write");
        }
        let replaced = ["old-1", "old-2"].map(|name| dir.path().join(name)).to_vec();
        let set = AtomicSet::new(files(dir.path(), &NAMES, "new"), replaced).expect("gathered");
        assert_eq!(set.path().file_name(), Some("m-1".as_ref()));
        assert!(
            NAMES
                .iter()
                .all(|name| set.path().with_file_name(name).exists() && !dir.path().join(name).exists())
        );
        set.commit().expect("commit");
        assert_eq!(names(dir.path()), ["m-1", "m-2", "m-3", "other"]);
        assert_eq!(texts(dir.path()), ["new"; 3]);
    }

    #[test]
    fn dropped_or_set_aside() {
        let dir = tempfile::tempdir().expect("tempdir");
        drop(AtomicSet::new(files(dir.path(), &NAMES, "x"), Vec::new()).expect("gathered"));
        assert!(names(dir.path()).is_empty());
        let set = AtomicSet::new(files(dir.path(), &NAMES, "x"), Vec::new()).expect("gathered");
        assert_eq!(set.set_aside(".rejected").expect("set aside").len(), 3);
        assert_eq!(names(dir.path()), ["m-1.rejected", "m-2.rejected", "m-3.rejected"]);
    }

    /// Every state that a kill can leave once the list is written, and a set that is not yet complete.
    #[test]
    fn a_killed_commit_is_finished_by_the_next_run_and_has_no_first_file_until_then() {
        for renamed in 0..=3 {
            let dir = tempfile::tempdir().expect("tempdir");
            NAMES.iter().for_each(|name| std::fs::write(dir.path().join(name), "old").expect("write"));
            std::fs::write(dir.path().join("old-1"), "old").expect("write");
            let workspace = dir.path().join(".plmconv-m-1.killed.tmp");
            std::fs::create_dir(&workspace).expect("folder");
            NAMES.iter().for_each(|name| std::fs::write(workspace.join(name), "new").expect("write"));
            write_list(&workspace, &[dir.path().join("old-1")]).expect("list");
            // What roll_forward does, as far as it came.
            std::fs::remove_file(dir.path().join("m-1")).expect("remove");
            for name in ["m-2", "m-3", "m-1"].iter().take(renamed) {
                std::fs::rename(workspace.join(name), dir.path().join(name)).expect("rename");
            }
            assert_eq!(dir.path().join("m-1").exists(), renamed == 3);
            assert_eq!(unfinished(&dir.path().join("m-1")), renamed < 3);
            let targets = NAMES.map(|name| dir.path().join(name));
            let checked = check_set(&targets, false, |name| name == "m-1");
            assert!(matches!(checked, Err(Error::Exists { .. })), "{checked:?}");
            assert_eq!(texts(dir.path()), ["new"; 3], "after {renamed} renames");
            assert_eq!(names(dir.path()), NAMES);
        }
    }

    #[test]
    fn a_set_that_was_not_complete_is_a_leftover() {
        let dir = tempfile::tempdir().expect("tempdir");
        NAMES.iter().for_each(|name| std::fs::write(dir.path().join(name), "old").expect("write"));
        let workspace = dir.path().join(".plmconv-m-1.killed.tmp");
        std::fs::create_dir(&workspace).expect("folder");
        std::fs::write(workspace.join("m-1"), "new").expect("write");
        std::fs::write(workspace.join(COMMIT_DRAFT), "[").expect("write");
        check_set(&NAMES.map(|name| dir.path().join(name)), true, |name| name == "m-1")
            .expect("can be written");
        assert_eq!(texts(dir.path()), ["old"; 3]);
        assert_eq!(names(dir.path()), NAMES);
    }
}
