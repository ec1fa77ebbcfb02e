//! What is odd about an input but does not keep it from being used. This crate prints nothing: callers do.

use std::fmt;
use std::path::PathBuf;

use crate::error::Error;

/// Tokens that are named at most.
const SHOWN_TOKENS: usize = 5;

/// Something a user should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant says what its fields are")]
pub enum Warning {
    /// An index, perhaps with its shards, is beside the one file that is read.
    IndexIgnored { index: PathBuf },
    /// The names of all tensors are spelled unusually.
    Renamed { folder: PathBuf, from: String, to: String },
    /// The config says that weights are quantized, which they are not.
    NotQuantized { config: PathBuf, method: String },
    /// A file that is read for what it may add, but not in this state.
    Unreadable { path: PathBuf, detail: String },
    /// A part of a model card that is left out, or read otherwise than it is written.
    ModelCard { path: PathBuf, detail: String },
    /// A special token's id of no token. `key` names the file where it is not the only one.
    BadTokenId { key: String, found: String, vocab_size: usize },
    /// A text is to be given a token that the model does not name: `bos` or `eos`.
    UnknownSpecial { kind: &'static str },
    /// Tokens, each with its rules, that are matched in a way a GGUF cannot say.
    TokenRules { tokens: Vec<String> },
    /// A sampler's parameter of the wrong kind.
    Sampler { name: &'static str, found: String, expected: &'static str },
    /// A GGUF's tokenizer is copied, but nothing here can use it.
    UnusableTokenizer { detail: String },
    /// An ONNX export has no tokenizer.
    NoTokenizer { detail: String },
    /// An adapter changes the embedding, and with it the head, which it was not trained to change.
    HeadFollows { adapter: PathBuf },
    /// Matrices of an adapter to which llama.cpp adds none.
    AdapterLeftOut { roles: Vec<String> },
    /// Texts of a GGUF's metadata that are not UTF-8.
    BrokenText { path: PathBuf, keys: Vec<String> },
}

impl Warning {
    /// A file that is not used because of `error`, which names it.
    pub fn unreadable(path: PathBuf, error: &Error) -> Warning {
        let named = format!("{}: ", path.display());
        let detail = error.to_string();
        let detail = detail.strip_prefix(&named).unwrap_or(&detail).to_string();
        Warning::Unreadable { path, detail }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::IndexIgnored { index } => write!(
                f,
                "{}: not used, since there is a model.safetensors beside it, which is what transformers loads too",
                index.display()
            ),
            Warning::Renamed { folder, from, to } => {
                write!(f, "{}: unusual tensor names; `{from}` is read as `{to}`", folder.display())
            }
            Warning::NotQuantized { config, method } => write!(
                f,
                "{}: `quantization_config` ({method}) is ignored, since the weights are plain numbers",
                config.display()
            ),
            Warning::Unreadable { path, detail } => write!(f, "{}: not used: {detail}", path.display()),
            Warning::ModelCard { path, detail } => write!(f, "{}: {detail}", path.display()),
            Warning::BadTokenId { key, found, vocab_size } => {
                write!(f, "`{key}` is {found}, but ids go from 0 to {}: it is left out", vocab_size - 1)
            }
            Warning::UnknownSpecial { kind } => {
                write!(f, "no {kind} token is added to texts: the model does not say which one it is")
            }
            Warning::TokenRules { tokens } => {
                let shown =
                    tokens.iter().take(SHOWN_TOKENS).map(String::as_str).collect::<Vec<_>>().join(", ");
                write!(
                    f,
                    "a GGUF has no rules about the spaces and words around a token, so texts with these may give \
                     other ids than in transformers: {shown}"
                )?;
                match tokens.len().saturating_sub(SHOWN_TOKENS) {
                    0 => Ok(()),
                    more => write!(f, " and {more} more"),
                }
            }
            Warning::Sampler { name, found, expected } => {
                write!(f, "generation_config.json: `{name}` is {found}, not {expected}: it is left out")
            }
            Warning::UnusableTokenizer { detail } => {
                write!(f, "the tokenizer is copied, but it cannot be used here: {detail}")
            }
            Warning::NoTokenizer { detail } => write!(
                f,
                "the export has no tokenizer.json, without which most clients do not open it: put the one of the \
                 original model beside it ({detail})"
            ),
            Warning::HeadFollows { adapter } => write!(
                f,
                "{}: changes the embedding, which is the head too; merged, both change, as with peft's \
                 merge_and_unload, which is not what the adapter does unmerged",
                adapter.display()
            ),
            Warning::AdapterLeftOut { roles } => write!(
                f,
                "llama.cpp's `plm` graph adds no adapter to {}: there this one has no effect; --lora ADAPTER, with which \
                 the model is converted, merges all of it",
                roles.join(", ")
            ),
            Warning::BrokenText { path, keys } => {
                let keys = keys.join("`, `");
                write!(f, "{}: `{keys}`: bytes that are not UTF-8 are replaced", path.display())
            }
        }
    }
}
