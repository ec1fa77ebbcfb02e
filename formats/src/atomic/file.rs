//! One file that appears under its name only when complete.

use std::fs::{File, Permissions};
use std::io;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::destination::{check_file, parent};
use super::temporary::{self, Registered, uninterrupted};
use crate::error::{Error, Result};

/// A file being written beside its final name. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub struct AtomicFile {
    temporary: NamedTempFile,
    registered: Registered,
    target: PathBuf,
    /// Where the target's symbolic links lead.
    destination: PathBuf,
    overwrite: bool,
    /// Those of the file that is replaced.
    permissions: Option<Permissions>,
}

impl AtomicFile {
    /// Starts a file that will be `target`. With `overwrite`, an existing target is replaced at commit; a symbolic link
    /// stays, and what it leads to is replaced.
    ///
    /// # Errors
    /// The target exists (without `overwrite`) or is not a regular file; its folder is missing or not writable.
    pub fn create(target: impl Into<PathBuf>, overwrite: bool) -> Result<AtomicFile> {
        let target = target.into();
        let destination = check_file(&target, overwrite)?;
        let uninterrupted = uninterrupted();
        let temporary = temporary::create(
            &destination,
            0o666,
            |builder, folder| builder.tempfile_in(folder),
            |file: &NamedTempFile| temporary::lock(file.as_file(), file.path()),
        )?;
        let registered = Registered::new(temporary.path());
        drop(uninterrupted);
        let permissions = std::fs::metadata(&destination).ok().map(|found| found.permissions());
        if let Some(permissions) = &permissions {
            // What only the owner may read must not be readable while it is written.
            let set = temporary.as_file().set_permissions(writable(permissions.clone()));
            set.map_err(Error::io(&destination))?;
        }
        Ok(AtomicFile { temporary, registered, target, destination, overwrite, permissions })
    }

    /// Starts from `existing`, which is in the target's folder and is taken from there.
    ///
    /// # Errors
    /// As [`create`](Self::create), or `existing` cannot be moved.
    pub fn create_from(target: impl Into<PathBuf>, overwrite: bool, existing: &Path) -> Result<AtomicFile> {
        let AtomicFile { temporary, registered, target, destination, overwrite, permissions } =
            AtomicFile::create(target, overwrite)?;
        let (empty, path) = temporary.into_parts();
        drop(empty);
        std::fs::rename(existing, &path).map_err(Error::io(existing))?;
        let file = File::options().read(true).write(true).open(&path).map_err(Error::io(existing))?;
        temporary::lock(&file, &path).map_err(Error::io(existing))?;
        let temporary = NamedTempFile::from_parts(file, path);
        Ok(AtomicFile { temporary, registered, target, destination, overwrite, permissions })
    }

    /// Syncs the file and leaves it under a name that is not the target's, in the same folder.
    ///
    /// # Errors
    /// The name cannot be given; the file is then gone.
    pub fn set_aside(self, path: &Path) -> Result<()> {
        self.temporary.as_file().sync_all().map_err(Error::io(path))?;
        let _uninterrupted = uninterrupted();
        self.temporary.persist(path).map_err(|e| Error::Io { path: path.to_path_buf(), source: e.error })?;
        sync_folder(parent(path))
    }

