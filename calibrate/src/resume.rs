//! What an interrupted run had finished, kept beside its output until `--resume` goes on with it.
//!
//! `<OUT>.partial` is the output as far as it was written, at its full length, and behind it:
//!
//! ```text
//! extra bytes | journal (JSON) | its SHA-256 | its length, u64 little endian | MAGIC
//! ```
//!
//! It is renamed into place whole, so it is there or it is not; the output itself still appears only when complete.
//! The journal's key is a digest of all that decides the output's bytes: another run's work is never taken. Finished
//! parts are copied from it into the new output's temporary, each checked against its digest, and the file itself stays
//! as it is until the output is complete or a run that took it keeps more: whatever ends that run, nothing is lost.

use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plmconv_formats::Error as FormatError;
use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::hex;
use plmconv_formats::source::InputFile;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, Leftover, Result};
use crate::monitor::{Monitor, Notice};

const MAGIC: [u8; 8] = *b"plmconv2";
/// The journal's digest, its length and the magic.
const TAIL: u64 = 32 + 8 + 8;

/// The longest journal that is read; one lists a few thousand parts.
const MAX_JOURNAL: u64 = 16 << 20;
/// Bytes that are copied at a time.
const COPY: u64 = 1 << 20;

/// What a run had finished.
#[derive(Debug, Default)]
pub struct Finished {
    /// Parts of the output that need not be made again.
    pub parts: Vec<Part>,
    /// What else it needs to go on.
    pub extra: Vec<u8>,
}

/// A finished part of an output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// As the run counts them.
    pub number: usize,
    /// Where it is in the output.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    sha256: String,
}

impl Part {
    /// Part `number`, which is `bytes` at `offset`.
    pub fn new(number: usize, offset: u64, bytes: &[u8]) -> Part {
        Part { number, offset, bytes: bytes.len() as u64, sha256: digest(bytes) }
    }
}

fn digest(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

#[derive(Debug, Serialize, Deserialize)]
struct Journal {
    key: String,
    file_bytes: u64,
    extra_bytes: u64,
    extra_sha256: String,
    parts: Vec<Part>,
}

impl Journal {
    fn finished_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }
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
/// What [`AtomicFile::create`] says; kept work of another key, or damaged; a monitor that says stop. Kept work is left
/// alone.
pub fn start(
    output: &Path,
    overwrite: bool,
    file_bytes: u64,
    key: Option<&str>,
    monitor: &dyn Monitor,
) -> Result<(AtomicFile, Finished)> {
    let partial = partial_path(output);
    let kept = partial.is_file();
    let create = || -> Result<AtomicFile> {
        let file = AtomicFile::create(output, overwrite)?;
        file.file().set_len(file_bytes).map_err(FormatError::io(output))?;
        Ok(file)
    };
    let Some(key) = key.filter(|_| kept) else {
        if kept && Kept::open(&partial).is_ok() {
            monitor.notice(&Notice::EarlierWork { path: partial });
        }
        return Ok((create()?, Finished::default()));
    };
    let kept = Kept::open(&partial)?;
    if kept.journal.key != key || kept.journal.file_bytes != file_bytes {
        return Err(Error::ForeignWork { path: partial });
    }
    let file = create()?;
    kept.copy_to(&file, monitor)?;
    Ok((file, Finished { parts: kept.journal.parts, extra: kept.extra }))
}

/// Keeps the work of an interrupted run; says where, or what is there instead: a file that is not ours, another
/// run's work, or more than this run had finished.
///
/// # Errors
/// A file that cannot be written; what was kept before is then still there.
pub fn keep(file: AtomicFile, key: &str, file_bytes: u64, finished: Finished) -> Result<Leftover> {
    let journal = Journal {
        key: key.into(),
        file_bytes,
        extra_bytes: finished.extra.len() as u64,
        extra_sha256: digest(&finished.extra),
        parts: finished.parts,
    };
    let partial = partial_path(file.target());
    if partial.exists() {
        match Kept::open(&partial) {
            Ok(kept) if kept.journal.key != key => return Ok(Leftover::InTheWay(partial)),
            Ok(kept) if kept.journal.finished_bytes() > journal.finished_bytes() => {
                return Ok(Leftover::Kept(partial));
            }
            Ok(_) => {}
            Err(_) => return Ok(Leftover::InTheWay(partial)),
        }
    }
    let journal = serde_json::to_vec(&journal).expect("a journal is numbers and text");
    let mut out = file.file();
    out.seek(SeekFrom::Start(file_bytes))
        .and_then(|_| out.write_all(&finished.extra))
        .and_then(|()| out.write_all(&journal))
        .and_then(|()| out.write_all(&Sha256::digest(&journal)))
        .and_then(|()| out.write_all(&(journal.len() as u64).to_le_bytes()))
        .and_then(|()| out.write_all(&MAGIC))
        .map_err(FormatError::io(&partial))?;
    file.set_aside(&partial)?;
    Ok(Leftover::Kept(partial))
}

/// Removes what an earlier run kept for `output`, now that it is complete.
pub fn discard(output: &Path) {
    let partial = partial_path(output);
    // Only what is surely ours; one that cannot be removed is wasted space and no reason to fail.
    if partial.is_file() && Kept::open(&partial).is_ok() {
        let _ = std::fs::remove_file(partial);
    }
}

fn ensure(holds: bool, detail: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(detail()) }
}

