//! Files of an output folder that are made whole in memory.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, ensure};
use plmconv_formats::Error as FormatError;
use plmconv_formats::atomic::AtomicFolder;

/// Writes a file, or the beginning of one.
///
/// # Errors
/// What the system says.
pub fn write(folder: &AtomicFolder, name: impl AsRef<Path>, bytes: &[u8]) -> Result<File> {
    let name = name.as_ref();
    let mut file = folder.create_file(name)?;
    file.write_all(bytes).map_err(FormatError::io(folder.target().join(name)))?;
    Ok(file)
}

/// Reads a file back.
///
/// # Errors
/// It cannot be read, or is not what was written.
pub fn check(folder: &AtomicFolder, name: &Path, bytes: &[u8]) -> Result<()> {
    let path = folder.path().join(name);
    let found = std::fs::read(&path).map_err(FormatError::io(&path))?;
    ensure!(found == bytes, "{}: not the bytes that were written", folder.target().join(name).display());
    Ok(())
}
