//! What is odd about an input but does not keep it from being used. This crate prints nothing: callers do.

use std::fmt;
use std::path::PathBuf;

/// Something a user should know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// An index and perhaps its shards stand beside the one file that is read.
    IndexIgnored { index: PathBuf },
    /// The names of all tensors are spelled unusually.
    Renamed { folder: PathBuf, from: String, to: String },
    /// The config says that weights are quantized, which they are not.
    NotQuantized { config: PathBuf, method: String },
    /// A file that is read for what it may add, but not in this state.
    Unreadable { path: PathBuf, detail: String },
    /// Texts of a GGUF's metadata that are not UTF-8.
    BrokenText { path: PathBuf, keys: Vec<String> },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::IndexIgnored { index } => write!(
                f,
                "{}: not used, since model.safetensors stands beside it, which transformers loads as well",
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
            Warning::BrokenText { path, keys } => {
                let keys = keys.join("`, `");
                write!(f, "{}: `{keys}`: bytes that are not UTF-8 are replaced", path.display())
            }
        }
    }
}
