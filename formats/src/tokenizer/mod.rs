//! Tokenizers: read from a folder or a GGUF, and used on text.

mod added;
mod byte_level;
mod bytes;
pub(crate) mod files;
mod original;
mod partition;
mod pre;
pub(crate) mod rebuild;
mod text;
pub(crate) mod vocabulary;

pub use original::Difference;
pub use pre::{check_pre_tokenizer_name, known_pre_tokenizers};
pub use text::{StreamDecoder, TextTokenizer};
