//! Matrix products, split among threads so that no sum depends on their number.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::rows::Dense;

/// Tokens a thread multiplies at a time.
const CHUNK: usize = 128;

/// `[tokens, w.rows]`: every row of `w` times every row of `x`.
pub(super) fn forward(x: &[f32], w: &Dense) -> Vec<f32> {
    let mut out = vec![0.0; x.len() / w.cols * w.rows];
    let weights = MatRef::from_row_major_slice(&w.values, w.rows, w.cols);
    let chunks = x.par_chunks(CHUNK * w.cols).zip(out.par_chunks_mut(CHUNK * w.rows));
    chunks.for_each(|(x, out)| {
        let count = x.len() / w.cols;
        let x = MatRef::from_row_major_slice(x, count, w.cols);
        let out = MatMut::from_row_major_slice_mut(out, count, w.rows);
        matmul(out, Accum::Replace, x, weights.transpose(), 1.0, Par::Seq);
    });
    out
}

/// Adds `gradient` (`[tokens, w.rows]`) times `w` to `into` (`[tokens, w.cols]`): the gradient by the input.
pub(super) fn backward(gradient: &[f32], w: &Dense, into: &mut [f32]) {
    let weights = MatRef::from_row_major_slice(&w.values, w.rows, w.cols);
    let chunks = gradient.par_chunks(CHUNK * w.rows).zip(into.par_chunks_mut(CHUNK * w.cols));
    chunks.for_each(|(g, into)| {
        let count = g.len() / w.rows;
        let g = MatRef::from_row_major_slice(g, count, w.rows);
        let into = MatMut::from_row_major_slice_mut(into, count, w.cols);
        matmul(into, Accum::Add, g, weights, 1.0, Par::Seq);
    });
}

/// `out = a bᵀ` (or `+=`): `a` is `[n, k]`, `b` `[m, k]`.
pub(super) fn times_transposed(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: MatMut<'_, f32>) {
    matmul(out, Accum::Replace, a, b.transpose(), 1.0, Par::Seq);
}

/// `out = a b`.
pub(super) fn times(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: MatMut<'_, f32>) {
    matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
}