/// Opened kept work. Its journal and the extra bytes are checked, its parts when they are copied.
struct Kept {
    input: Arc<InputFile>,
    journal: Journal,
    extra: Vec<u8>,
}

impl Kept {
    fn open(path: &Path) -> Result<Kept> {
        Kept::read(path).map_err(|detail| Error::DamagedWork { path: path.into(), detail })
    }

    /// What is wrong with it is an error's text.
    fn read(path: &Path) -> Result<Kept, String> {
        let input = InputFile::open(path).map_err(|e| e.to_string())?;
        let len = input.len();
        let read = |len: u64, offset: u64| {
            let mut bytes = vec![0; len as usize];
            input.read_exact_at(&mut bytes, offset).map_err(|e| e.to_string())?;
            Ok::<_, String>(bytes)
        };
        ensure(len >= TAIL, || "no journal".into())?;
        let tail = read(TAIL, len - TAIL)?;
        let (sha256, rest) = tail.split_at(32);
        let (length, magic) = rest.split_at(8);
        ensure(magic == MAGIC, || "no journal".into())?;
        let length = u64::from_le_bytes(length.try_into().expect("eight bytes"));
        ensure(length <= MAX_JOURNAL && length <= len - TAIL, || format!("a journal of {length} bytes"))?;
        let journal = read(length, len - TAIL - length)?;
        ensure(Sha256::digest(&journal)[..] == *sha256, || "its journal is not what was written".into())?;
        let journal: Journal = serde_json::from_slice(&journal).map_err(|e| e.to_string())?;
        let sizes = [journal.file_bytes, journal.extra_bytes, length, TAIL];
        let sum = sizes.iter().try_fold(0u64, |sum, &part| sum.checked_add(part));
        ensure(sum == Some(len), || "its parts do not add up to its length".into())?;
        let is_inside =
            |part: &Part| part.offset.checked_add(part.bytes).is_some_and(|end| end <= journal.file_bytes);
        ensure(journal.parts.iter().all(is_inside), || "a part runs past the output's end".into())?;
        let extra = read(journal.extra_bytes, journal.file_bytes)?;
        ensure(digest(&extra) == journal.extra_sha256, || {
            "what follows the output is not what was written".into()
        })?;
        Ok(Kept { input, journal, extra })
    }

