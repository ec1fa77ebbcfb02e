//! What an instruction set has to offer the encoders, and the plain Rust that offers it everywhere.

use super::{MOST_SUBS, SUPER_BLOCK};
use crate::codec::arithmetic::nearest_int;
use crate::codec::search::affine::{self, AffineFit, AffineGrid};
use crate::codec::search::{Weighting, positive, symmetric};

/// The smallest and the largest level a block stores; the code written is `level - low`.
#[derive(Clone, Copy)]
pub(super) struct Levels {
    pub low: i32,
    pub high: i32,
}

/// How stored codes decode, per sub-block: `step * level - offset`.
#[derive(Clone, Copy)]
pub(super) struct Steps {
    pub step: [f32; MOST_SUBS],
    pub offset: [f32; MOST_SUBS],
}

/// The scale of one sub-block around zero, and the sum of its weights.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct SymmetricFit {
    pub scale: f32,
    pub weight: f32,
}

/// The searches over many sub-blocks at once. All implementations give the same bits.
///
/// `x` is always whole sub-blocks one after another, and results are one per sub-block in that order.
pub(super) trait Engine: Copy {
    /// [`affine::fit`] of every sub-block of `SUB` values.
    fn affine<const SUB: usize>(
        self,
        grid: &AffineGrid,
        x: &[f32],
        weighting: Weighting<'_>,
        fits: &mut [AffineFit],
    );

    /// [`symmetric::fit`] of every sub-block of 16 values, without its codes.
    fn symmetric(self, half: i32, x: &[f32], weighting: Weighting<'_>, fits: &mut [SymmetricFit]);

    /// [`symmetric::fit`] of every group of 16 values with given weights, and its codes.
    fn symmetric_codes(self, half: i32, x: &[f32], weights: &[f32], codes: &mut [u8], scales: &mut [f32]);

    /// [`symmetric::fit_by_descent`] of every sub-block of 16 values, without its codes.
    fn descent(self, half: i32, x: &[f32], scales: &mut [f32]);

    /// [`positive::fit`] of every group of `N` values, and its codes.
    fn positive<const N: usize>(
        self,
        max_code: i32,
        x: &[f32],
        weights: &[f32],
        codes: &mut [u8],
        scales: &mut [f32],
    );

    /// The nearest codes of one super-block `x` in sub-blocks of `sub` values once its scales are fixed. Where a step is
    /// zero the codes mean nothing and the caller replaces them.
    fn requantize(self, levels: Levels, sub: usize, x: &[f32], steps: &Steps, codes: &mut [u8]);

    /// `importance * sqrt(sigma² + x²)`, where `sigma²` is `factor` times the mean square of the super-block.
    fn importance_weights(self, factor: f32, x: &[f32], importance: &[f32], weights: &mut [f32]);
}

/// One sub-block at a time, in plain Rust.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Engine for Scalar {
    fn affine<const SUB: usize>(
        self,
        grid: &AffineGrid,
        x: &[f32],
        weighting: Weighting<'_>,
        fits: &mut [AffineFit],
    ) {
        for (index, (x, fit)) in x.chunks_exact(SUB).zip(fits).enumerate() {
            *fit = affine_one::<SUB>(grid, x, weighting.slice(index * SUB..(index + 1) * SUB)).0;
        }
    }

    fn symmetric(self, half: i32, x: &[f32], weighting: Weighting<'_>, fits: &mut [SymmetricFit]) {
        for (index, (x, fit)) in x.chunks_exact(16).zip(fits).enumerate() {
            *fit = symmetric_one(half, x, weighting.slice(index * 16..(index + 1) * 16)).0;
        }
    }

    fn symmetric_codes(self, half: i32, x: &[f32], weights: &[f32], codes: &mut [u8], scales: &mut [f32]) {
        let groups = x.chunks_exact(16).zip(weights.chunks_exact(16)).zip(codes.chunks_exact_mut(16));
        for (((x, weights), codes), scale) in groups.zip(scales) {
            *scale = symmetric::fit(half, x, weights, codes);
        }
    }

