//! Matrix products, split among threads so that no sum depends on their number.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use super::rows::Dense;

/// Tokens, and columns of the result, that a thread multiplies at a time. Each of a tile's operands is rearranged
/// for the processor first: tall tiles keep that cheap, narrow ones keep what is rearranged in the cache.
const TILE: [usize; 2] = [1024, 256];

/// `[tokens, w.rows]`: every row of `w` times every row of `x`.
pub(super) fn forward(x: &[f32], w: &Dense) -> Vec<f32> {
    let tokens = x.len() / w.cols;
    let mut out = vec![0.0; tokens * w.rows];
    forward_into(x, w, MatMut::from_row_major_slice_mut(&mut out, tokens, w.rows));
    out
}

/// [`forward`] into a matrix that is there already.
pub(super) fn forward_into(x: &[f32], w: &Dense, out: MatMut<'_, f32>) {
    let x = MatRef::from_row_major_slice(x, out.nrows(), w.cols);
    multiply(x, w.matrix().transpose(), out, Accum::Replace);
}

/// Adds `gradient` (`[tokens, w.rows]`) times `w` to `into` (`[tokens, w.cols]`): the gradient by the input.
pub(super) fn backward(gradient: &[f32], w: &Dense, into: &mut [f32]) {
    let tokens = gradient.len() / w.rows;
    backward_from(MatRef::from_row_major_slice(gradient, tokens, w.rows), w, into);
}

/// [`backward`] from a part of a matrix.
pub(super) fn backward_from(gradient: MatRef<'_, f32>, w: &Dense, into: &mut [f32]) {
    let into = MatMut::from_row_major_slice_mut(into, gradient.nrows(), w.cols);
    multiply(gradient, w.matrix(), into, Accum::Add);
}

/// `out = a b` (or `+=`), tile by tile.
fn multiply(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: MatMut<'_, f32>, accumulate: Accum) {
    tiles(out).into_par_iter().for_each(|([row, col], tile)| {
        let (a, b) = (a.subrows(row, tile.nrows()), b.subcols(col, tile.ncols()));
        matmul(tile, accumulate, a, b, 1.0, Par::Seq);
    });
}

/// Cuts a matrix; each tile comes with its first row and column.
fn tiles(out: MatMut<'_, f32>) -> Vec<([usize; 2], MatMut<'_, f32>)> {
    let [rows, cols] = [out.nrows(), out.ncols()];
    let (mut tiles, mut below) = (Vec::new(), out);
    for row in (0..rows).step_by(TILE[0]) {
        let (mut band, rest) = below.split_at_row_mut(TILE[0].min(rows - row));
        below = rest;
        for col in (0..cols).step_by(TILE[1]) {
            let (tile, rest) = band.split_at_col_mut(TILE[1].min(cols - col));
            band = rest;
            tiles.push(([row, col], tile));
        }
    }
    tiles
}

/// `out = a bᵀ` (or `+=`): `a` is `[n, k]`, `b` `[m, k]`.
pub(super) fn times_transposed(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: MatMut<'_, f32>) {
    matmul(out, Accum::Replace, a, b.transpose(), 1.0, Par::Seq);
}

/// `out = a b`.
pub(super) fn times(a: MatRef<'_, f32>, b: MatRef<'_, f32>, out: MatMut<'_, f32>) {
    matmul(out, Accum::Replace, a, b, 1.0, Par::Seq);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_a_matrix_once() {
        let (tokens, rows, cols) = (TILE[0] + 3, TILE[1] + 5, 2);
        let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 7) as f32 - 3.0).collect();
        let values = (0..rows * cols).map(|i| (i % 5) as f32 - 2.0).collect();
        let w = Dense { rows, cols, values };
        let out = forward(&x, &w);
        for (t, row) in out.chunks_exact(rows).enumerate() {
            for (r, &y) in row.iter().enumerate() {
                let expected: f32 = (0..cols).map(|c| x[t * cols + c] * w.values[r * cols + c]).sum();
                assert_eq!(y, expected, "[{t}, {r}]");
            }
        }
        let mut back = vec![1.0; x.len()];
        backward(&out, &w, &mut back);
        let at = (tokens - 1) * cols;
        let expected: f32 = (0..rows).map(|r| out[(tokens - 1) * rows + r] * w.values[r * cols]).sum();
        assert_eq!(back[at], 1.0 + expected);
    }
}
