//! One variant per defect; each names the file, and the tensor or offset where there is one.

use std::path::{Path, PathBuf};

use crate::DType;
use crate::gguf::is_unfinished_shard;
use crate::model::Foreign;

/// What can be wrong with a model on disk, or with writing one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each variant has its message")]
pub enum Error {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{}: no such file or folder", path.display())]
    NotFound { path: PathBuf },
    #[error(
        "{}: a folder of the hub's cache with {} snapshots, and no refs/main that names one of them",
        path.display(), found.len()
    )]
    NoSnapshot { path: PathBuf, found: Vec<PathBuf> },
    #[error("{}: a link to {}, which is not there", path.display(), target.display())]
    DanglingLink { path: PathBuf, target: PathBuf },
    #[error("{}: {kind}, not a regular file", path.display())]
    NotAFile { path: PathBuf, kind: &'static str },
    #[error("{}: {len} bytes are more than such a file can have ({limit})", path.display())]
    TooLarge { path: PathBuf, len: u64, limit: u64 },
    #[error("{}: a git-lfs pointer to the file, not the file itself", path.display())]
    LfsPointer { path: PathBuf },
    #[error("{}: an HTML page, not the file itself", path.display())]
    WebPage { path: PathBuf },
    #[error("{}: not UTF-8: {detail}", path.display())]
    NotUtf8 { path: PathBuf, detail: String },
    #[error("{}: neither a Hugging Face folder nor a GGUF, safetensors or ONNX file", path.display())]
    UnknownFormat { path: PathBuf },
    #[error("{}: not a LoRA adapter: {missing} is not there", path.display())]
    NotAnAdapter { path: PathBuf, missing: &'static str },
    #[error("{}: {what} cannot be merged into weights", path.display())]
    Unmergeable { path: PathBuf, what: String },
    #[error("{}: adapters are merged into checkpoints, and this is a file", path.display())]
    BaseNotAFolder { path: PathBuf },
    #[error("{}: `{module}` is not a part of the base model", path.display())]
    UnknownModule { path: PathBuf, module: String },
    #[error("{}: {kind}", path.display())]
    Foreign { path: PathBuf, kind: Foreign },
    #[error("{}: no weights: there is no safetensors file in this folder", path.display())]
    NoWeights { path: PathBuf },
    #[error("{}: {shard} is missing", path.display())]
    MissingShard { path: PathBuf, shard: String },
    #[error("{}: {detail}", path.display())]
    Weights { path: PathBuf, detail: String },
    #[error("{}: bad magic {found:02x?}: not a GGUF file", path.display())]
    BadMagic { path: PathBuf, found: [u8; 4] },
    #[error("{}: a GGUF in big-endian byte order, which plmconv does not read", path.display())]
    BigEndian { path: PathBuf },
    #[error("{}: GGUF version {version} is not supported (2 and 3 are)", path.display())]
    GgufVersion { path: PathBuf, version: u32 },
    #[error("{}: file is truncated: {what} ends at byte {end}, the file has {len}", path.display())]
    Truncated { path: PathBuf, what: String, end: u64, len: u64 },
    #[error("{}: header length {header_len} runs past the end of the file ({len} bytes)", path.display())]
    HeaderLength { path: PathBuf, header_len: u64, len: u64 },
    #[error("{}: {detail} (at byte {offset})", path.display())]
    Malformed { path: PathBuf, offset: u64, detail: String },
    #[error("{}: malformed header: {detail}", path.display())]
    Header { path: PathBuf, detail: String },
    #[error("{}: {detail}", path.display())]
    Json { path: PathBuf, detail: String },
    #[error("{}: more than {limit} {what}: no model has so many", path.display())]
    TooMany { path: PathBuf, what: &'static str, limit: usize },
    #[error("{}: tensor `{tensor}` appears twice", path.display())]
    DuplicateTensor { path: PathBuf, tensor: String },
    #[error("{}: tensor `{tensor}` has type {dtype}, which is not a weight type plmconv reads", path.display())]
    TensorType { path: PathBuf, tensor: String, dtype: String },
    #[error("{}: tensor `{tensor}`: offset {offset} plus {bytes} bytes overflows", path.display())]
    OffsetOverflow { path: PathBuf, tensor: String, offset: u64, bytes: u64 },
    #[error("{}: tensors `{first}` and `{second}` overlap at byte {offset}", path.display())]
    OverlappingTensors { path: PathBuf, first: String, second: String, offset: u64 },
    #[error("{}: tensor `{tensor}` is missing", path.display())]
    MissingTensor { path: PathBuf, tensor: String },
    #[error("{}: tensor `{tensor}` is not part of a PLM", path.display())]
    UnknownTensor { path: PathBuf, tensor: String },
    #[error("tensor `{tensor}` has no name in a checkpoint")]
    NoPublishedName { tensor: String },
    #[error("{}: tensor `{tensor}` has shape {found:?}, but {expected:?} follows from {from}", path.display())]
    Shape { path: PathBuf, tensor: String, found: Vec<usize>, expected: Vec<usize>, from: &'static str },
    #[error("{}: `{key}` is missing", path.display())]
    MissingKey { path: PathBuf, key: String },
    #[error("{}: `{key}` is {found}, expected {expected}", path.display())]
    BadValue { path: PathBuf, key: String, found: String, expected: String },
    #[error("{}: architecture `{found}` is not PLM", path.display())]
    Architecture { path: PathBuf, found: String },
    #[error(
        "{}: `lm_head.weight` differs from the embedding, but a PLM ties the two \
         (the `plm` graph of llama.cpp has no output matrix of its own)", path.display()
    )]
    UntiedHead { path: PathBuf },
    #[error("{}: the `{target}` layout cannot express {what}", path.display())]
    Inexpressible { path: PathBuf, target: &'static str, what: String },
    #[error("tensor `{tensor}` cannot be rewritten: {detail}")]
    Rewrite { tensor: String, detail: String },
    #[error("tensor `{tensor}`: rows of {cols} values do not divide into {dtype} blocks of {block}")]
    RowLength { tensor: String, cols: usize, dtype: DType, block: usize },
    #[error("tensor `{tensor}`: its number of bytes overflows")]
    TensorSize { tensor: String },
    #[error("{}: tokenizer: {detail}", path.display())]
    Tokenizer { path: PathBuf, detail: String },
    #[error("{}: the pre-tokenizer's regex is not one llama.cpp knows: {regex}", path.display())]
    UnknownPreTokenizer { path: PathBuf, regex: String },
    #[error("{}: how the pre-tokenizer `{name}` splits a text is not known here", path.display())]
    UnknownSplits { path: PathBuf, name: String },
    #[error("{}: no tokenizer: neither tokenizer.json nor vocab.json with merges.txt is there", path.display())]
    NoTokenizer { path: PathBuf },
    #[error("{}: token `{token}` has id {id}, but the model's vocabulary ends at {vocab_size}", path.display())]
    TokenOutOfRange { path: PathBuf, token: String, id: u32, vocab_size: usize },
    #[error("{}: tokens `{first}` and `{second}` have the same id {id}", path.display())]
    DuplicateTokenId { path: PathBuf, id: u32, first: String, second: String },
    #[error("{}: token `{token}` appears twice, as ids {first} and {second}", path.display())]
    DuplicateToken { path: PathBuf, token: String, first: u32, second: u32 },
    #[error(
        "{}: added token `{token}` is given id {id}, but a tokenizer that loads this file gives it {loaded}",
        path.display()
    )]
    MisplacedToken { path: PathBuf, token: String, id: u32, loaded: u32 },
    #[error("{}: merge `{merge}` uses or makes a token that is not in the vocabulary", path.display())]
    MergeOutOfVocabulary { path: PathBuf, merge: String },
    #[error(
        "{}: the tokenizer's normalizer {normalizer} changes text in a way that llama.cpp does not: \
         the converted model would see other tokens", path.display()
    )]
    Normalizer { path: PathBuf, normalizer: String },
    #[error("`{name}` is not a pre-tokenizer that llama.cpp knows{}", did_you_mean(nearest))]
    UnknownPreTokenizerName { name: String, nearest: Vec<&'static str> },
    #[error("{} already exists", path.display())]
    Exists { path: PathBuf },
    #[error("{}: cannot be an output: it is {kind}", path.display())]
    NotAnOutput { path: PathBuf, kind: &'static str },
    #[error("{}: not a folder", path.display())]
    NotAFolder { path: PathBuf },
    #[error("{}: no such file or folder", path.display())]
    NoFolder { path: PathBuf },
    #[error("{}: not replaced: {reason}", path.display())]
    NotReplaced { path: PathBuf, reason: String },
    #[error("{}: not of the same set as {}: another run wrote it", path.display(), first.display())]
    MixedShards { path: PathBuf, first: PathBuf },
    #[error("{}: its set was being put in place when the run ended", path.display())]
    UnfinishedSet { path: PathBuf },
    #[error("{}: changed while it was being read", path.display())]
    Changed { path: PathBuf },
    #[error("GGUF metadata `{key}`: {detail}")]
    Metadata { key: String, detail: String },
}

/// This crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn did_you_mean(nearest: &[&str]) -> String {
    if nearest.is_empty() { String::new() } else { format!("; the nearest are {}", nearest.join(", ")) }
}

/// What the last part of `path` is a link to, if that is not there.
fn dangling_link(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok().filter(|_| !path.exists())
}

impl Error {
    /// Wraps an I/O error with the path it happened at.
    pub fn io(path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| match source.kind() {
            // A set's first shard is missing while it is put in place, and stays so if the run is killed then.
            std::io::ErrorKind::NotFound if is_unfinished_shard(&path) => Error::UnfinishedSet { path },
            std::io::ErrorKind::NotFound => match dangling_link(&path) {
                Some(target) => Error::DanglingLink { path, target },
                None => Error::NotFound { path },
            },
            _ => Error::Io { path, source },
        }
    }
}
