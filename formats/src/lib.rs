#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

pub mod adapter;
pub mod atomic;
pub mod chat;
pub mod checkpoint;
pub mod describe;
pub mod dtype;
pub mod error;
mod fields;
pub mod fingerprint;
pub mod gguf;
mod hex;
pub mod hub;
pub mod imatrix;
pub mod json;
pub mod limits;
pub mod model;
pub mod onnx;
pub mod safetensors;
pub mod sha256;
pub mod small_file;
pub mod source;
pub mod tokenizer;
pub mod warning;

pub use adapter::Adapter;
pub use describe::{DescribeOptions, Description, describe, describe_adapter};
pub use dtype::DType;
pub use error::{Error, Result};
pub use fingerprint::Fingerprint;
pub use hex::hex;
pub use imatrix::Imatrix;
pub use model::{Config, Layout, Model, Role, TensorKey};
pub use tokenizer::TextTokenizer;
pub use warning::Warning;
