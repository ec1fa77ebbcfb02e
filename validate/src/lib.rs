#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod arithmetic;
mod batch;
mod buffers;
pub mod divergence;
mod error;
pub mod estimate;
mod evaluator;
mod forward;
pub mod generate;
mod kernels;
mod linear;
mod loaded;
mod mla;
pub mod network;
#[cfg(feature = "ort")]
pub mod onnx;
mod outputs;
pub mod perplexity;
pub mod readback;
pub mod reference;
mod runner;
pub mod sample;
mod site;
pub mod sparsity;
mod state;
mod weights;
mod windows;

pub use arithmetic::{ActivationRounding, Arithmetic};
pub use batch::{Hidden, Sequence};
pub use error::{Error, Result};
pub use evaluator::{Evaluator, Options};
pub use forward::Observer;
pub use runner::{Runner, Runtime, RuntimeSequence};
pub use site::{Point, Site};
pub use state::{Attention, KvCache};
pub use windows::{Batches, Windows};