    /// The file to write to.
    pub fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// The temporary: what a reader opens that checks the file before it gets its name.
    pub fn path(&self) -> &Path {
        self.temporary.path()
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where it will be: the target, or what the target links to.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Syncs the file, gives it its name, syncs the folder.
    ///
    /// # Errors
    /// Whatever the file system says; the target is then as it was.
    pub fn commit(self) -> Result<()> {
        self.seal()?;
        let _uninterrupted = uninterrupted();
        self.check()?;
        let persisted = if self.overwrite {
            self.temporary.persist(&self.destination)
        } else {
            self.temporary.persist_noclobber(&self.destination)
        };
        persisted.map_err(|e| match e.error.kind() {
            io::ErrorKind::AlreadyExists => Error::Exists { path: self.target },
            _ => Error::Io { path: self.target, source: e.error },
        })?;
        sync_folder(parent(&self.destination))
    }

    /// All of it is on the disk, with the permissions it will have.
    pub(super) fn seal(&self) -> Result<()> {
        let file = self.temporary.as_file();
        if let Some(permissions) = &self.permissions {
            file.set_permissions(permissions.clone()).map_err(Error::io(&self.target))?;
        }
        file.sync_all().map_err(Error::io(&self.target))
    }

    /// The destination may have changed while the file was written.
    pub(super) fn check(&self) -> Result<()> {
        check_file(&self.target, self.overwrite).map(drop)
    }

    /// The same file, under another temporary name, which goes with the folder it is in.
    pub(super) fn moved(self, to: PathBuf) -> Result<AtomicFile> {
        let (file, path) = self.temporary.into_parts();
        std::fs::rename(&path, &to).map_err(Error::io(&to))?;
        // Under the old name there is nothing to clean up.
        let _ = path.keep();
        let registered = Registered::new(&to);
        let path = tempfile::TempPath::try_from_path(to).map_err(Error::io(&self.target))?;
        Ok(AtomicFile { temporary: NamedTempFile::from_parts(file, path), registered, ..self })
    }

    /// Leaves the temporary where it is.
    pub(super) fn keep(self) -> Result<()> {
        drop(self.registered);
        self.temporary.keep().map_err(|e| Error::Io { path: self.target, source: e.error })?;
        Ok(())
    }
}

#[cfg(unix)]
fn writable(permissions: Permissions) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    Permissions::from_mode(permissions.mode() | 0o600)
}

#[cfg(not(unix))]
fn writable(mut permissions: Permissions) -> Permissions {
    permissions.set_readonly(false);
    permissions
}

/// A folder that may be written to but not read cannot be opened, so not synced.
#[cfg(unix)]
pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        opened => opened.and_then(|folder| folder.sync_all()).map_err(Error::io(folder)),
    }
}

#[cfg(not(unix))]
pub(super) fn sync_folder(_folder: &Path) -> Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;
    use std::io::Write;

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

    #[cfg(unix)]
    #[test]
    fn links_are_followed_even_to_nowhere() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("there")).expect("folder");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("there/a.gguf", &link).expect("link");
        for text in [b"one", b"two"] {
            let out = AtomicFile::create(&link, true).expect("create");
            out.file().write_all(text).expect("write");
            out.commit().expect("commit");
            assert!(link.is_symlink());
            assert_eq!(std::fs::read(dir.path().join("there/a.gguf")).expect("read"), text);
            assert_eq!(names(&dir.path().join("there")), ["a.gguf"]);
        }
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_file_is_never_replaced() {
        let dir = tempfile::tempdir().expect("tempdir");
        let socket = dir.path().join("socket");
        let _socket = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
        let (folder, circle) = (dir.path().join("folder"), dir.path().join("circle"));
        std::fs::create_dir(&folder).expect("folder");
        std::os::unix::fs::symlink("circle", &circle).expect("link");
        let (device, new) = (PathBuf::from("/dev/null"), dir.path().join("new/"));
        for path in [socket, folder, circle, device, new, PathBuf::new()] {
            for overwrite in [false, true] {
                let refused = AtomicFile::create(&path, overwrite);
                assert!(matches!(refused, Err(Error::NotAnOutput { .. })), "{}: {refused:?}", path.display());
            }
        }
        assert_eq!(names(dir.path()), ["circle", "folder", "socket"]);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_the_old_files() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("a.gguf");
        std::fs::write(&target, b"old").expect("write");
        std::fs::set_permissions(&target, Permissions::from_mode(0o440)).expect("chmod");
        let out = AtomicFile::create(&target, true).expect("create");
        let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(out.path()), 0o640, "writable, but not for more readers");
        out.commit().expect("commit");
        assert_eq!(mode(&target), 0o440);
    }

    #[test]
    fn a_name_as_long_as_the_file_system_allows() {
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("ü".repeat(127));
        AtomicFile::create(&target, false).expect("create").commit().expect("commit");
        assert!(target.exists());
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
