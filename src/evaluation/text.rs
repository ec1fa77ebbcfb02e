//! Texts to measure on.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plmconv_formats::{Error as FormatError, TextTokenizer};
use plmconv_validate::Windows;

use crate::error::{At, NotUtf8, Place, UsageError};
use crate::progress::Console;

/// Tokens of a window where nothing else is said.
pub const DEFAULT_CTX: usize = 512;

/// How a text is cut into windows, as far as the user says it.
#[derive(Clone, Copy, Debug)]
pub struct WindowChoice {
    /// Tokens of a window.
    pub ctx: Option<usize>,
    /// All, if not said.
    pub chunks: Option<usize>,
}

/// A text and where it was read, once: a pipe has nothing more to give.
pub struct Text {
    pub path: PathBuf,
    pub content: String,
}

impl Text {
    /// Reads a text.
    ///
    /// # Errors
    /// As [`read_text`].
    pub fn read(path: &Path) -> Result<Text> {
        Ok(Text { path: path.into(), content: read_text(path)? })
    }
}

/// The tokens of a text. Warns where transformers would see others.
pub fn tokens_of(tokenizer: &TextTokenizer, text: &str, console: Console) -> Result<Vec<u32>> {
    let tokens = tokenizer.encode(text)?;
    if let Some(difference) = tokenizer.differs_from_transformers(text, &tokens) {
        let name = |id: Option<u32>| match id {
            Some(id) => format!("{:?} ({id})", String::from_utf8_lossy(&tokenizer.token_bytes(id))),
            None => "nothing".into(),
        };
        console.warn(&format!(
            "this text has other tokens in transformers than in llama.cpp, whose rules apply here: after {} tokens \
             it has {} instead of {}",
            difference.position,
            name(difference.theirs),
            name(difference.ours)
        ));
    }
    Ok(tokens)
}

/// More text than any measure needs; tokens take several times its length.
const MOST_BYTES: u64 = 1 << 30;

/// Reads a text, from a file or a pipe.
///
/// # Errors
/// Unreadable, or not UTF-8 (the first bad byte is named).
pub fn read_text(path: &Path) -> Result<String> {
    if path == Path::new("-") && !path.exists() {
        let hint = "name a file; what a pipe brings is read with /dev/stdin in its place";
        return Err(UsageError::with_hint("`-` is not a text", hint).into());
    }
    let bytes = read_bytes(path).at(Place::Text)?;
    String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        let is_utf16 = e.as_bytes().starts_with(&[0xff, 0xfe]) || e.as_bytes().starts_with(&[0xfe, 0xff]);
        NotUtf8 { path: path.into(), offset, is_utf16 }.into()
    })
}

fn read_bytes(path: &Path) -> Result<Vec<u8>, FormatError> {
    let file = File::open(path).map_err(FormatError::io(path))?;
    let kind = file.metadata().map_err(FormatError::io(path))?;
    if kind.is_dir() {
        return Err(FormatError::NotAFile { path: path.into(), kind: "a folder" });
    }
    let mut bytes = Vec::new();
    // A device may never end.
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(FormatError::io(path))?;
    match bytes.len() as u64 {
        len if len > MOST_BYTES => {
            Err(FormatError::TooLarge { path: path.into(), len: kind.len().max(len), limit: MOST_BYTES })
        }
        _ => Ok(bytes),
    }
}

/// Cuts a text's tokens into windows, `bos` first in each where the tokenizer wants it.
///
/// # Errors
/// Fewer tokens than two windows have, or windows too short to score.
pub fn windows_of<'a>(
    tokens: &'a [u32],
    tokenizer: &TextTokenizer,
    ctx: usize,
    chunks: Option<usize>,
) -> Result<Windows<'a>> {
    let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
    Windows::new(tokens, ctx, chunks, bos).context("the text does not fit")
}
