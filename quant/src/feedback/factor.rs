//! Triangular factors of inverses: how an error in one place is best made up for in the later ones.

use super::triangular::{cholesky, invert_lower};
use crate::Error;
use crate::block_symmetric::BlockSymmetric;

/// Added to the diagonal of the inputs' matrix, relative to its mean: keeps directions the calibration text
/// hardly used from being treated as free.
const COLUMN_DAMPING: f64 = 0.01;
/// The same for outputs, whose matrix is noisier (its gradients come from sampled tokens).
const ROW_DAMPING: f64 = 0.05;

/// Feedback along columns: `U` with `UᵀU` the inverse of the damped input matrix, block by block.
#[derive(Debug)]
pub struct ColumnFactor {
    cols: usize,
    block_len: usize,
    /// Upper triangular, row-major and square, zeros below.
    blocks: Vec<Vec<f32>>,
    /// The damped matrix, in units of the mean of its diagonal.
    costs: BlockSymmetric,
    importance: Vec<f32>,
}

impl ColumnFactor {
    /// The factor of `hessian` (`[cols, cols]`).
    ///
    /// # Errors
    /// A matrix that is not finite or has a negative diagonal.
    pub fn new(hessian: &BlockSymmetric) -> Result<ColumnFactor, Error> {
        let mut importance = hessian.diagonal();
        let mean = mean(&importance)?;
        if mean > 0.0 {
            importance.iter_mut().for_each(|x| *x = *x / mean as f32 + 1e-6);
        } else {
            importance.fill(1.0);
        }
        let (costs, blocks) = inverse_factors(hessian, mean, COLUMN_DAMPING)?;
        Ok(ColumnFactor { cols: hessian.size(), block_len: hessian.block_len(), blocks, costs, importance })
    }

    /// Columns of the matrices this belongs to.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns within which errors are made up for.
    pub(super) fn block_len(&self) -> usize {
        self.block_len
    }

    pub(super) fn block(&self, index: usize) -> &[f32] {
        &self.blocks[index]
    }

    /// The matrix that block `index` is the inverse's factor of, row-major and square.
    pub(super) fn costs(&self, index: usize) -> Vec<f32> {
        self.costs.dense_block(index)
    }

    /// `[cols]`: how much an error in each column costs.
    pub fn importance(&self) -> &[f32] {
        &self.importance
    }
}

/// Feedback along the rows of one group: `A[i][k]`, what row `k` takes over of row `i`'s error, `k > i`.
#[derive(Debug)]
pub struct RowFactor {
    rows: usize,
    /// Unit upper triangular, row-major and square.
    values: Vec<f32>,
    pivots: Vec<f32>,
    /// The damped matrix, row-major and square.
    costs: Vec<f32>,
}

impl RowFactor {
    /// One factor for each block (group of rows) of `outputs`.
    ///
    /// # Errors
    /// A matrix that is not finite or has a negative diagonal.
    pub fn per_group(outputs: &BlockSymmetric) -> Result<Vec<RowFactor>, Error> {
        let mean = mean(&outputs.diagonal())?;
        let (costs, factors) = inverse_factors(outputs, mean, ROW_DAMPING)?;
        let groups = factors.into_iter().enumerate();
        Ok(groups.map(|(index, factor)| RowFactor::unit(factor, costs.dense_block(index))).collect())
    }

    fn unit(mut values: Vec<f32>, costs: Vec<f32>) -> RowFactor {
        let rows = values.len().isqrt();
        let mut pivots = Vec::with_capacity(rows);
        for (i, row) in values.chunks_exact_mut(rows).enumerate() {
            let pivot = row[i];
            pivots.push(1.0 / (pivot * pivot));
            row[i..].iter_mut().for_each(|x| *x /= pivot);
        }
        RowFactor { rows, values, pivots, costs }
    }

    /// Rows of the group.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// `[rows]`: what an error in each row costs once the rows below it make up for it, in units of the mean of the
    /// matrix's diagonal.
    pub fn pivots(&self) -> &[f32] {
        &self.pivots
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.values[i * self.rows..(i + 1) * self.rows]
    }

    /// What errors in row `i` cost together with those in each row.
    pub(super) fn costs(&self, i: usize) -> &[f32] {
        &self.costs[i * self.rows..(i + 1) * self.rows]
    }
}

fn mean(diagonal: &[f32]) -> Result<f64, Error> {
    match diagonal.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
        Some(at) => Err(Error::NotACovariance { at, value: diagonal[at] }),
        None => Ok(diagonal.iter().map(|&x| f64::from(x)).sum::<f64>() / diagonal.len().max(1) as f64),
    }
}

