//! Products with a layer's weights.

use plmconv_quant::product::{Matrix, SparseMatrix, add_product, add_sparse_product, sampled_product};

use super::rows::Dense;

/// `[tokens, w.rows]`: every row of `w` times every row of `x`.
pub(super) fn forward(x: &[f32], w: &Dense) -> Vec<f32> {
    let tokens = x.len() / w.cols;
    let mut out = vec![0.0; tokens * w.rows];
    add_product(Matrix::new(x, tokens, w.cols), w.matrix().transposed(), &mut out, w.rows);
    out
}

/// Adds `gradient` (`[tokens, w.rows]`) times `w` to `into` (`[tokens, w.cols]`): the gradient by the input.
pub(super) fn backward(gradient: &[f32], w: &Dense, into: &mut [f32]) {
    let tokens = gradient.len() / w.rows;
    add_product(Matrix::new(gradient, tokens, w.rows), w.matrix(), into, w.cols);
}

/// Adds `x` (`[tokens, w.rows]`) times `w` to `into` (`[tokens, w.cols]`): rows of `w`, each as often as its neuron
/// fires.
pub(super) fn sparse(x: &SparseMatrix, w: &Dense, into: &mut [f32]) {
    add_sparse_product(x, 0..x.rows(), w.matrix(), into, w.cols);
}

/// Every row of `w` times every row of `x` (`[tokens, w.cols]`), where `places` (`[tokens, w.rows]`) has values.
pub(super) fn sampled(x: &[f32], w: &Dense, places: &SparseMatrix) -> SparseMatrix {
    sampled_product(x, &w.values, w.cols, places)
}
