//! Output folders that appear under their name only when complete.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::{Builder, TempDir};

use crate::atomic::{LOCK, SUFFIX, parent, temporaries};
use crate::error::{Error, Result};

/// A folder being filled beside its final name. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub struct AtomicFolder {
    temporary: TempDir,
    target: PathBuf,
    overwrite: bool,
    _lock: File,
}

impl AtomicFolder {
    /// Starts a folder that will be `target`. With `overwrite`, an existing folder is replaced at commit.
    ///
    /// # Errors
    /// The target exists (without `overwrite`) or is a file; its parent is missing or not writable.
    pub fn create(target: impl Into<PathBuf>, overwrite: bool) -> Result<AtomicFolder> {
        let target = target.into();
        if target.is_file() || (!overwrite && target.exists()) {
            return Err(Error::Exists { path: target });
        }
        let (parent, prefix) = temporaries(&target);
        let temporary =
            Builder::new().prefix(&prefix).suffix(SUFFIX).tempdir_in(&parent).map_err(Error::io(&parent))?;
        make_readable(temporary.path())?;
        let lock_path = temporary.path().join(LOCK);
        let lock = File::create(&lock_path).map_err(Error::io(&lock_path))?;
        lock.try_lock().map_err(|e| Error::Io { path: lock_path, source: e.into() })?;
        Ok(AtomicFolder { temporary, target, overwrite, _lock: lock })
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where it stands until then.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// Creates a file of the folder, `relative` to it, with the folders on the way.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn create_file(&self, relative: impl AsRef<Path>) -> Result<File> {
        let path = self.temporary.path().join(relative);
        let folder = parent(&path);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        File::create(&path).map_err(Error::io(&path))
    }

    /// Syncs every file and folder and gives the folder its name.
    ///
    /// # Errors
    /// Whatever the file system says; the target is then as it was.
    pub fn commit(self) -> Result<()> {
        let inside = self.temporary.path().to_path_buf();
        let lock_path = inside.join(LOCK);
        std::fs::remove_file(&lock_path).map_err(Error::io(&lock_path))?;
        sync_tree(&inside)?;
        let parent = parent(&self.target);
        // A folder with content cannot be renamed onto: the old one steps aside and comes back on failure.
        let old = if self.overwrite && self.target.exists() {
            let aside = inside.with_extension("old.tmp");
            std::fs::rename(&self.target, &aside).map_err(Error::io(&self.target))?;
            Some(aside)
        } else {
            None
        };
        if let Err(e) = std::fs::rename(&inside, &self.target) {
            if let Some(aside) = &old {
                std::fs::rename(aside, &self.target).map_err(Error::io(&self.target))?;
            }
            return Err(match e.kind() {
                std::io::ErrorKind::DirectoryNotEmpty | std::io::ErrorKind::AlreadyExists => {
                    Error::Exists { path: self.target }
                }
                _ => Error::io(&self.target)(e),
            });
        }
        // It has its final name now; there is nothing left to clean up under the temporary one.
        let _ = self.temporary.keep();
        sync(parent)?;
        if let Some(aside) = old {
            std::fs::remove_dir_all(&aside).map_err(Error::io(&aside))?;
        }
        Ok(())
    }
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync(&path)? }
    }
    sync(folder)
}

#[cfg(unix)]
fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(Error::io(path))
}

#[cfg(not(unix))]
fn sync(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    File::options().write(true).open(path).and_then(|f| f.sync_all()).map_err(Error::io(path))
}

/// tempfile makes folders for the owner only; an output is for whoever may read what the user writes.
#[cfg(unix)]
fn make_readable(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).map_err(Error::io(folder))
}

#[cfg(not(unix))]
fn make_readable(_folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(folder).expect("folder");
        let mut names: Vec<_> =
            entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn filled(target: &Path, overwrite: bool, text: &str) -> AtomicFolder {
        let folder = AtomicFolder::create(target, overwrite).expect("create");
        folder.create_file("onnx/a").expect("file").write_all(text.as_bytes()).expect("write");
        folder
    }

    #[test]
    fn appears_only_on_commit() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("out");
        let folder = filled(&target, false, "x");
        assert!(!target.exists());
        folder.commit().expect("commit");
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(names(&target), ["onnx"]);
    }

    #[test]
    fn dropped_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        drop(filled(&dir.path().join("out"), false, "x"));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn an_existing_folder_is_kept_or_replaced_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("out");
        filled(&target, false, "old").commit().expect("commit");
        std::fs::write(target.join("other"), b"y").expect("write");
        assert!(matches!(AtomicFolder::create(&target, false), Err(Error::Exists { .. })));
        drop(filled(&target, true, "never"));
        assert_eq!(std::fs::read(target.join("onnx/a")).expect("read"), b"old");
        filled(&target, true, "new").commit().expect("commit");
        assert_eq!(std::fs::read(target.join("onnx/a")).expect("read"), b"new");
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(names(&target), ["onnx"]);
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_but_not_a_running_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let dead = dir.path().join(".plmconv-out.dead.tmp");
        std::fs::create_dir(&dead).expect("folder");
        std::fs::write(dead.join(LOCK), b"").expect("write");
        let running = AtomicFolder::create(dir.path().join("out"), false).expect("create");
        let second = AtomicFolder::create(dir.path().join("out"), false).expect("create");
        assert_eq!(names(dir.path()).len(), 2);
        drop((running, second));
    }
}
