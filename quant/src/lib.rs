#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

#[macro_use]
mod unroll;

pub mod block_symmetric;
pub mod codec;
pub mod error;
pub mod feedback;
pub mod grid;
pub mod importance;
pub mod knapsack;
pub mod policy;
pub mod product;
pub mod random;
pub mod simd;

pub use codec::{
    can_decode, can_encode, decode, decode_with, encode_rows, encode_rows_with, first_non_finite,
};
pub use error::Error;
pub use policy::{Assigned, FileType, ModelShape, Policy, Reason, TensorDesc};
