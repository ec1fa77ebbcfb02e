//! Cholesky factors and inverses of triangular matrices: the same bits on every CPU, as [`crate::product`] says.
//!
//! Both go block by block. What earlier blocks contribute is a product; the rest adds to whole rows, value by value.

use crate::product::{Matrix, add_product};

/// Rows and columns of a block.
const BLOCK: usize = 64;
/// Columns of the inverse that are computed at a time: what lies above them is zero and left out.
const COLUMNS: usize = 256;

/// Replaces the lower triangle of the symmetric `a` (`[size, size]`, row-major; the rest is not looked at) by its
/// Cholesky factor. False if `a` is not positive definite.
pub(super) fn cholesky(a: &mut [f64], size: usize) -> bool {
    for start in (0..size).step_by(BLOCK) {
        let width = BLOCK.min(size - start);
        subtract_earlier(a, size, start, width);
        if !factor_block(a, size, start, width) {
            return false;
        }
        solve_below(a, size, start, width);
    }
    true
}

/// Takes what the columns before `start` make of `width` columns from there on.
fn subtract_earlier(a: &mut [f64], size: usize, start: usize, width: usize) {
    let mut product = vec![0.0; (size - start) * width];
    let before = Matrix::new(a, size, size).columns(0..start);
    let block = before.rows_of(start..start + width);
    add_product(before.rows_of(start..size), block.transposed(), &mut product, width);
    for (row, product) in a[start * size..].chunks_exact_mut(size).zip(product.chunks_exact(width)) {
        row[start..start + width].iter_mut().zip(product).for_each(|(a, p)| *a -= p);
    }
}

/// The factor of the block on the diagonal.
fn factor_block(a: &mut [f64], size: usize, start: usize, width: usize) -> bool {
    for i in start..start + width {
        for j in start..=i {
            let (before, row) = a.split_at_mut(i * size);
            let row = &mut row[..size];
            let earlier = if j < i { &before[j * size..][start..j] } else { &[] };
            if j < i {
                let sum = row[start..j].iter().zip(earlier).fold(row[j], |sum, (x, y)| sum - x * y);
                row[j] = sum / before[j * size + j];
            } else {
                let pivot = row[start..i].iter().fold(row[i], |sum, x| sum - x * x);
                if !(pivot > 0.0 && pivot.is_finite()) {
                    return false;
                }
                row[i] = pivot.sqrt();
            }
        }
    }
    true
}

/// The rows below the block: each solved for the block's factor.
fn solve_below(a: &mut [f64], size: usize, start: usize, width: usize) {
    let (block, below) = a.split_at_mut((start + width) * size);
    // The block's factor by columns: what a solved value is multiplied with lies one after another.
    let mut columns = vec![0.0; width * width];
    for (j, column) in columns.chunks_exact_mut(width).enumerate() {
        column.iter_mut().enumerate().for_each(|(i, x)| *x = block[(start + i) * size + start + j]);
    }
    for row in below.chunks_exact_mut(size) {
        let row = &mut row[start..start + width];
        for (j, column) in columns.chunks_exact(width).enumerate() {
            let (solved, rest) = row[j..].split_first_mut().expect("j is below the width");
            *solved /= column[j];
            rest.iter_mut().zip(&column[j + 1..]).for_each(|(x, factor)| *x -= *solved * factor);
        }
    }
}

/// The inverse of the lower triangle of `lower` (`[size, size]`, row-major), zeros above it.
pub(super) fn invert_lower(lower: &[f64], size: usize) -> Vec<f64> {
    let mut inverse = vec![0.0; size * size];
    let factor = Matrix::new(lower, size, size);
    for start in (0..size).step_by(BLOCK) {
        let end = (start + BLOCK).min(size);
        let (above, rows) = inverse.split_at_mut(start * size);
        let above = Matrix::new(above, start, size);
        for first in (0..start).step_by(COLUMNS) {
            let columns = first..(first + COLUMNS).min(start);
            let factor = factor.rows_of(start..end).columns(first..start);
            add_product(factor, above.rows_of(first..start).columns(columns), &mut rows[first..], size);
        }
        for i in start..end {
            let (earlier, row) = rows[..(end - start) * size].split_at_mut((i - start) * size);
            let factor = &lower[i * size..(i + 1) * size];
            for (earlier, factor) in earlier.chunks_exact(size).zip(&factor[start..i]) {
                row[..i].iter_mut().zip(earlier).for_each(|(x, y)| *x += factor * y);
            }
            row[..i].iter_mut().for_each(|x| *x = -*x / factor[i]);
            row[i] = 1.0 / factor[i];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `x xᵀ` plus a little on the diagonal.
    fn positive(size: usize) -> Vec<f64> {
        let x: Vec<f64> = (0..size * size).map(|i| ((i * 37 + i / 11) % 23) as f64 / 11.0 - 1.0).collect();
        let mut a = vec![0.0; size * size];
        let x = Matrix::new(&x, size, size);
        add_product(x, x.transposed(), &mut a, size);
        a.iter_mut().step_by(size + 1).for_each(|x| *x += 1.0);
        a
    }

    #[test]
    fn factors_multiply_to_the_matrix_and_inverses_to_the_identity() {
        for size in [1, 5, 64, 65, 330] {
            let a = positive(size);
            let mut factor = a.clone();
            assert!(cholesky(&mut factor, size));
            (0..size).for_each(|i| factor[i * size + i + 1..(i + 1) * size].fill(0.0));
            let lower = Matrix::new(&factor, size, size);
            let inverse = invert_lower(&factor, size);
            let (mut product, mut identity) = (vec![0.0; size * size], vec![0.0; size * size]);
            add_product(lower, lower.transposed(), &mut product, size);
            add_product(Matrix::new(&inverse, size, size), lower, &mut identity, size);
            for i in 0..size {
                for j in 0..size {
                    let at = i * size + j;
                    assert!((product[at] - a[at]).abs() < 1e-9 * size as f64, "{size} [{i}, {j}]");
                    let expected = f64::from(u8::from(i == j));
                    assert!((identity[at] - expected).abs() < 1e-8, "{size} [{i}, {j}] {}", identity[at]);
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_no_factor() {
        let mut a = positive(100);
        a[90 * 100 + 90] = -1.0;
        assert!(!cholesky(&mut a, 100));
        let mut a = positive(3);
        a[0] = f64::NAN;
        assert!(!cholesky(&mut a, 3));
    }
}
