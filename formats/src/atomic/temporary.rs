//! Temporaries beside outputs: what they are called, who uses them, and what becomes of those that nobody uses.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::Builder;

use super::destination::parent;
use super::{folder, set};
use crate::error::{Error, Result};

/// Names of temporaries begin with this, so that a later run can tell leftovers of a killed one.
const PREFIX: &str = ".plmconv-";
/// And end with this.
const SUFFIX: &str = ".tmp";
/// Held locked in a [`Workspace`] while its process lives.
const LOCK: &str = ".lock";
/// Bytes of an output's name that its temporary repeats: a name as long as the file system allows has one, too.
const MAX_NAME: usize = 180;
/// Another run takes a new temporary for a leftover only in the instant before it is locked.
const ATTEMPTS: usize = 64;

/// Temporaries of this process.
static LIVE: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
/// Held while outputs get their names, and while a temporary is made that is not in [`LIVE`] yet.
static UNINTERRUPTED: Mutex<()> = Mutex::new(());

/// Removes every temporary of this process, which is about to end. No output gets its name any more: a commit that has
/// begun is waited for, a later one waits forever.
pub fn abandon_all() {
    std::mem::forget(uninterrupted());
    for path in live().iter() {
        // A worker may be creating a file in a folder that is being removed.
        let _ = (0..3).find(|_| remove(path, None).is_ok());
    }
}

/// While this is held the process is not ended by [`abandon_all`].
pub(super) fn uninterrupted() -> MutexGuard<'static, ()> {
    UNINTERRUPTED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn live() -> MutexGuard<'static, Vec<PathBuf>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A temporary that [`abandon_all`] knows of.
#[derive(Debug)]
pub(super) struct Registered(PathBuf);

impl Registered {
    pub fn new(path: &Path) -> Registered {
        live().push(path.to_path_buf());
        Registered(path.to_path_buf())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut live = live();
        if let Some(at) = live.iter().position(|path| *path == self.0) {
            live.swap_remove(at);
        }
    }
}

/// Makes a temporary for `destination` by `create` and locks it by `lock`, which says whether it is this process's.
pub(super) fn create<T>(
    destination: &Path,
    mode: u32,
    create: impl Fn(&Builder<'_, '_>, &Path) -> io::Result<T>,
    lock: impl Fn(&T) -> io::Result<bool>,
) -> Result<T> {
    let folder = parent(destination);
    let prefix = format!("{PREFIX}{}.", short_name(destination));
    let mut builder = Builder::new();
    builder.prefix(&prefix).suffix(SUFFIX);
    allow(&mut builder, mode);
    for _ in 0..ATTEMPTS {
        let made = create(&builder, folder).map_err(Error::io(folder))?;
        if lock(&made).map_err(Error::io(folder))? {
            return Ok(made);
        }
    }
    let busy = io::Error::new(io::ErrorKind::ResourceBusy, "every temporary was removed by another process");
    Err(Error::Io { path: folder.to_path_buf(), source: busy })
}

/// tempfile makes things for the owner only; an output is readable as the user's umask says.
#[cfg(unix)]
fn allow(builder: &mut Builder<'_, '_>, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(mode));
}

#[cfg(not(unix))]
fn allow(_builder: &mut Builder<'_, '_>, _mode: u32) {}

/// Locks `file`, which is at `path`. False if another run took it for a leftover before.
pub(super) fn lock(file: &File, path: &Path) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(path.exists()),
        Err(TryLockError::WouldBlock) => Ok(false),
        // No other run can lock it either, so none removes it.
        Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A locked folder beside an output, in which it is made. Dropped, it is removed with all that is in it.
#[derive(Debug)]
pub(super) struct Workspace {
    path: PathBuf,
    _registered: Registered,
    lock: Option<File>,
    kept: bool,
}

