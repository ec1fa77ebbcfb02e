//! What can go wrong between numbers and blocks, and in choosing types.

use plmconv_formats::DType;

/// Why values could not be encoded or decoded, or types could not be assigned.
#[allow(missing_docs, reason = "each variant has its message")]
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("type {dtype} cannot be encoded by this build")]
    CannotEncode { dtype: DType },

    #[error("type {dtype} cannot be decoded by this build")]
    CannotDecode { dtype: DType },

    #[error(
        "a row of {cols} values is not a positive multiple of the {block_len} values in a block of {dtype}"
    )]
    RowLength { dtype: DType, cols: usize, block_len: usize },

    #[error("{values} values are not whole rows of {cols}")]
    PartialRow { values: usize, cols: usize },

    #[error("the {dtype} form of {values} values takes {expected} bytes, the buffer has {found}")]
    EncodedLength { dtype: DType, values: usize, expected: usize, found: usize },

    #[error("{bytes} bytes are not whole blocks of {dtype} ({block_bytes} bytes each)")]
    PartialBlock { dtype: DType, bytes: usize, block_bytes: usize },

    #[error("{bytes} bytes of {dtype} hold {expected} values, the buffer has room for {found}")]
    DecodedLength { dtype: DType, bytes: usize, expected: usize, found: usize },

    #[error("the importance has {found} values, a row has {cols}")]
    ImportanceLength { found: usize, cols: usize },

    #[error(
        "row {row} holds a value or scale that {dtype} cannot store as a finite number \
         (its half-precision fields end at 65504)"
    )]
    NotRepresentable { dtype: DType, row: usize },

    #[error("unknown type `{name}`; nearest: {nearest}")]
    UnknownFileType { name: String, nearest: String },

    #[error("unknown tensor type `{name}`; nearest: {nearest}")]
    UnknownTensorType { name: String, nearest: String },

    #[error("`{text}` is not PATTERN=TYPE")]
    MalformedOverride { text: String },

    #[error("the pattern `{pattern}` is not a valid regular expression: {source}")]
    BadPattern { pattern: String, source: Box<regex::Error> },

    #[error("the pattern `{pattern}` matches no tensor that can be quantized")]
    UnmatchedPattern { pattern: String },

    #[error("the types to take over include none for {tensor}")]
    UnnamedTensor { tensor: String },

    #[error("{tensor} would become {dtype}, which is useless without the importance of its columns")]
    NeedsImportance { tensor: String, dtype: DType },

    #[error("entry {at} of the diagonal is {value}: not a sum of squares")]
    NotACovariance { at: usize, value: f32 },

    #[error("a matrix of {rows} rows stays indefinite however much it is damped")]
    NotPositiveDefinite { rows: usize },
}
