//! Reports that go into files.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::Error as FormatError;
use plmconv_formats::atomic::AtomicFile;

use crate::error::{At, Place};
use crate::outputs::Inputs;

/// Where a report goes; made before the work that the report is about, so that a place that cannot be written is reported
/// first.
pub enum ReportFile {
    /// It replaces what is there.
    Atomic(AtomicFile),
    /// A pipe or a terminal, which is written to: there is nothing to replace.
    Stream(PathBuf),
}

impl ReportFile {
    /// # Errors
    /// A path that cannot be written, or that belongs to `inputs`.
    pub fn create(path: &Path, inputs: &Inputs) -> Result<ReportFile> {
        inputs.refuse(path)?;
        if is_stream(path) {
            return Ok(ReportFile::Stream(path.into()));
        }
        Ok(ReportFile::Atomic(AtomicFile::create(path, true).at(Place::Report)?))
    }

    /// Writes the report.
    ///
    /// # Errors
    /// Whatever the file system says; what was there before then stays.
    pub fn write(self, text: &str) -> Result<()> {
        match self {
            ReportFile::Atomic(file) => {
                let written = file.file().write_all(text.as_bytes()).map_err(FormatError::io(file.target()));
                written.at(Place::Report)?;
                file.commit().at(Place::Report)
            }
            ReportFile::Stream(path) => {
                let write = |mut file: File| file.write_all(text.as_bytes());
                let opened = File::options().append(true).open(&path);
                opened.and_then(write).map_err(FormatError::io(path)).at(Place::Report)
            }
        }
    }
}

/// A pipe, a character device, or what `/dev/stdout` and the like refer to.
#[cfg(unix)]
fn is_stream(path: &Path) -> bool {
    use plmconv_formats::atomic::follow_links;
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::metadata(path) else { return false };
    let kind = found.file_type();
    kind.is_fifo() || kind.is_char_device() || (kind.is_file() && follow_links(path).is_err())
}

#[cfg(not(unix))]
fn is_stream(_path: &Path) -> bool {
    false
}
