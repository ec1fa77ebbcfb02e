//! Sums of outer products over tokens.

use plmconv_formats::TensorKey;
use plmconv_quant::block_symmetric::BlockSymmetric;
use plmconv_quant::product::{Matrix, add_product};
use rayon::prelude::*;

/// Columns of the largest block of inputs that is kept.
pub const INPUT_BLOCK: usize = 2048;
/// Rows of the largest block of outputs that is kept.
pub const OUTPUT_BLOCK: usize = 1024;

/// Rows of a block that are computed at a time: what lies left of the diagonal within them is thrown away.
const ROWS: usize = 192;
/// Columns whose squares a thread adds up at a time.
const COLUMNS: usize = 256;

/// One matrix's statistics.
#[derive(Clone, Debug)]
pub struct SiteMoments {
    /// The matrix.
    pub key: TensorKey,
    /// Tokens seen.
    pub tokens: u64,
    /// `[cols]`: `sum x²`.
    pub square_sums: Vec<f32>,
    /// `[cols]`: tokens on which the input is not zero.
    pub active: Vec<f32>,
    /// `[cols, cols]`: `sum |g|² x xᵀ`, in blocks.
    pub inputs: BlockSymmetric,
    /// `[rows, rows]`: `sum g gᵀ`, in blocks; the embedding has none (its rows are other tokens).
    pub outputs: Option<BlockSymmetric>,
    squares: Vec<f64>,
}

impl SiteMoments {
    pub(super) fn new(key: TensorKey, rows: Option<usize>, cols: usize) -> SiteMoments {
        SiteMoments {
            key,
            tokens: 0,
            square_sums: vec![0.0; cols],
            active: vec![0.0; cols],
            inputs: BlockSymmetric::zeros(cols, INPUT_BLOCK),
            outputs: rows.map(|rows| BlockSymmetric::zeros(rows, OUTPUT_BLOCK)),
            squares: vec![0.0; cols],
        }
    }

    /// Takes inputs `[tokens, cols]` and gradients `[tokens, rows]`.
    pub(super) fn add(&mut self, x: &[f32], gradient: &[f32]) {
        let cols = self.square_sums.len();
        let tokens = x.len() / cols;
        let rows = gradient.len() / tokens.max(1);
        let weights: Vec<f32> =
            gradient.par_chunks_exact(rows).map(|g| g.iter().map(|g| g * g).sum()).collect();
        self.add_inputs(x, &weights);
        if let Some(outputs) = &mut self.outputs {
            add_outer_products(outputs, gradient);
        }
    }

    /// Takes inputs `[tokens, cols]`, each token counting as `weights` says.
    pub(super) fn add_inputs(&mut self, x: &[f32], weights: &[f32]) {
        let cols = self.square_sums.len();
        self.tokens += weights.len() as u64;
        let columns = self.squares.par_chunks_mut(COLUMNS).zip(self.active.par_chunks_mut(COLUMNS));
        columns.enumerate().for_each(|(index, (squares, active))| {
            for row in x.chunks_exact(cols) {
                let row = &row[index * COLUMNS..][..squares.len()];
                for ((sum, active), &x) in squares.iter_mut().zip(&mut *active).zip(row) {
                    *sum += f64::from(x) * f64::from(x);
                    *active += f32::from(u8::from(x != 0.0));
                }
            }
        });
        let mut weighted = x.to_vec();
        let rows = weighted.par_chunks_exact_mut(cols).zip(weights);
        rows.for_each(|(row, weight)| {
            let root = weight.sqrt();
            row.iter_mut().for_each(|x| *x *= root);
        });
        add_outer_products(&mut self.inputs, &weighted);
    }

    pub(super) fn close(&mut self) {
        self.square_sums.iter_mut().zip(&self.squares).for_each(|(out, &sum)| *out = sum as f32);
    }
}

/// Adds `xᵀ x` (`x`: `[tokens, size]`).
fn add_outer_products(into: &mut BlockSymmetric, x: &[f32]) {
    let (size, block_len) = (into.size(), into.block_len());
    let x = Matrix::new(x, x.len() / size, size);
    let mut rest = into.values_mut();
    let mut product = Vec::new();
    for block in (0..size).step_by(block_len) {
        let end = (block + block_len).min(size);
        for first in (block..end).step_by(ROWS) {
            let (last, cols) = ((first + ROWS).min(end), end - first);
            product.clear();
            product.resize((last - first) * cols, 0.0);
            add_product(x.columns(first..last).transposed(), x.columns(first..end), &mut product, cols);
            for (row, product) in product.chunks_exact(cols).enumerate() {
                let (triangle, after) = rest.split_at_mut(cols - row);
                rest = after;
                triangle.iter_mut().zip(&product[row..]).for_each(|(sum, product)| *sum += product);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outer_products_fill_the_triangles_of_all_blocks() {
        let (tokens, size, block_len) = (5, 150, 70);
        let x: Vec<f32> = (0..tokens * size).map(|i| ((i * 29 % 17) as f32 - 8.0) / 8.0).collect();
        let mut sums = BlockSymmetric::zeros(size, block_len);
        add_outer_products(&mut sums, &x);
        for index in 0..sums.blocks() {
            let (len, upper) = sums.block(index);
            let mut at = 0;
            for i in 0..len {
                for j in i..len {
                    let (a, b) = (index * block_len + i, index * block_len + j);
                    let expected: f32 = (0..tokens).map(|t| x[t * size + a] * x[t * size + b]).sum();
                    assert!((upper[at] - expected).abs() < 1e-4, "block {index} [{i}, {j}]");
                    at += 1;
                }
            }
        }
    }
}
