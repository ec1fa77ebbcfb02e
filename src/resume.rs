//! What an interrupted run had finished, kept beside its output until `--resume` goes on with it.
//!
//! `<OUT>.partial` is the output as far as it was written, at its full length, and behind it:
//!
//! ```text
//! extra bytes | journal (JSON) | its length, u64 little endian | MAGIC
//! ```
//!
//! It is renamed into place whole, so it is there or it is not; the output itself still appears only when complete.
//! The journal's key is a digest of all that decides the output's bytes: another run's work is never taken.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plmconv_formats::Error as FormatError;
use plmconv_formats::atomic::AtomicFile;
use serde::{Deserialize, Serialize};

use crate::error::UsageError;

const MAGIC: [u8; 8] = *b"plmconv1";

/// The longest journal that is read; one lists a few thousand numbers.
const MAX_JOURNAL: u64 = 16 << 20;

/// What a run had finished.
#[derive(Debug, Default)]
pub struct Finished {
    /// Numbers of the finished parts, as the run counts them.
    pub parts: Vec<usize>,
    /// What else it needs to go on.
    pub extra: Vec<u8>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    key: String,
    file_bytes: u64,
    extra_bytes: u64,
    parts: Vec<usize>,
}

/// Where an interrupted run's work is kept.
pub fn partial_path(output: &Path) -> PathBuf {
    with_suffix(output, ".partial")
}

/// `output` with `suffix` after its whole name.
pub fn with_suffix(output: &Path, suffix: &str) -> PathBuf {
    let mut name = output.as_os_str().to_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

/// Starts `output` of `file_bytes`; with a key it goes on with what an interrupted run of that key had finished, if
/// there is such.
///
/// # Errors
/// What [`AtomicFile::create`] says; kept work of another key; a damaged file of kept work.
pub fn start(
    output: &Path,
    overwrite: bool,
    file_bytes: u64,
    key: Option<&str>,
) -> Result<(AtomicFile, Finished)> {
    let partial = partial_path(output);
    let Some(key) = key.filter(|_| partial.is_file()) else {
        let file = AtomicFile::create(output, overwrite)?;
        file.file().set_len(file_bytes).map_err(FormatError::io(output))?;
        return Ok((file, Finished::default()));
    };
    let (journal, extra) = read(&partial)?;
    if journal.key != key || journal.file_bytes != file_bytes {
        let message = format!(
            "{}: kept by a run on another model, or with other arguments or statistics",
            partial.display()
        );
        return Err(UsageError::with_hint(message, "leave --resume away to start over").into());
    }
    let file = AtomicFile::create_from(output, overwrite, &partial)?;
    file.file().set_len(file_bytes).map_err(FormatError::io(output))?;
    Ok((file, Finished { parts: journal.parts, extra }))
}

/// Keeps the work of an interrupted run; returns where.
pub fn keep(file: AtomicFile, key: &str, file_bytes: u64, finished: Finished) -> Result<PathBuf> {
    let journal = Journal {
        key: key.into(),
        file_bytes,
        extra_bytes: finished.extra.len() as u64,
        parts: finished.parts,
    };
    let journal = serde_json::to_vec(&journal)?;
    let partial = partial_path(file.target());
    let mut out = file.file();
    out.seek(SeekFrom::Start(file_bytes))
        .and_then(|_| out.write_all(&finished.extra))
        .and_then(|()| out.write_all(&journal))
        .and_then(|()| out.write_all(&(journal.len() as u64).to_le_bytes()))
        .and_then(|()| out.write_all(&MAGIC))
        .map_err(FormatError::io(&partial))?;
    file.set_aside(&partial)?;
    Ok(partial)
}

/// Removes what an earlier run kept for `output`, now that it is complete.
pub fn discard(output: &Path) {
    let partial = partial_path(output);
    // Only what is surely ours; one that cannot be removed is wasted space and no reason to fail.
    if partial.is_file() && read(&partial).is_ok() {
        let _ = std::fs::remove_file(partial);
    }
}

fn read(path: &Path) -> Result<(Journal, Vec<u8>)> {
    read_end(path).with_context(|| format!("{}: not kept by an interrupted run, or damaged", path.display()))
}

fn read_end(path: &Path) -> Result<(Journal, Vec<u8>)> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut tail = [0; 16];
    file.seek(SeekFrom::End(-16))?;
    file.read_exact(&mut tail)?;
    let (length, magic) = tail.split_at(8);
    anyhow::ensure!(magic == MAGIC, "no journal");
    let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
    anyhow::ensure!(length <= MAX_JOURNAL && length + 16 <= len, "a journal of {length} bytes");
    let mut journal = vec![0; length as usize];
    file.seek(SeekFrom::Start(len - 16 - length))?;
    file.read_exact(&mut journal)?;
    let journal: Journal = serde_json::from_slice(&journal)?;
    let parts = [journal.file_bytes, journal.extra_bytes, length, 16];
    let sum = parts.iter().try_fold(0u64, |sum, &part| sum.checked_add(part));
    anyhow::ensure!(sum == Some(len), "its parts do not add up to its length");
    let mut extra = vec![0; journal.extra_bytes as usize];
    file.seek(SeekFrom::Start(journal.file_bytes))?;
    file.read_exact(&mut extra)?;
    Ok((journal, extra))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::write_all_at;

    fn kept(dir: &Path) -> PathBuf {
        let output = dir.join("out");
        let (file, finished) = start(&output, false, 8, Some("key")).expect("starts");
        assert!(finished.parts.is_empty() && finished.extra.is_empty());
        write_all_at(file.file(), b"abcd", 2).expect("writable");
        let finished = Finished { parts: vec![3, 1], extra: b"more".to_vec() };
        assert_eq!(keep(file, "key", 8, finished).expect("kept"), partial_path(&output));
        assert!(!output.exists());
        output
    }

    #[test]
    fn what_was_finished_comes_back_and_the_output_is_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        let (file, finished) = start(&output, false, 8, Some("key")).expect("goes on");
        assert_eq!((finished.parts, finished.extra), (vec![3, 1], b"more".to_vec()));
        assert!(!partial_path(&output).exists(), "taken");
        file.commit().expect("commit");
        assert_eq!(std::fs::read(&output).expect("written"), b"\0\0abcd\0\0");
    }

    #[test]
    fn work_of_another_run_is_refused_and_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        assert!(start(&output, false, 8, Some("other")).is_err());
        assert!(start(&output, false, 9, Some("key")).is_err());
        // Without resuming it is not looked at, and goes once the output is complete.
        let (file, finished) = start(&output, false, 8, None).expect("starts over");
        assert!(finished.parts.is_empty() && partial_path(&output).exists());
        file.commit().expect("commit");
        discard(&output);
        assert!(!partial_path(&output).exists());
    }

    #[test]
    fn damaged_work_is_refused_and_a_file_of_the_user_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        let partial = partial_path(&output);
        let bytes = std::fs::read(&partial).expect("kept");
        for cut in [0, 7, 20, bytes.len() - 1] {
            std::fs::write(&partial, &bytes[..cut]).expect("writable");
            assert!(start(&output, false, 8, Some("key")).is_err(), "{cut}");
        }
        std::fs::write(&partial, &bytes[1..]).expect("writable");
        assert!(start(&output, false, 8, Some("key")).is_err(), "shifted");
        discard(&output);
        assert!(partial.exists());
    }
}
