//! Sums of outer products over tokens.

use std::ops::Range;

use plmconv_formats::TensorKey;
use plmconv_quant::block_symmetric::BlockSymmetric;
use plmconv_quant::product::{Matrix, SparseMatrix, add_product, add_sparse_product};
use rayon::prelude::*;

/// Columns of the largest block of inputs that is kept.
pub const INPUT_BLOCK: usize = 2048;
/// Rows of the largest block of outputs that is kept.
pub const OUTPUT_BLOCK: usize = 1024;

/// Rows of a block that are computed at a time: what lies left of the diagonal within them is thrown away.
const ROWS: usize = 192;
/// Columns whose squares a thread adds up at a time.
const COLUMNS: usize = 256;

/// What passes a matrix, `[tokens, width]`: its inputs, or the gradients by its outputs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Samples<'a> {
    Dense(&'a [f32]),
    Sparse(&'a SparseMatrix),
}

impl Samples<'_> {
    /// The sum of each token's squares.
    fn squares(self, width: usize) -> Vec<f32> {
        match self {
            Samples::Dense(x) => {
                x.par_chunks_exact(width).map(|row| row.iter().map(|x| x * x).sum()).collect()
            }
            Samples::Sparse(x) => (0..x.rows()).into_par_iter().map(|token| x.row_squares(token)).collect(),
        }
    }

    /// Adds `xᵀ x`.
    fn add_outer_products(self, into: &mut BlockSymmetric) {
        match self {
            Samples::Dense(x) => add_dense(into, x),
            Samples::Sparse(x) => add_sparse(into, x),
        }
    }

    /// Adds `xᵀ x`, each token of `x` counting as `weights` says.
    fn add_weighted_outer_products(self, into: &mut BlockSymmetric, weights: &[f32]) {
        let roots: Vec<f32> = weights.iter().map(|weight| weight.sqrt()).collect();
        match self {
            Samples::Dense(x) => {
                let mut weighted = x.to_vec();
                let rows = weighted.par_chunks_exact_mut(into.size()).zip(&roots);
                rows.for_each(|(row, root)| row.iter_mut().for_each(|x| *x *= root));
                add_dense(into, &weighted);
            }
            Samples::Sparse(x) => {
                let mut weighted = x.clone();
                weighted.change(|token, x| x * roots[token]);
                add_sparse(into, &weighted);
            }
        }
    }
}

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
    pub(super) fn add(&mut self, x: Samples<'_>, gradient: Samples<'_>) {
        let rows = self.outputs.as_ref().map_or(1, BlockSymmetric::size);
        self.add_inputs(x, &gradient.squares(rows));
        if let Some(outputs) = &mut self.outputs {
            gradient.add_outer_products(outputs);
        }
    }

    /// Takes inputs `[tokens, cols]`, each token counting as `weights` says.
    pub(super) fn add_inputs(&mut self, x: Samples<'_>, weights: &[f32]) {
        self.tokens += weights.len() as u64;
        match x {
            Samples::Dense(x) => self.add_squares(x),
            Samples::Sparse(x) => self.add_sparse_squares(x),
        }
        x.add_weighted_outer_products(&mut self.inputs, weights);
    }

    fn add_squares(&mut self, x: &[f32]) {
        let cols = self.square_sums.len();
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
    }

    fn add_sparse_squares(&mut self, x: &SparseMatrix) {
        for token in 0..x.rows() {
            for (col, x) in x.row(token) {
                self.squares[col] += f64::from(x) * f64::from(x);
                self.active[col] += 1.0;
            }
        }
    }

    pub(super) fn close(&mut self) {
        self.square_sums.iter_mut().zip(&self.squares).for_each(|(out, &sum)| *out = sum as f32);
    }
}

/// Adds `xᵀ x` (`x`: `[tokens, size]`).
fn add_dense(into: &mut BlockSymmetric, x: &[f32]) {
    let x = Matrix::new(x, x.len() / into.size(), into.size());
    add_blocks(into, |block, rows, out| {
        let columns = x.columns(rows.start..block.end);
        add_product(x.columns(rows).transposed(), columns, out, columns.cols());
    });
}

/// The same, bit for bit, without the products that are zero.
fn add_sparse(into: &mut BlockSymmetric, x: &SparseMatrix) {
    let by_column = x.transposed();
    let mut dense = (0..0, Vec::new());
    add_blocks(into, |block, rows, out| {
        if dense.0 != *block {
            dense = (block.clone(), x.dense(block.clone()));
        }
        let columns = Matrix::new(&dense.1, x.rows(), block.len());
        let columns = columns.columns(rows.start - block.start..block.len());
        add_sparse_product(&by_column, rows, columns, out, columns.cols());
    });
}

/// Adds to the triangle of each block what `product(block, rows, out)` adds to zeros: some rows of the matrix, from
/// their first on the diagonal to the block's end, `out`: `[rows.len(), block.end - rows.start]`.
fn add_blocks(into: &mut BlockSymmetric, mut product: impl FnMut(&Range<usize>, Range<usize>, &mut [f32])) {
    let (size, block_len) = (into.size(), into.block_len());
    let mut rest = into.values_mut();
    let mut rectangle = Vec::new();
    for start in (0..size).step_by(block_len) {
        let block = start..(start + block_len).min(size);
        for first in block.clone().step_by(ROWS) {
            let rows = first..(first + ROWS).min(block.end);
            let cols = block.end - first;
            rectangle.clear();
            rectangle.resize(rows.len() * cols, 0.0);
            product(&block, rows, &mut rectangle);
            for (row, sums) in rectangle.chunks_exact(cols).enumerate() {
                let (triangle, after) = rest.split_at_mut(cols - row);
                rest = after;
                triangle.iter_mut().zip(&sums[row..]).for_each(|(sum, product)| *sum += product);
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
        add_dense(&mut sums, &x);
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

    #[test]
    fn sparse_samples_give_the_bits_of_dense_ones() {
        for (tokens, size, block_len) in [(300, 700, 512), (7, 300, 2048), (600, 90, 1024)] {
            let x: Vec<f32> = (0..tokens * size)
                .map(|i| if i * 7919 % 6 == 0 { ((i * 29 % 1009) as f32 - 500.0) / 300.0 } else { 0.0 })
                .collect();
            let weights: Vec<f32> = (0..tokens).map(|t| (t % 5) as f32 * 0.3).collect();
            let of = |samples: Samples<'_>| {
                let key = TensorKey::in_layer(0, plmconv_formats::Role::FfnDown);
                let mut site = SiteMoments::new(key, None, size);
                site.inputs = BlockSymmetric::zeros(size, block_len);
                site.add_inputs(samples, &weights);
                site.close();
                (site.inputs, site.square_sums, site.active, samples.squares(size))
            };
            let sparse = SparseMatrix::new(&x, size);
            assert!(of(Samples::Dense(&x)) == of(Samples::Sparse(&sparse)), "{tokens} {size} {block_len}");
        }
    }
}