    fn descent(self, half: i32, x: &[f32], scales: &mut [f32]) {
        for (x, scale) in x.chunks_exact(16).zip(scales) {
            *scale = symmetric::fit_by_descent(half, x, &mut [0; 16]);
        }
    }

    fn positive<const N: usize>(
        self,
        max_code: i32,
        x: &[f32],
        weights: &[f32],
        codes: &mut [u8],
        scales: &mut [f32],
    ) {
        let groups = x.chunks_exact(N).zip(weights.chunks_exact(N)).zip(codes.chunks_exact_mut(N));
        for (((x, weights), codes), scale) in groups.zip(scales) {
            *scale = positive::fit(max_code, x, weights, codes);
        }
    }

    fn requantize(self, levels: Levels, sub: usize, x: &[f32], steps: &Steps, codes: &mut [u8]) {
        requantize(levels, sub, x, steps, codes);
    }

    fn importance_weights(self, factor: f32, x: &[f32], importance: &[f32], weights: &mut [f32]) {
        importance_weights(factor, x, importance, weights);
    }
}

/// [`affine::fit`] of one sub-block, with its codes in the first `SUB` places.
pub(super) fn affine_one<const SUB: usize>(
    grid: &AffineGrid,
    x: &[f32],
    weighting: Weighting<'_>,
) -> (AffineFit, [u8; SUB]) {
    let mut weights = [0.0; SUB];
    let mut codes = [0; SUB];
    weighting.fill(x, &mut weights);
    (affine::fit(grid, x, &weights, &mut codes), codes)
}

/// [`symmetric::fit`] of one sub-block of 16, with its codes.
pub(super) fn symmetric_one(half: i32, x: &[f32], weighting: Weighting<'_>) -> (SymmetricFit, [u8; 16]) {
    let mut weights = [0.0; 16];
    let mut codes = [0; 16];
    weighting.fill(x, &mut weights);
    let scale = symmetric::fit(half, x, &weights, &mut codes);
    (SymmetricFit { scale, weight: weights.iter().fold(0.0, |sum, w| sum + w) }, codes)
}

/// [`Engine::requantize`]: independent elements, which the compiler turns into vector code by itself.
#[inline(always)]
pub(super) fn requantize(levels: Levels, sub: usize, x: &[f32], steps: &Steps, codes: &mut [u8]) {
    for (index, (x, codes)) in x.chunks_exact(sub).zip(codes.chunks_exact_mut(sub)).enumerate() {
        let (step, offset) = (steps.step[index], steps.offset[index]);
        for (&x, code) in x.iter().zip(codes) {
            let level = nearest_int((x + offset) / step).min(levels.high).max(levels.low);
            *code = (level - levels.low) as u8;
        }
    }
}

/// [`Engine::importance_weights`]: as many super-blocks as are given, each with its own mean square.
#[inline(always)]
pub(super) fn importance_weights(factor: f32, x: &[f32], importance: &[f32], weights: &mut [f32]) {
    let blocks = x.chunks_exact(SUPER_BLOCK).zip(importance.chunks_exact(SUPER_BLOCK));
    for ((x, importance), weights) in blocks.zip(weights.chunks_exact_mut(SUPER_BLOCK)) {
        let squares = x.iter().fold(0.0, |sum, &x| sum + x * x);
        weights_of_block(factor, squares, x, importance, weights);
    }
}

/// The weights of one super-block whose sum of squares is known.
#[inline(always)]
pub(super) fn weights_of_block(
    factor: f32,
    squares: f32,
    x: &[f32],
    importance: &[f32],
    weights: &mut [f32],
) {
    let variance = factor * squares / SUPER_BLOCK as f32;
    for ((&x, &importance), weight) in x.iter().zip(importance).zip(weights) {
        *weight = importance * (variance + x * x).sqrt();
    }
}
