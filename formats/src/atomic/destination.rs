//! Where an output may go: what can be known before the work.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::folder::MayReplace;
use super::temporary::{clean_up, is_called};
use crate::error::{Error, Result};

/// Links that are followed before it is taken for a circle; Linux follows as many.
const MAX_LINKS: usize = 40;

/// The folder that a path is in.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Where an output of this name is: symbolic links are followed, one that dangles to where it points.
///
/// # Errors
/// Links in a circle, and links to what has no name in the file system (`/dev/stdout`).
pub fn follow_links(path: &Path) -> Result<PathBuf> {
    let mut at = path.to_path_buf();
    for _ in 0..MAX_LINKS {
        let Ok(to) = std::fs::read_link(&at) else { return Ok(at) };
        if parent(&at).canonicalize().is_ok_and(|folder| folder.starts_with("/proc")) {
            return Err(Error::NotAnOutput { path: path.to_path_buf(), kind: "an open file of a process" });
        }
        at = parent(&at).join(to);
    }
    Err(Error::NotAnOutput { path: path.to_path_buf(), kind: "a link that leads back to itself" })
}

/// Whether two paths lead to one file, by whatever links and spellings.
pub fn same_file(a: &Path, b: &Path) -> bool {
    match (std::fs::metadata(a), std::fs::metadata(b)) {
        (Ok(first), Ok(second)) => is_same(a, b, &first, &second),
        _ => false,
    }
}

#[cfg(unix)]
fn is_same(_: &Path, _: &Path, first: &Metadata, second: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (first.dev(), first.ino()) == (second.dev(), second.ino())
}

#[cfg(not(unix))]
fn is_same(a: &Path, b: &Path, _: &Metadata, _: &Metadata) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// Whether a file can be written as `target`, and where it will be; what killed runs left of it is removed.
///
/// # Errors
/// It exists (without `overwrite`), is no regular file, or its folder is missing.
pub fn check_file(target: &Path, overwrite: bool) -> Result<PathBuf> {
    let destination = located(target)?;
    if let Some(kind) = std::fs::metadata(&destination).ok().and_then(|found| kind_of(&found)) {
        return Err(Error::NotAnOutput { path: target.to_path_buf(), kind });
    }
    clean_up(&destination, |name| is_called(&destination, name))?;
    check_parent(&destination)?;
    if !overwrite && destination.exists() {
        return Err(Error::Exists { path: target.to_path_buf() });
    }
    Ok(destination)
}

/// Whether a folder can be written as `target`, and where it will be; what killed runs left of it is removed.
///
/// # Errors
/// It exists (without `overwrite`), is not a folder or is one that `may_replace` refuses, or its parent is missing.
pub fn check_folder(target: &Path, overwrite: bool, may_replace: MayReplace) -> Result<PathBuf> {
    let mut destination = located(without_separator(target))?;
    // `.` and `a/..` have no name that could be given to another folder.
    if destination.file_name().is_none() {
        destination = destination.canonicalize().map_err(Error::io(target))?;
    }
    let refuse = |reason: &str| Error::NotReplaced { path: target.to_path_buf(), reason: reason.into() };
    if destination.file_name().is_none() {
        return Err(refuse("it is the root of the file system"));
    }
    clean_up(&destination, |name| is_called(&destination, name))?;
    let Ok(found) = std::fs::metadata(&destination) else {
        check_parent(&destination)?;
        return Ok(destination);
    };
    if !found.is_dir() {
        return Err(refuse("it is not a folder, as an export is"));
    }
    // Whether --force would help has to be known before it is advised.
    may_replace(&destination).map_err(|reason| refuse(&reason))?;
    if is_mount_point(&destination, &found) {
        return Err(refuse("it is a mount point, whose name cannot be given to another folder"));
    }
    if !overwrite {
        return Err(Error::Exists { path: target.to_path_buf() });
    }
    Ok(destination)
}

/// Where `target` is, if it can be a name at all.
fn located(target: &Path) -> Result<PathBuf> {
    // What is not a file is named as what it is, however one gets there.
    if let Ok(found) = std::fs::metadata(target)
        && !found.is_dir()
        && let Some(kind) = kind_of(&found)
    {
        return Err(Error::NotAnOutput { path: target.to_path_buf(), kind });
    }
    if target.as_os_str().is_empty() {
        return Err(Error::NotAnOutput { path: target.to_path_buf(), kind: "an empty name" });
    }
    let destination = follow_links(target)?;
    if ends_with_separator(&destination) {
        return Err(Error::NotAnOutput { path: target.to_path_buf(), kind: "the name of a folder" });
    }
    Ok(destination)
}

/// What it is if it is no regular file.
fn kind_of(found: &Metadata) -> Option<&'static str> {
    let kind = found.file_type();
    if kind.is_file() {
        None
    } else if kind.is_dir() {
        Some("a folder")
    } else {
        Some(special_kind(kind))
    }
}

#[cfg(unix)]
fn special_kind(kind: std::fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

#[cfg(not(unix))]
fn special_kind(_: std::fs::FileType) -> &'static str {
    "a device"
}

fn check_parent(destination: &Path) -> Result<()> {
    let folder = parent(destination);
    match std::fs::metadata(folder) {
        Ok(found) if found.is_dir() => check_writable(folder),
        Ok(_) => Err(Error::NotAFolder { path: folder.to_path_buf() }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err(Error::NoFolder { path: folder.to_path_buf() })
        }
        Err(error) => Err(Error::io(folder)(error)),
    }
}

#[cfg(unix)]
fn check_writable(folder: &Path) -> Result<()> {
    use rustix::fs::{Access, access};
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|error| Error::io(folder)(error.into()))
}

#[cfg(not(unix))]
fn check_writable(_: &Path) -> Result<()> {
    Ok(())
}

fn ends_with_separator(path: &Path) -> bool {
    let last = path.as_os_str().as_encoded_bytes().last();
    last.is_some_and(|&byte| std::path::is_separator(byte.into()))
}

/// `out/` is the folder `out`, but as a link it would not be followed by its name.
fn without_separator(path: &Path) -> &Path {
    // A path built from its components has no separator at its end.
    if ends_with_separator(path) { path.components().as_path() } else { path }
}

#[cfg(unix)]
fn is_mount_point(folder: &Path, found: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(parent(folder)).is_ok_and(|above| above.dev() != found.dev())
}

#[cfg(not(unix))]
fn is_mount_point(_: &Path, _: &Metadata) -> bool {
    false
}
