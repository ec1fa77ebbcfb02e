//! Texts to measure on.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plmconv_formats::{Error as FormatError, TextTokenizer};
use plmconv_validate::Windows;

use crate::error::NotUtf8;
use crate::progress::Console;

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
            "this text has other tokens in transformers than in llama.cpp, whose rules hold here: after {} tokens \
             it has {} instead of {}",
            difference.position,
            name(difference.theirs),
            name(difference.ours)
        ));
    }
    Ok(tokens)
}

/// Reads a text.
///
/// # Errors
/// Unreadable, or not UTF-8 (the first bad byte is named).
pub fn read_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(FormatError::io(path))?;
    String::from_utf8(bytes)
        .map_err(|e| NotUtf8 { path: path.into(), offset: e.utf8_error().valid_up_to() }.into())
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
