//! Quadratic forms: what errors cost under a curvature.

use super::BlockSymmetric;
use crate::product::{Matrix, add_product};

impl BlockSymmetric {
    /// `e M eᵀ` for each row `e` of `errors` (`[rows, size]`), with what lies outside the blocks of `M` taken as zero.
    pub fn quadratic_forms(&self, errors: &[f32]) -> Vec<f64> {
        let rows = errors.len() / self.size().max(1);
        let mut sums = vec![0.0; rows];
        for index in 0..self.blocks() {
            let dense = self.dense_block(index);
            let len = dense.len().isqrt();
            let columns = index * self.block_len()..index * self.block_len() + len;
            let mut product = vec![0.0; rows * len];
            let part = Matrix::new(errors, rows, self.size()).columns(columns.clone());
            add_product(part, Matrix::new(&dense, len, len), &mut product, len);
            let rows = product.chunks_exact(len).zip(errors.chunks_exact(self.size()));
            for (sum, (product, errors)) in sums.iter_mut().zip(rows) {
                let terms = product.iter().zip(&errors[columns.clone()]);
                *sum += terms.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
            }
        }
        sums
    }

    /// Block `index` as a square, row-major.
    pub(crate) fn dense_block(&self, index: usize) -> Vec<f32> {
        let (len, upper) = self.block(index);
        let mut dense = vec![0.0; len * len];
        let mut rest = upper.iter();
        for i in 0..len {
            for (j, &value) in (i..len).zip(rest.by_ref().take(len - i)) {
                dense[i * len + j] = value;
                dense[j * len + i] = value;
            }
        }
        dense
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_equal_their_definition_block_by_block() {
        let (size, block_len, rows) = (7, 3, 4);
        let wave = |i: usize| ((i * 37 % 19) as f32 - 9.0) / 8.0;
        let mut matrix = BlockSymmetric::zeros(size, block_len);
        let full = |i: usize, j: usize| wave(i.min(j) * size + i.max(j));
        let mut at = 0;
        for start in (0..size).step_by(block_len) {
            let end = (start + block_len).min(size);
            for i in start..end {
                for j in i..end {
                    matrix.values_mut()[at] = full(i, j);
                    at += 1;
                }
            }
        }
        let errors: Vec<f32> = (0..rows * size).map(|i| wave(i + 5)).collect();
        for (row, form) in errors.chunks_exact(size).zip(matrix.quadratic_forms(&errors)) {
            let inside = |i: usize, j: usize| i / block_len == j / block_len;
            let pairs = (0..size).flat_map(|i| (0..size).map(move |j| (i, j))).filter(|&(i, j)| inside(i, j));
            let expected: f32 = pairs.map(|(i, j)| row[i] * full(i, j) * row[j]).sum();
            assert!((form - f64::from(expected)).abs() < 1e-4, "{form} {expected}");
        }
    }
}
