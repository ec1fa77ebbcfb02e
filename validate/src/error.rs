//! One variant per defect; each says where it was seen.

use std::path::PathBuf;

use plmconv_formats::{DType, TensorKey};

use crate::Site;

/// What can go wrong when a model is run or two are compared.
#[allow(missing_docs, reason = "each variant has its message")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error(transparent)]
    Format(#[from] plmconv_formats::Error),
    #[error("interrupted")]
    Stopped,
    #[error("tensor `{tensor}` is missing")]
    MissingTensor { tensor: TensorKey },
    #[error("tensor `{tensor}` has {found:?} rows and columns, the evaluator needs {expected:?}")]
    Shape { tensor: TensorKey, found: [usize; 2], expected: [usize; 2] },
    #[error("tensor `{tensor}` is stored as {dtype}, which the evaluator does not decode")]
    UnsupportedType { tensor: TensorKey, dtype: DType },
    #[error("tensor `{tensor}` holds a value that is not finite, in row {row}")]
    NonFiniteWeight { tensor: TensorKey, row: usize },
    #[error("non-finite activations {site} (token {token} of the batch)")]
    NonFinite { site: Site, token: usize },
    #[error("logits are not finite (scored position {row} of the batch)")]
    NonFiniteLogits { row: usize },
    #[error("token id {token} at position {position} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { token: u32, position: usize, vocab_size: usize },
    #[error("a sequence has no tokens")]
    EmptySequence,
    #[error("logits were asked for rows {start}..{end} of a sequence of {tokens} new tokens")]
    WantedRows { start: usize, end: usize, tokens: usize },
    #[error("position {position} is past the model's context of {context} tokens")]
    ContextLength { position: usize, context: usize },
    #[error("this cache was made for another model or another form of attention")]
    CacheMismatch,
    #[error("the text has {tokens} tokens, fewer than the {needed} that two windows of {ctx} need")]
    TextTooShort { tokens: usize, needed: usize, ctx: usize },
    #[error("a window of {ctx} tokens is too short to score (at least 4)")]
    WindowTooShort { ctx: usize },
    #[error("the two sides differ in vocabulary: {candidate} tokens against {reference}")]
    Vocabulary { candidate: usize, reference: usize },
    #[error("threads: {detail}")]
    Threads { detail: String },
    #[error("sampling temperature {temperature} is not a number from 0 up")]
    Temperature { temperature: f32 },
    #[error("{}: {detail}", path.display())]
    Reference { path: PathBuf, detail: String },
    #[error("ONNX Runtime's library cannot be used: {detail}")]
    RuntimeLibrary { detail: String },
    #[error("{}: ONNX Runtime: {detail}", path.display())]
    Runtime { path: PathBuf, detail: String },
    #[error("{}: tensor `{tensor}` at byte {offset}: {detail}", path.display())]
    ReadBack { path: PathBuf, tensor: String, offset: u64, detail: String },
    #[error("{}: {len} bytes of {expected}", path.display())]
    ReadBackLength { path: PathBuf, len: u64, expected: u64 },
    #[error("{}: {found} tensors of {expected}", path.display())]
    ReadBackCount { path: PathBuf, found: usize, expected: usize },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
