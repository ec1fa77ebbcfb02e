//! A folder's small files: read whole, but not without bound.

use std::path::Path;

use crate::error::{Error, Result};
use crate::source::InputFile;

/// Several times the largest tokenizer.json in use.
pub const MAX_BYTES: u64 = 128 << 20;

/// Reads a file.
///
/// # Errors
/// What [`InputFile::open`] refuses (a link that leads nowhere, a device, a stand-in for the file), and a file of more
/// than [`MAX_BYTES`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let file = InputFile::open(path)?;
    if file.len() > MAX_BYTES {
        return Err(Error::TooLarge { path: path.into(), len: file.len(), limit: MAX_BYTES });
    }
    let mut bytes = vec![0; file.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads a file, or `None` if nothing has this name. A link that leads nowhere is an error: what it points to is
/// missing, not absent.
pub fn read_optional(path: &Path) -> Result<Option<Vec<u8>>> {
    match read(path) {
        Err(Error::NotFound { .. }) => Ok(None),
        read => read.map(Some),
    }
}

/// Reads a text, or `None` if nothing has this name.
///
/// # Errors
/// As [`read_optional`] and [`utf8`].
pub fn read_optional_text(path: &Path) -> Result<Option<String>> {
    read_optional(path)?.map(|bytes| utf8(path, bytes)).transpose()
}

/// The text that was read from `path`, without a byte order mark.
///
/// # Errors
/// [`Error::NotUtf8`], which says where or what it is instead.
pub fn utf8(path: &Path, bytes: Vec<u8>) -> Result<String> {
    let not_utf8 = |detail: String| Error::NotUtf8 { path: path.into(), detail };
    if is_utf16(&bytes) {
        return Err(not_utf8("it is UTF-16".into()));
    }
    let mut text = String::from_utf8(bytes).map_err(|e| {
        let (valid, rest) = e.as_bytes().split_at(e.utf8_error().valid_up_to());
        let line_start = valid.iter().rposition(|b| *b == b'\n').map_or(0, |newline| newline + 1);
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        not_utf8(format!("byte {:#04x} at line {line}, column {}", rest[0], valid.len() - line_start + 1))
    })?;
    if text.starts_with('\u{feff}') {
        text.drain(..'\u{feff}'.len_utf8());
    }
    Ok(text)
}

/// By its byte order mark, or by the zero byte that the first character of any of our files has in UTF-16.
fn is_utf16(bytes: &[u8]) -> bool {
    matches!(bytes, [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, 1..=255, ..] | [1..=255, 0, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(unix)]
    #[test]
    fn only_regular_files_of_a_bounded_size_are_read() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("config.json");
        assert_eq!(read_optional(&path).expect("is absent"), None);

        std::os::unix::fs::symlink("../blobs/0123", &path).expect("link");
        let error = read_optional(&path).expect_err("leads nowhere");
        assert!(matches!(&error, Error::DanglingLink { target, .. } if target == Path::new("../blobs/0123")));

        for (target, kind) in [("/dev/zero", "a device"), ("/", "a folder")] {
            std::fs::remove_file(&path).expect("remove");
            std::os::unix::fs::symlink(target, &path).expect("link");
            let error = read_optional(&path).expect_err(kind);
            assert!(matches!(&error, Error::NotAFile { kind: found, .. } if *found == kind), "{error}");
        }

        std::fs::remove_file(&path).expect("remove");
        let file = std::fs::File::create(&path).expect("create");
        file.set_len(MAX_BYTES + 1).expect("a sparse file");
        assert!(matches!(read_optional(&path), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn stand_ins_are_recognised() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("tokenizer.json");
        let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9085657\n";
        std::fs::write(&path, pointer).expect("write");
        assert!(matches!(read(&path), Err(Error::LfsPointer { .. })));
        for page in ["<!doctype html>\n<html>", "\n <HTML lang=\"en\">"] {
            std::fs::write(&path, page).expect("write");
            assert!(matches!(read(&path), Err(Error::WebPage { .. })), "{page}");
        }
        std::fs::write(&path, "<html").expect("write");
        assert!(read(&path).is_ok());
    }
}
