//! Texts to measure on.

use std::path::Path;

use anyhow::{Context, Result};
use plmconv_formats::{Error as FormatError, TextTokenizer};
use plmconv_validate::Windows;

use crate::error::NotUtf8;

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
