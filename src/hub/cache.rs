//! The cache as huggingface_hub lays it out: `blobs/ETAG` hold the data, `snapshots/COMMIT/FILE` are links to them,
//! `refs/REVISION` name the commit of a branch or tag.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use plmconv_formats::hub::{folder_name, snapshot_of};

use super::{HubError, HubName};

/// A model's folder in the cache.
pub struct Cache {
    folder: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// Of the model in the cache in `root`.
    pub fn new(root: &Path, name: &HubName) -> Cache {
        let folder = folder_name(&name.id);
        Cache { locks: root.join(".locks").join(&folder), folder: root.join(folder) }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The snapshot of a revision: of a commit that it names, or that it is.
    pub fn snapshot(&self, revision: &str) -> Option<PathBuf> {
        let named = std::fs::read_to_string(self.folder.join("refs").join(revision)).ok();
        snapshot_of(&self.folder, named.as_deref().map_or(revision, str::trim))
    }

    /// Where a commit's snapshot is.
    pub fn snapshot_of(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Where data with this etag is.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Where data with this etag is while it is fetched.
    pub fn incomplete(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Waits until no other process, huggingface_hub's included, fetches the data with this etag.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        let lock = || -> std::io::Result<File> {
            std::fs::create_dir_all(&self.locks)?;
            std::fs::create_dir_all(self.folder.join("blobs"))?;
            let file = OpenOptions::new().create(true).write(true).truncate(false).open(&path)?;
            match file.lock() {
                // Some network file systems have no locks; the first one wins there.
                Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {}
                locked => locked?,
            }
            Ok(file)
        };
        lock().map_err(HubError::io(&path))
    }

    /// Makes a file of a snapshot lead to its data.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let place = self.snapshot_of(commit).join(file);
        // A link that leads to other data is of an earlier state; one that leads nowhere is of a removed blob.
        let up = "../".repeat(2 + file.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if std::fs::read_link(&place).is_ok_and(|found| found == target) {
            return Ok(());
        }
        let make = || -> std::io::Result<()> {
            std::fs::create_dir_all(place.parent().unwrap_or(&place))?;
            if place.symlink_metadata().is_ok() {
                std::fs::remove_file(&place)?;
            }
            link(&target, &self.blob(etag), &place)
        };
        make().map_err(HubError::io(&place))
    }

    /// Records which commit a branch or tag points to.
    pub fn set_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if revision == commit {
            return Ok(());
        }
        let path = self.folder.join("refs").join(revision);
        let write = || -> std::io::Result<()> {
            let folder = path.parent().unwrap_or(&path);
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            std::io::Write::write_all(&mut file, commit.as_bytes())?;
            file.persist(&path).map_err(|error| error.error)?;
            Ok(())
        };
        write().map_err(HubError::io(&path))
    }
}

#[cfg(unix)]
fn link(target: &Path, _: &Path, place: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

/// Links need a privilege there; huggingface_hub copies too.
#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, place: &Path) -> std::io::Result<()> {
    std::fs::copy(blob, place).map(drop)
}
