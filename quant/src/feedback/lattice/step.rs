//! What rounding a super-block needs of the column factor: the same for all rows, so computed once.

use super::SUPER_BLOCK;
use super::word::{Corner, WORD};
use crate::feedback::factor::factor_of_inverse;
use crate::feedback::triangular::invert_lower;
use crate::product::{Matrix, add_product};

/// Of 256 columns.
#[derive(Debug)]
pub(in crate::feedback) struct Step {
    /// The column factor, in rows of 256.
    pub(super) factor: Vec<f32>,
    /// Of each word.
    pub(super) corners: Vec<Corner>,
    pub(super) refinement: Option<Refinement>,
}

/// For choosing sub-blocks of a row anew when all others are chosen.
#[derive(Debug)]
pub(super) struct Refinement {
    pub size: usize,
    /// `M` with `d M dᵀ` what errors `d` cost; `[size, size]`.
    pub costs: Vec<f32>,
    pub subs: Vec<SubFactor>,
}

/// A sub-block's own part of the costs.
#[derive(Debug)]
pub(super) struct SubFactor {
    /// The inverse of the part, `[sub, sub]`.
    pub inverse: Vec<f32>,
    /// `U`, upper triangular, with `UᵀU` that inverse.
    pub factor: Vec<f32>,
    /// Of each word.
    pub corners: Vec<Corner>,
}

impl Step {
    /// For sub-blocks of `sub` values.
    pub fn new(corner: &[f32], stride: usize, sub: usize) -> Step {
        let mut factor = vec![0.0; SUPER_BLOCK * SUPER_BLOCK];
        for (j, row) in factor.chunks_exact_mut(SUPER_BLOCK).enumerate() {
            row[j..].copy_from_slice(&corner[j * stride..][j..SUPER_BLOCK]);
        }
        let corners = corners(&factor, SUPER_BLOCK);
        let refinement = Refinement::new(made_up_costs(&factor), SUPER_BLOCK, sub);
        Step { factor, corners, refinement }
    }
}

impl Refinement {
    /// `None` if a part is not positive definite.
    pub fn new(costs: Vec<f32>, size: usize, sub: usize) -> Option<Refinement> {
        let subs =
            (0..size).step_by(sub).map(|at| SubFactor::new(&costs, size, at, sub)).collect::<Option<_>>()?;
        Some(Refinement { size, costs, subs })
    }
}

/// What errors in a super-block cost once the columns after it have made up for them.
fn made_up_costs(factor: &[f32]) -> Vec<f32> {
    let n = SUPER_BLOCK;
    // The factor transposed is lower triangular, and the costs are its inverse's transpose times that inverse.
    let lower: Vec<f64> = (0..n * n).map(|at| f64::from(factor[at % n * n + at / n])).collect();
    let inverse = invert_lower(&lower, n);
    let inverse = Matrix::new(&inverse, n, n);
    let mut costs = vec![0.0; n * n];
    add_product(inverse.transposed(), inverse, &mut costs, n);
    costs.iter().map(|&x| x as f32).collect()
}

impl SubFactor {
    fn new(costs: &[f32], size: usize, at: usize, sub: usize) -> Option<SubFactor> {
        let factor = factor_of_inverse(sub, |i, j| f64::from(costs[(at + i) * size + at + j]))?;
        let mut inverse = vec![0.0; sub * sub];
        let upper = Matrix::new(&factor, sub, sub);
        add_product(upper.transposed(), upper, &mut inverse, sub);
        Some(SubFactor { inverse, corners: corners(&factor, sub), factor })
    }
}

/// The corner of each word of a square factor.
fn corners(factor: &[f32], size: usize) -> Vec<Corner> {
    (0..size).step_by(WORD).map(|at| Corner::new(&factor[at * (size + 1)..], size)).collect()
}
