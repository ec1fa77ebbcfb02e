//! What the commands that run a model share: sides, texts, limits, and the comparison itself.

pub mod chat;
mod compare;
mod digest;
#[cfg(feature = "ort")]
mod onnx;
mod runnable;
mod side;
mod text;
mod thresholds;
mod written;

pub use compare::{Comparable, Comparison, TOKENIZER_DIGEST, TextChoice, compare};
pub use digest::{model_digest, text_digest};
pub use runnable::{Description, Runnable, open_runnable};
pub use side::{Loaded, OpenModel, ReferenceSide, is_stored};
pub use text::{DEFAULT_CTX, Text, WindowChoice, read_text, tokens_of, windows_of};
pub use thresholds::AskedLimits;