    /// Copies the finished parts to where they belong in `file`.
    ///
    /// # Errors
    /// A part that is not what was written, and a monitor that says stop.
    fn copy_to(&self, file: &AtomicFile, monitor: &dyn Monitor) -> Result<()> {
        let mut bytes = Vec::new();
        for part in &self.journal.parts {
            let mut hash = Sha256::new();
            for start in (0..part.bytes).step_by(COPY as usize) {
                if monitor.should_stop() {
                    return Err(Error::Interrupted(Leftover::Kept(self.input.path().into())));
                }
                bytes.resize((part.bytes - start).min(COPY) as usize, 0);
                self.input.read_exact_at(&mut bytes, part.offset + start)?;
                hash.update(&bytes);
                file.write_at(&bytes, part.offset + start)?;
            }
            if hex(hash.finalize()) != part.sha256 {
                let Part { offset, bytes, .. } = part;
                let detail = format!("the {bytes} bytes from byte {offset} on are not what was written");
                return Err(Error::DamagedWork { path: self.input.path().into(), detail });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::Silent;

    fn begin(output: &Path, file_bytes: u64, key: Option<&str>) -> Result<(AtomicFile, Finished)> {
        start(output, false, file_bytes, key, &Silent)
    }

    /// Writes `abcd` at byte 2 and is interrupted.
    fn finish_a_part(output: &Path, key: &str) -> Leftover {
        let (file, _) = begin(output, 8, None).expect("starts");
        file.write_at(b"abcd", 2).expect("writable");
        let finished = Finished { parts: vec![Part::new(3, 2, b"abcd")], extra: b"more".to_vec() };
        keep(file, key, 8, finished).expect("kept or not")
    }

    fn kept(dir: &Path) -> PathBuf {
        let output = dir.join("out");
        assert!(
            matches!(finish_a_part(&output, "key"), Leftover::Kept(path) if path == partial_path(&output))
        );
        assert!(!output.exists());
        output
    }

    fn bytes_of(output: &Path) -> Vec<u8> {
        std::fs::read(partial_path(output)).expect("kept")
    }

    #[test]
    fn what_was_finished_comes_back_and_stays_until_the_output_is_whole() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        let before = bytes_of(&output);
        let (file, finished) = begin(&output, 8, Some("key")).expect("goes on");
        assert_eq!((finished.parts, finished.extra), (vec![Part::new(3, 2, b"abcd")], b"more".to_vec()));
        // A kill here, or any failure, takes nothing.
        assert_eq!(bytes_of(&output), before);
        file.commit().expect("commit");
        assert_eq!(bytes_of(&output), before);
        assert_eq!(std::fs::read(&output).expect("written"), b"\0\0abcd\0\0");
        discard(&output);
        assert!(!partial_path(&output).exists());
    }

    #[test]
    fn more_work_takes_the_place_of_less_and_not_the_other_way_round() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        let (file, mut finished) = begin(&output, 8, Some("key")).expect("goes on");
        file.write_at(b"xy", 0).expect("writable");
        finished.parts.push(Part::new(0, 0, b"xy"));
        keep(file, "key", 8, finished).expect("kept");
        let more = bytes_of(&output);
        let (_, finished) = begin(&output, 8, Some("key")).expect("goes on");
        assert_eq!(finished.parts.len(), 2);
        // A run that starts over and is interrupted earlier.
        assert!(matches!(finish_a_part(&output, "key"), Leftover::Kept(_)));
        assert_eq!(bytes_of(&output), more);
        assert!(matches!(finish_a_part(&output, "other"), Leftover::InTheWay(_)));
        assert_eq!(bytes_of(&output), more);
    }

    #[test]
    fn work_of_another_run_is_refused_and_stays() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        for (file_bytes, key) in [(8, "other"), (9, "key")] {
            let error = begin(&output, file_bytes, Some(key)).expect_err("not this run's");
            assert!(matches!(error, Error::ForeignWork { .. }), "{error}");
        }
        let (_, finished) = begin(&output, 8, None).expect("starts over");
        assert!(finished.parts.is_empty() && partial_path(&output).exists());
    }

    #[test]
    fn any_changed_byte_of_what_is_taken_is_refused_and_the_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = kept(dir.path());
        let (partial, bytes) = (partial_path(&output), bytes_of(&output));
        let refused = |damaged: &[u8], what: &str| {
            std::fs::write(&partial, damaged).expect("writable");
            let error = begin(&output, 8, Some("key")).expect_err(what);
            assert!(matches!(error, Error::DamagedWork { .. }), "{what}: {error}");
            assert_eq!(bytes_of(&output), damaged, "{what}");
        };
        for cut in [0, 7, 20, bytes.len() - 1] {
            refused(&bytes[..cut], "cut");
        }
        refused(&bytes[1..], "shifted");
        for at in 2..bytes.len() {
            // Bytes 6 and 7 belong to no finished part: they are written again.
            if !(6..8).contains(&at) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                refused(&damaged, &format!("byte {at}"));
            }
        }
    }

    #[test]
    fn a_file_of_the_user_is_neither_taken_nor_replaced_nor_removed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = dir.path().join("out");
        std::fs::write(partial_path(&output), b"notes").expect("writable");
        assert!(begin(&output, 8, Some("key")).is_err());
        assert!(matches!(finish_a_part(&output, "key"), Leftover::InTheWay(_)));
        discard(&output);
        assert_eq!(bytes_of(&output), b"notes");
    }
}
