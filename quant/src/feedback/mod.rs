//! Error feedback: rounding with a view to what the error does to the model's output.
//!
//! The loss caused by an error `E` (`[rows, cols]`) in a matrix is, to second order, `trace(G E H Eᵀ)`: `H`
//! (`[cols, cols]`) tells what inputs meet the matrix, weighted by how much each token's output matters, and `G`
//! (`[rows, rows]`) how its outputs act on the logits (the Kronecker-factored Fisher information of Martens and
//! Grosse, arXiv 1503.05671). Rounding values one after another, each may be moved so that it makes up for the
//! errors before it: those to its left, as in GPTQ (arXiv 2210.17323), and those above it, as in YAQA
//! (arXiv 2505.22988). The two directions need the triangular factors of the inverses of `H` and `G`.
//!
//! Reading order: `factor` is the triangular factors, `sweep` the order of rounding. Types with one level for each value:
//! `grid` is what a block can express, `scalar` the rounding of a row's blocks, `search` the choice of scales, `form`
//! the bytes. Types whose codes are points of a grid: `lattice`.

mod factor;
mod form;
mod grid;
mod lattice;
mod line;
mod scalar;
mod search;
mod sweep;
mod triangular;

pub use factor::{ColumnFactor, RowFactor};
pub use sweep::{Effort, encode_group, encode_group_in_blocks};

use plmconv_formats::DType;

use crate::codec::{Guided, codec};

/// Whether [`encode_group`] knows `dtype`; others gain nothing from feedback.
pub fn supports(dtype: DType) -> bool {
    codec(dtype).is_some_and(|codec| !matches!(codec.guided, Guided::No))
}

/// Whether the codes of `dtype` are points of a grid, which several values share.
pub fn shares_points(dtype: DType) -> bool {
    codec(dtype).is_some_and(|codec| matches!(codec.guided, Guided::Points { .. }))
}