impl Workspace {
    pub fn create(destination: &Path) -> Result<Workspace> {
        let make = |builder: &Builder<'_, '_>, folder: &Path| {
            let path = builder.tempdir_in(folder)?.keep();
            let registered = Registered::new(&path);
            // Whoever creates the lock file owns the folder: a run that takes it for a leftover creates it, too.
            Ok((File::create_new(path.join(LOCK)), path, registered))
        };
        let is_ours = |(file, path, _): &(io::Result<File>, PathBuf, Registered)| match file {
            Ok(file) => lock(file, &path.join(LOCK)),
            Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {
                Ok(false)
            }
            Err(error) => {
                let _ = std::fs::remove_dir(path);
                Err(error.kind().into())
            }
        };
        let _uninterrupted = uninterrupted();
        let (file, path, registered) = create(destination, 0o700, make, is_ours)?;
        let lock = file.map_err(Error::io(&path))?;
        Ok(Workspace { path, _registered: registered, lock: Some(lock), kept: false })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// From now on it is not scratch space: what it holds is kept if this process ends.
    pub fn keep(&mut self) {
        self.kept = true;
    }

    /// Removes it.
    pub fn remove(mut self) {
        self.kept = false;
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        if !self.kept {
            // Only wasted space; the next run tries again.
            let _ = remove(&self.path, self.lock.take());
        }
    }
}

/// What is in a workspace, without its lock; in order.
pub(super) fn content(workspace: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(workspace)?.collect::<io::Result<Vec<_>>>()?;
    let mut paths: Vec<PathBuf> =
        entries.iter().filter(|entry| entry.file_name() != LOCK).map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

/// Removes a temporary and gives up its lock. A folder's lock goes last, so that one whose removal was cut short is still
/// a leftover.
fn remove(path: &Path, lock: Option<File>) -> io::Result<()> {
    if !path.is_dir() {
        return std::fs::remove_file(path);
    }
    for inside in content(path)? {
        if inside.is_dir() { std::fs::remove_dir_all(inside)? } else { std::fs::remove_file(inside)? }
    }
    // Windows removes no folder with an open file in it.
    drop(lock);
    let _ = std::fs::remove_file(path.join(LOCK));
    std::fs::remove_dir(path)
}

/// Does away with what killed runs left of outputs beside `destination` and whose names are `wanted`: what
/// was not complete is removed, what was being put in place is put in place.
///
/// # Errors
/// What was being put in place cannot be.
pub(super) fn clean_up(destination: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
    let folder = parent(destination);
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let Some(output) = name.to_str().and_then(output_of).filter(|name| wanted(name)) else { continue };
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let Some(lock) = take(&path, is_folder) else { continue };
        if is_folder && is_own(&path) {
            set::roll_forward(&path, folder)?;
            folder::restore(&path, &folder.join(output))?;
        }
        // A leftover that cannot be removed is only wasted space; the run itself goes on.
        let _ = remove(&path, Some(lock));
    }
    Ok(())
}

/// Whether an output's temporaries are called by `name`, as [`output_of`] says it.
pub(super) fn is_called(destination: &Path, name: &str) -> bool {
    short_name(destination) == name
}

/// The output's name in a temporary's. (`.old` is what version 0.1.0 set aside.)
fn output_of(temporary: &str) -> Option<&str> {
    let inner = temporary.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    Some(inner.strip_suffix(".old").unwrap_or(inner).rsplit_once('.')?.0)
}

/// An output's name, cut if it is very long.
fn short_name(destination: &Path) -> String {
    let mut name = destination.file_name().unwrap_or_default().to_string_lossy().into_owned();
    while name.len() > MAX_NAME {
        name.pop();
    }
    name
}

/// The lock of a temporary that no process holds.
fn take(path: &Path, is_folder: bool) -> Option<File> {
    let lock = if is_folder { path.join(LOCK) } else { path.to_path_buf() };
    let file = match File::open(&lock) {
        Err(error) if is_folder && error.kind() == io::ErrorKind::NotFound => File::create_new(&lock),
        opened => opened,
    };
    file.ok().filter(|file| file.try_lock().is_ok())
}

/// In a folder that everybody may write to, only what this user's runs left is acted upon.
#[cfg(unix)]
fn is_own(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(path).is_ok_and(|found| found.uid() == rustix::process::geteuid().as_raw())
}

#[cfg(not(unix))]
fn is_own(_path: &Path) -> bool {
    true
}
