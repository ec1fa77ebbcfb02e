//! Whether an input is still what it was when it was opened.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

/// What the file system says of a regular file. Writing to a file, cutting it or putting another in its place changes
/// it; reading does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    path: PathBuf,
    len: u64,
    modified: Option<SystemTime>,
    identity: Identity,
}

/// What a program that sets a file's times back does not change: device, inode and the time of the last change.
#[cfg(unix)]
type Identity = (u64, u64, i64, i64);
#[cfg(not(unix))]
type Identity = ();

#[cfg(unix)]
fn identity(metadata: &Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    (metadata.dev(), metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
}

#[cfg(not(unix))]
fn identity(_metadata: &Metadata) -> Identity {}

impl Fingerprint {
    /// Of the file at `path`, links followed; `None` of what is not a regular file, such as a pipe, or cannot be seen.
    pub fn of(path: &Path) -> Option<Fingerprint> {
        Fingerprint::from_metadata(path, &std::fs::metadata(path).ok()?)
    }

    /// Of the file at `path` that has this `metadata`; `None` of what is not a regular file.
    pub fn from_metadata(path: &Path, metadata: &Metadata) -> Option<Fingerprint> {
        metadata.is_file().then(|| Fingerprint {
            path: path.to_path_buf(),
            len: metadata.len(),
            modified: metadata.modified().ok(),
            identity: identity(metadata),
        })
    }

    /// # Errors
    /// [`Error::Changed`] if the file at the path is not, or not any longer, the one that was seen first.
    pub fn check(&self) -> Result<()> {
        match Fingerprint::of(&self.path) {
            Some(now) if now == *self => Ok(()),
            _ => Err(Error::Changed { path: self.path.clone() }),
        }
    }

    /// The part that a moved or remounted file keeps, on one line: its name, length and time of modification.
    pub fn stable(&self) -> String {
        let since = self.modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} {} {}\n", self.len, since.as_nanos())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::io::Write;

    fn is_changed(print: &Fingerprint) -> bool {
        matches!(print.check(), Err(Error::Changed { .. }))
    }

    #[test]
    fn reading_changes_nothing_and_writing_does() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("weights");
        std::fs::write(&path, b"old").expect("write");
        let print = Fingerprint::of(&path).expect("a file");
        assert_eq!(std::fs::read(&path).expect("read"), b"old");
        print.check().expect("the same file");

        let file = File::options().append(true).open(&path).expect("open");
        (&file).write_all(b"er").expect("write");
        assert!(is_changed(&print), "longer");
        let print = Fingerprint::of(&path).expect("a file");
        file.set_len(1).expect("cut");
        assert!(is_changed(&print), "shorter");
        let print = Fingerprint::of(&path).expect("a file");
        std::fs::remove_file(&path).expect("remove");
        assert!(is_changed(&print), "gone");
    }

    #[cfg(unix)]
    #[test]
    fn another_file_with_the_same_length_and_times_is_seen() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        for path in [&path, &other] {
            std::fs::write(path, b"same").expect("write");
            let file = File::options().write(true).open(path).expect("open");
            file.set_modified(UNIX_EPOCH).expect("a time");
        }
        let print = Fingerprint::of(&path).expect("a file");
        assert_eq!(print.stable(), "a 4 0\n");
        std::fs::rename(&other, &path).expect("rename");
        assert!(is_changed(&print));
    }

    #[test]
    fn what_is_no_file_has_none() {
        let dir = tempfile::tempdir().expect("tempdir");
        assert_eq!(Fingerprint::of(dir.path()), None);
        assert_eq!(Fingerprint::of(&dir.path().join("none")), None);
    }
}
