#![doc = include_str!("../README.md")]

mod attention;
mod buffers;
pub mod curvature;
pub mod divergence;
mod error;
mod evaluator;
mod forward;
pub mod generate;
mod kernels;
mod linear;
mod mla;
#[cfg(feature = "ort")]
pub mod onnx;
mod outputs;
pub mod perplexity;
pub mod readback;
pub mod reference;
mod rope;
mod runner;
mod site;
pub mod sparsity;
mod state;
pub mod statistics;
mod weights;
mod windows;

pub use error::{Error, Result};
pub use evaluator::{Attention, Evaluator, Hidden, Options, Sequence};
pub use forward::Observer;
pub use kernels::Kernel;
pub use runner::{Runner, Runtime, RuntimeSequence};
pub use site::{Point, Site};
pub use state::KvCache;
pub use windows::{Batches, Windows};
