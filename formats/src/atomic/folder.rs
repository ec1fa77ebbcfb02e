//! Output folders that appear under their name only when complete.

use std::fs::{File, Permissions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::destination::{check_folder, parent};
use super::file::sync_folder;
use super::temporary::{Workspace, uninterrupted};
use crate::error::{Error, Result};

/// Says of an existing folder why it must not be replaced.
pub type MayReplace = fn(&Path) -> Result<(), String>;

/// The folder being filled, in its workspace.
const CONTENT: &str = "content";
/// A folder that stepped aside for it, where the system cannot exchange two names.
const OLD: &str = "old";

/// A folder being filled beside its final name. Dropped without [`commit`](Self::commit), it is gone.
#[derive(Debug)]
pub struct AtomicFolder {
    workspace: Workspace,
    target: PathBuf,
    /// Where the target's symbolic links lead.
    destination: PathBuf,
    overwrite: bool,
    may_replace: MayReplace,
}

impl AtomicFolder {
    /// Starts a folder that will be `target`. With `overwrite`, an existing folder that `may_replace` lets go is replaced
    /// at commit; a symbolic link stays, and the folder it leads to is replaced.
    ///
    /// # Errors
    /// The target exists (without `overwrite`), is not a folder or is one that must not be replaced; its parent is missing or
    /// not writable.
    pub fn create(
        target: impl Into<PathBuf>,
        overwrite: bool,
        may_replace: MayReplace,
    ) -> Result<AtomicFolder> {
        let target = target.into();
        let destination = check_folder(&target, overwrite, may_replace)?;
        let workspace = Workspace::create(&destination)?;
        let content = workspace.path().join(CONTENT);
        std::fs::create_dir(&content).map_err(Error::io(&content))?;
        Ok(AtomicFolder { workspace, target, destination, overwrite, may_replace })
    }

    /// The folder as it is filled: what a reader opens that checks it before it gets its name.
    pub fn path(&self) -> PathBuf {
        self.workspace.path().join(CONTENT)
    }

    /// The name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Creates a file of the folder, `relative` to it, with the folders on the way.
    ///
    /// # Errors
    /// Whatever the file system says.
    pub fn create_file(&self, relative: impl AsRef<Path>) -> Result<File> {
        let path = self.path().join(relative);
        let folder = parent(&path);
        std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
        File::create(&path).map_err(Error::io(&path))
    }

    /// Syncs every file and folder and gives the folder its name.
    ///
    /// # Errors
    /// Whatever the file system says; the target is then as it was.
    pub fn commit(self) -> Result<()> {
        let content = self.path();
        if let Ok(old) = std::fs::metadata(&self.destination) {
            std::fs::set_permissions(&content, writable(old.permissions())).map_err(Error::io(&content))?;
        }
        sync_tree(&content)?;
        let _uninterrupted = uninterrupted();
        // An hour may have passed: what came into the old folder meanwhile must not be lost.
        check_folder(&self.target, self.overwrite, self.may_replace)?;
        let named = if self.destination.exists() {
            replace(&content, &self.destination, &self.workspace.path().join(OLD))
        } else {
            rename_new(&content, &self.destination)
        };
        named.map_err(|error| match error.kind() {
            ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists => {
                Error::Exists { path: self.target.clone() }
            }
            _ => Error::Io { path: self.target.clone(), source: error },
        })?;
        sync_folder(parent(&self.destination))?;
        self.workspace.remove();
        Ok(())
    }
}

/// Puts `new` in the place of `target`, which is then somewhere in the workspace. The name is never absent where the
/// system can exchange two names.
fn replace(new: &Path, target: &Path, old: &Path) -> io::Result<()> {
    match exchange(new, target) {
        Err(error) if is_unsupported(&error) => {}
        done => return done,
    }
    // A run that is killed between the two leaves no folder of the name; the next one brings the old one back.
    std::fs::rename(target, old)?;
    std::fs::rename(new, target).inspect_err(|_| {
        let _ = std::fs::rename(old, target);
    })
}

/// Gives `new` a name that nothing has.
fn rename_new(new: &Path, target: &Path) -> io::Result<()> {
    match rename_with(new, target, false) {
        // Nothing was there a moment ago, and a folder that is not empty is not renamed onto.
        Err(error) if is_unsupported(&error) => std::fs::rename(new, target),
        done => done,
    }
}

fn exchange(a: &Path, b: &Path) -> io::Result<()> {
    rename_with(a, b, true)
}

/// Old kernels and some file systems know no flags of a rename.
fn is_unsupported(error: &io::Error) -> bool {
    // EINVAL, ENOSYS and EOPNOTSUPP
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::Unsupported)
}

/// A rename that exchanges two names, or fails if the second exists.
#[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
fn rename_with(from: &Path, to: &Path, exchange: bool) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let flags = if exchange { RenameFlags::EXCHANGE } else { RenameFlags::NOREPLACE };
    Ok(renameat_with(CWD, from, CWD, to, flags)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn rename_with(_: &Path, _: &Path, _: bool) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}

