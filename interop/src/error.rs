//! What can go wrong between us and the runtimes.

use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: a path for llama.cpp must be UTF-8 without a zero byte")]
    Path { path: PathBuf },
    #[error("{path}: llama.cpp does not load this file; it says:\n{log}")]
    Load { path: PathBuf, log: String },
    #[error("llama.cpp makes no context for this model; it says:\n{log}")]
    Context { log: String },
    #[error("{path}: llama.cpp does not read this file as GGUF; it says:\n{log}")]
    Gguf { path: PathBuf, log: String },
    #[error("{path}: the data of tensor `{tensor}` end past the file's end")]
    TensorPastEnd { path: PathBuf, tensor: String },
    #[error("{path}: no tensor `{tensor}`")]
    NoTensor { path: PathBuf, tensor: String },
    #[error("llama.cpp does not tokenize a text of {bytes} bytes")]
    Tokenize { bytes: usize },
    #[error("a batch of {tokens} tokens exceeds the context's batch size of {limit}")]
    BatchTooLong { tokens: usize, limit: usize },
    #[error("llama_decode returns {status} for a batch of {tokens} tokens")]
    Decode { status: i32, tokens: usize },
    #[error("a saved sequence cannot be repeated or restored: {why}")]
    State { why: &'static str },
    #[error("the batch asks for no logits, so there are none to read")]
    NoLogits,
    #[error(
        "a text of {tokens} tokens is too short: perplexity over windows of {n_ctx} needs at least {needed}"
    )]
    TextTooShort { tokens: usize, n_ctx: usize, needed: usize },
    #[error("{what} is {value}, which is not possible here: {why}")]
    Option { what: &'static str, value: String, why: &'static str },
    #[error("llama_model_quantize returns {status} for {path}; it says:\n{log}")]
    Quantize { path: PathBuf, status: u32, log: String },
    #[error("the command `{command}` fails ({status}); it says:\n{stderr}")]
    Command { command: String, status: std::process::ExitStatus, stderr: String },
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    Safetensors { path: PathBuf, source: safetensors::SafeTensorError },
    #[error("{path}: tensor `{tensor}` is {found}, not {expected}")]
    Golden { path: PathBuf, tensor: &'static str, found: String, expected: String },
}
