//! What a PLM model is and how it is stored. Never does quantization arithmetic.

pub mod atomic;
pub mod atomic_folder;
pub mod chat;
pub mod describe;
pub mod dtype;
pub mod error;
pub mod gguf;
pub mod imatrix;
pub mod model;
pub mod onnx;
pub mod safetensors;
pub mod source;
pub mod tokenizer;

pub use describe::{DescribeOptions, describe};
pub use dtype::DType;
pub use error::{Error, Result};
pub use imatrix::Imatrix;
pub use model::{Config, Layout, Model, Role, TensorKey};
pub use tokenizer::TextTokenizer;