/// Brings back what stepped aside for a folder that never came, if a run was killed in between.
///
/// # Errors
/// It cannot be brought back.
pub(super) fn restore(workspace: &Path, target: &Path) -> Result<()> {
    let old = workspace.join(OLD);
    if old.is_dir() && !target.exists() {
        std::fs::rename(old, target).map_err(Error::io(target))?;
    }
    Ok(())
}

/// A folder that its owner cannot write to could be neither renamed nor removed.
#[cfg(unix)]
fn writable(permissions: Permissions) -> Permissions {
    use std::os::unix::fs::PermissionsExt;
    Permissions::from_mode(permissions.mode() | 0o700)
}

#[cfg(not(unix))]
fn writable(permissions: Permissions) -> Permissions {
    permissions
}

fn sync_tree(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.is_dir() { sync_tree(&path)? } else { sync_file(&path)? }
    }
    sync_folder(folder)
}

fn sync_file(path: &Path) -> Result<()> {
    // Windows syncs only what is open for writing.
    let mut options = File::options();
    options.read(cfg!(unix)).write(!cfg!(unix));
    options.open(path).and_then(|file| file.sync_all()).map_err(Error::io(path))
}

#[cfg(test)]
mod tests {
    use super::super::tests::names;
    use super::*;
    use std::io::Write;

    fn any(_: &Path) -> Result<(), String> {
        Ok(())
    }

    fn filled(target: &Path, overwrite: bool, text: &str) -> AtomicFolder {
        let folder = AtomicFolder::create(target, overwrite, any).expect("create");
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
        assert!(matches!(AtomicFolder::create(&target, false, any), Err(Error::Exists { .. })));
        drop(filled(&target, true, "never"));
        assert_eq!(std::fs::read(target.join("onnx/a")).expect("read"), b"old");
        filled(&target, true, "new").commit().expect("commit");
        assert_eq!(std::fs::read(target.join("onnx/a")).expect("read"), b"new");
        assert_eq!(names(dir.path()), ["out"]);
        assert_eq!(names(&target), ["onnx"]);
    }

    #[test]
    fn without_an_exchange_of_names_the_old_folder_steps_aside_and_a_killed_run_brings_it_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (target, workspace) = (dir.path().join("out"), dir.path().join(".plmconv-out.killed.tmp"));
        std::fs::create_dir_all(workspace.join(OLD)).expect("folder");
        std::fs::write(workspace.join(OLD).join("a"), b"old").expect("write");
        std::fs::create_dir(workspace.join(CONTENT)).expect("folder");
        assert!(matches!(AtomicFolder::create(&target, false, any), Err(Error::Exists { .. })));
        assert_eq!(std::fs::read(target.join("a")).expect("read"), b"old");
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[test]
    fn what_came_into_the_old_folder_meanwhile_is_kept() {
        fn without_notes(folder: &Path) -> Result<(), String> {
            if folder.join("notes").exists() { Err("it holds notes".into()) } else { Ok(()) }
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let target = dir.path().join("out");
        filled(&target, false, "old").commit().expect("commit");
        let new = AtomicFolder::create(&target, true, without_notes).expect("create");
        std::fs::write(target.join("notes"), b"mine").expect("write");
        assert!(matches!(new.commit(), Err(Error::NotReplaced { .. })));
        assert_eq!(names(&target), ["notes", "onnx"]);
        assert_eq!(names(dir.path()), ["out"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_even_to_nowhere() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("there")).expect("folder");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("there/out", &link).expect("link");
        for text in ["one", "two"] {
            filled(&link, true, text).commit().expect("commit");
            assert!(link.is_symlink());
            assert_eq!(std::fs::read(dir.path().join("there/out/onnx/a")).expect("read"), text.as_bytes());
            assert_eq!(names(&dir.path().join("there")), ["out"]);
        }
    }

    #[test]
    fn leftovers_of_a_killed_run_are_removed_but_not_a_running_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let dead = dir.path().join(".plmconv-out.dead.tmp");
        std::fs::create_dir(&dead).expect("folder");
        std::fs::write(dead.join(".lock"), b"").expect("write");
        // Killed before it had its lock, and what version 0.1.0 left between its two renames.
        std::fs::create_dir(dir.path().join(".plmconv-out.early.tmp")).expect("folder");
        std::fs::create_dir(dir.path().join(".plmconv-out.dead.old.tmp")).expect("folder");
        std::fs::write(dir.path().join(".plmconv-out.dead.old.tmp/model"), b"").expect("write");
        let running = AtomicFolder::create(dir.path().join("out"), false, any).expect("create");
        let second = AtomicFolder::create(dir.path().join("out"), false, any).expect("create");
        assert_eq!(names(dir.path()).len(), 2);
        drop((running, second));
    }
}