/// The damped matrix in units of `mean`, and for each block `U`, upper triangular, with `UᵀU` its inverse.
fn inverse_factors(
    matrix: &BlockSymmetric,
    mean: f64,
    damping: f64,
) -> Result<(BlockSymmetric, Vec<Vec<f32>>), Error> {
    let mut damped = BlockSymmetric::zeros(matrix.size(), matrix.block_len());
    let mut factors = Vec::with_capacity(matrix.blocks());
    for index in 0..matrix.blocks() {
        let (len, upper) = matrix.block(index);
        let (added, factor) =
            if mean > 0.0 { inverse_factor(len, upper, mean, damping)? } else { (1.0, identity(len)) };
        let unit = if mean > 0.0 { mean } else { 1.0 };
        let out = damped.block_mut(index);
        out.iter_mut().zip(upper).for_each(|(out, &x)| *out = (f64::from(x) / unit) as f32);
        let mut at = 0;
        for row in 0..len {
            out[at] += added as f32;
            at += len - row;
        }
        factors.push(factor);
    }
    Ok((damped, factors))
}

fn identity(len: usize) -> Vec<f32> {
    let mut out = vec![0.0; len * len];
    out.iter_mut().step_by(len + 1).for_each(|x| *x = 1.0);
    out
}

/// The damping that was needed and `U`, upper triangular, with `UᵀU = (M / mean + damping)⁻¹`.
fn inverse_factor(len: usize, upper: &[f32], mean: f64, damping: f64) -> Result<(f64, Vec<f32>), Error> {
    let at = |i: usize, j: usize| {
        let (i, j) = (i.min(j), i.max(j));
        f64::from(upper[i * len - i * i.saturating_sub(1) / 2 + j - i]) / mean
    };
    // Rounding of the sums may leave a matrix barely indefinite: more damping mends that.
    let damped = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5].into_iter().find_map(|times| {
        let added = damping * times;
        let factor = factor_of_inverse(len, |i, j| at(i, j) + if i == j { added } else { 0.0 })?;
        Some((added, factor))
    });
    damped.ok_or(Error::NotPositiveDefinite { rows: len })
}

/// `U`, upper triangular, with `UᵀU = M⁻¹`, `M` given by its entries; `None` if it is not positive definite.
///
/// With `J` the reversal of all indices and `L` the Cholesky factor of `J M J`, `U = J L⁻¹ J`.
pub(super) fn factor_of_inverse(len: usize, at: impl Fn(usize, usize) -> f64) -> Option<Vec<f32>> {
    let last = len - 1;
    let mut flipped = vec![0.0; len * len];
    for (i, row) in flipped.chunks_exact_mut(len).enumerate() {
        row[..=i].iter_mut().enumerate().for_each(|(j, x)| *x = at(last - i, last - j));
    }
    if !cholesky(&mut flipped, len) {
        return None;
    }
    let inverse = invert_lower(&flipped, len);
    let mut out = vec![0.0; len * len];
    for (i, row) in out.chunks_exact_mut(len).enumerate() {
        let inverse = &inverse[(last - i) * len..][..len - i];
        row[i..].iter_mut().zip(inverse.iter().rev()).for_each(|(out, &x)| *out = x as f32);
    }
    out.iter().all(|x| x.is_finite()).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factor_inverts_the_damped_matrix() {
        let n = 7;
        let x: Vec<f32> = (0..n * n).map(|i| ((i * 37 % 11) as f32 - 5.0) / 5.0).collect();
        let mut matrix = BlockSymmetric::zeros(n, n);
        let full = |i: usize, j: usize| (0..n).map(|k| x[k * n + i] * x[k * n + j]).sum::<f32>();
        let mut at = 0;
        for i in 0..n {
            for j in i..n {
                matrix.values_mut()[at] = full(i, j);
                at += 1;
            }
        }
        let factor = ColumnFactor::new(&matrix).expect("a covariance");
        let mean = matrix.diagonal().iter().sum::<f32>() / n as f32;
        let u = factor.block(0);
        // UᵀU (M / mean + damping) = identity
        for i in 0..n {
            for j in 0..n {
                let inverse = |k: usize| (0..n).map(|r| u[r * n + i] * u[r * n + k]).sum::<f32>();
                let damped = |k: usize| full(k, j) / mean + if k == j { COLUMN_DAMPING as f32 } else { 0.0 };
                let product: f32 = (0..n).map(|k| inverse(k) * damped(k)).sum();
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product - expected).abs() < 1e-3, "[{i}, {j}] {product}");
            }
        }
    }

    #[test]
    fn a_site_never_reached_gets_no_feedback() {
        let factor = ColumnFactor::new(&BlockSymmetric::zeros(5, 3)).expect("zeros are a covariance");
        assert_eq!(factor.block(0), identity(3));
        assert_eq!(factor.block(1), identity(2));
        assert_eq!(factor.importance(), [1.0; 5]);
    }

    #[test]
    fn what_is_no_covariance_is_refused() {
        let mut matrix = BlockSymmetric::zeros(2, 2);
        matrix.values_mut()[2] = f32::NAN;
        assert!(matches!(ColumnFactor::new(&matrix), Err(Error::NotACovariance { at: 1, .. })));
        matrix.values_mut()[2] = -1.0;
        assert!(matches!(ColumnFactor::new(&matrix), Err(Error::NotACovariance { at: 1, .. })));
    }
}
