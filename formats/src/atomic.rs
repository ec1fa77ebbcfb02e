//! Output files that appear under their name only when complete.

use std::fs::File;
use std::path::{Path, PathBuf};

use tempfile::{Builder, NamedTempFile};

use crate::error::{Error, Result};

/// Names of temporaries begin with this, so that a later run can tell leftovers of a killed one.
const PREFIX: &str = ".plmconv-";
/// And end with this.
pub(crate) const SUFFIX: &str = ".tmp";
/// Held locked in a temporary folder while its process lives; never part of the result.
pub(crate) const LOCK: &str = ".lock";

/// A file being written beside its final name. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    target: PathBuf,
    overwrite: bool,
}

impl AtomicFile {
    /// Starts a file that will be `target`. With `overwrite`, an existing target is replaced at commit.
    ///
    /// # Errors
    /// The target exists (without `overwrite`) or is a folder; its folder is missing or not writable.
    pub fn create(target: impl Into<PathBuf>, overwrite: bool) -> Result<AtomicFile> {
        let target = target.into();
        if target.is_dir() || (!overwrite && target.exists()) {
            return Err(Error::Exists { path: target });
        }
        let (folder, prefix) = temporaries(&target);
        let temporary =
            Builder::new().prefix(&prefix).suffix(SUFFIX).tempfile_in(&folder).map_err(Error::io(&folder))?;
        let lock = temporary.as_file().try_lock();
        lock.map_err(|e| Error::Io { path: folder.clone(), source: e.into() })?;
        make_readable(temporary.as_file(), &folder)?;
        Ok(AtomicFile { temporary, target, overwrite })
    }

    /// Starts from `existing`, which stands in the target's folder and is taken from there.
    ///
    /// # Errors
    /// As [`create`](Self::create), or `existing` cannot be moved.
    pub fn create_from(target: impl Into<PathBuf>, overwrite: bool, existing: &Path) -> Result<AtomicFile> {
        let AtomicFile { temporary, target, overwrite } = AtomicFile::create(target, overwrite)?;
        let (empty, path) = temporary.into_parts();
        drop(empty);
        std::fs::rename(existing, &path).map_err(Error::io(existing))?;
        let file = File::options().read(true).write(true).open(&path).map_err(Error::io(existing))?;
        file.try_lock().map_err(|e| Error::Io { path: existing.to_path_buf(), source: e.into() })?;
        Ok(AtomicFile { temporary: NamedTempFile::from_parts(file, path), target, overwrite })
    }

    /// Syncs the file and leaves it under a name that is not the target's, in the same folder.
    ///
    /// # Errors
    /// The name cannot be given; the file is then gone.
    pub fn set_aside(self, path: &Path) -> Result<()> {
        self.temporary.as_file().sync_all().map_err(Error::io(path))?;
        self.temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), source: e.error })?;
        sync_folder(parent(path))
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Syncs the file, gives it its name, syncs the folder.
    pub fn commit(self) -> Result<()> {
        let target = self.target;
        self.temporary.as_file().sync_all().map_err(Error::io(&target))?;
        let persisted = if self.overwrite {
            self.temporary.persist(&target)
        } else {
            self.temporary.persist_noclobber(&target)
        };
        persisted.map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Exists { path: target.clone() },
            _ => Error::Io { path: target.clone(), source: e.error },
        })?;
        sync_folder(parent(&target))
    }
}

/// The folder a path stands in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The folder for a temporary of `target` and what its name begins with. What killed runs left there is removed.
pub(crate) fn temporaries(target: &Path) -> (PathBuf, String) {
    let folder = parent(target);
    let prefix = format!("{PREFIX}{}.", target.file_name().unwrap_or_default().to_string_lossy());
    remove_leftovers(folder, &prefix);
    (folder.to_path_buf(), prefix)
}

/// A killed run leaves its temporary, a file or a folder. The lock tells it from one that another process is writing
/// now; a folder without a lock file is one whose lock is about to be made, or was just given up for the final name.
fn remove_leftovers(folder: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    let is_temporary = |name: &str| name.starts_with(prefix) && name.ends_with(SUFFIX);
    for entry in entries.flatten().filter(|entry| is_temporary(&entry.file_name().to_string_lossy())) {
        let path = entry.path();
        let is_folder = path.is_dir();
        let lock = if is_folder { path.join(LOCK) } else { path.clone() };
        if File::open(lock).is_ok_and(|file| file.try_lock().is_ok()) {
            // A leftover that cannot be removed is only wasted space; the run itself goes on.
            let _ = if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
}

/// tempfile creates files for the owner only; an output is for whoever may read what the user writes.
#[cfg(unix)]
fn make_readable(file: &File, folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).map_err(Error::io(folder))
}

#[cfg(not(unix))]
fn make_readable(_file: &File, _folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder).and_then(|f| f.sync_all()).map_err(Error::io(folder))
}

#[cfg(not(unix))]
fn sync_folder(_folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(folder)
            .expect("folder")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn appears_only_on_commit() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("a.gguf");
        let out = AtomicFile::create(&target, false).expect("create");
        out.file().write_all(b"x").expect("write");
        assert!(!target.exists());
        out.commit().expect("commit");
        assert_eq!(names(dir.path()), ["a.gguf"]);
    }

    #[test]
    fn dropped_leaves_nothing() {
        let dir = tempfile::tempdir().expect("tempdir");
        drop(AtomicFile::create(dir.path().join("a.gguf"), false).expect("create"));
        assert!(names(dir.path()).is_empty());
    }

    #[test]
    fn what_is_set_aside_can_be_gone_on_with() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (target, aside) = (dir.path().join("a.gguf"), dir.path().join("a.gguf.partial"));
        let out = AtomicFile::create(&target, false).expect("create");
        out.file().write_all(b"half").expect("write");
        out.set_aside(&aside).expect("set aside");
        assert_eq!(names(dir.path()), ["a.gguf.partial"]);
        let out = AtomicFile::create_from(&target, false, &aside).expect("go on");
        assert!(!target.exists() && !aside.exists());
        out.commit().expect("commit");
        assert_eq!(std::fs::read(&target).expect("read"), b"half");
        assert_eq!(names(dir.path()), ["a.gguf"]);
    }

    #[test]
    fn existing_target_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("a.gguf");
        std::fs::write(&target, b"old").expect("write");
        assert!(matches!(AtomicFile::create(&target, false), Err(Error::Exists { .. })));
        drop(AtomicFile::create(&target, true).expect("create"));
        assert_eq!(std::fs::read(&target).expect("read"), b"old");
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_but_not_a_running_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join(".plmconv-a.gguf.dead.tmp"), b"x").expect("write");
        let running = AtomicFile::create(dir.path().join("a.gguf"), false).expect("create");
        let second = AtomicFile::create(dir.path().join("a.gguf"), false).expect("create");
        assert_eq!(names(dir.path()).len(), 2);
        drop((running, second));
    }
}
