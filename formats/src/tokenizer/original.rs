//! A folder's tokenizer as Hugging Face's library runs it, to see where ours gives other ids.

use std::path::Path;

use tokenizers::Tokenizer;

use crate::error::{Error, Result};
use crate::{json, small_file};

/// The first place at which two tokenizers cut a text differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Tokens before it, which are the same.
    pub position: usize,
    /// What plmconv and llama.cpp have there; `None` at the end.
    pub ours: Option<u32>,
    /// What transformers has there; `None` at the end.
    pub theirs: Option<u32>,
}

/// Compares `ids`, those of `text` without a token added to it, with the ones by the tokenizer.json at `path`. `None`
/// if they are the same.
///
/// # Errors
/// A tokenizer.json that the library does not load.
pub(super) fn first_difference(path: &Path, text: &str, ids: &[u32]) -> Result<Option<Difference>> {
    let error = |e: tokenizers::Error| Error::Tokenizer { path: path.to_path_buf(), detail: e.to_string() };
    let bytes = json::to_standard(path, small_file::read(path)?)?;
    let mut original = Tokenizer::from_bytes(bytes).map_err(error)?;
    // As transformers does unless it is asked for them.
    original.with_truncation(None).map_err(error)?;
    original.with_padding(None);
    let encoded = original.encode_fast(text, false).map_err(error)?;
    let theirs = encoded.get_ids();
    let position = ids.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    let (ours, theirs) = (ids.get(position).copied(), theirs.get(position).copied());
    Ok((ours != theirs).then_some(Difference { position, ours, theirs }))
}
