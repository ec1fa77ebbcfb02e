//! `value ≈ scale * code + min` with codes from 0 to a maximum: Q2_K, Q4_K, Q5_K, and with importance Q4_1 and Q5_1.

use super::super::arithmetic::nearest_int;

/// The longest sub-block of a type.
const LONGEST: usize = 32;

/// The candidates a search tries: inverse scales `(first + step * i + max_code) / (max - min)`, i in 0..=steps.
#[derive(Clone, Copy, Debug)]
pub(in crate::codec) struct AffineGrid {
    pub max_code: i32,
    pub first: f32,
    pub step: f32,
    pub steps: i32,
    /// Compare absolute instead of squared errors.
    pub absolute: bool,
}

impl AffineGrid {
    /// What ggml tries where there is an importance, for every type alike.
    pub const fn weighted(max_code: i32) -> AffineGrid {
        AffineGrid { max_code, first: -0.9, step: 0.05, steps: 36, absolute: false }
    }
}

/// The best affine map of one sub-block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::codec) struct AffineFit {
    pub scale: f32,
    /// What decoding subtracts: the negated minimum, never negative.
    pub offset: f32,
    /// Sum of the weights, which ranks this sub-block among its siblings.
    pub weight: f32,
}

/// `make_qkx2_quants` and `make_qkx3_quants` of ggml-quants.c: of every candidate scale, least squares for scale
/// and minimum given the rounded codes, and the candidate of least weighted error wins.
///
/// `x`, `weights` and `codes` have the sub-block's length.
#[inline(always)]
pub(in crate::codec) fn fit(grid: &AffineGrid, x: &[f32], weights: &[f32], codes: &mut [u8]) -> AffineFit {
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x[1..].iter().zip(&weights[1..]) {
        if x < min {
            min = x;
        }
        if x > max {
            max = x;
        }
        sum_w += w;
        sum_x += w * x;
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max == min {
        codes.fill(0);
        return AffineFit { scale: 0.0, offset: -min, weight: sum_w };
    }
    // Codes first and sums after: the sums are chains of additions in ggml's order, the codes vector code.
    let codes_of = |inverse: f32, min: f32, codes: &mut [u8]| {
        for (&x, code) in x.iter().zip(codes) {
            *code = nearest_int(inverse * (x - min)).min(grid.max_code).max(0) as u8;
        }
    };
    let penalty = |error: f32| if grid.absolute { error.abs() } else { error * error };
    let error_of = |scale: f32, min: f32, codes: &[u8]| {
        let mut sum = 0.0;
        for ((&x, &w), &code) in x.iter().zip(weights).zip(codes) {
            sum += w * penalty(scale * f32::from(code) + min - x);
        }
        sum
    };

    let inverse = grid.max_code as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    codes_of(inverse, min, codes);
    let mut best_error = error_of(scale, min, codes);
    let mut trial = [0; LONGEST];
    let trial = &mut trial[..x.len()];
    for step in 0..=grid.steps {
        // From here on `min` is the best fit's: every improvement also moves the candidates after it.
        let inverse = (grid.first + grid.step * step as f32 + grid.max_code as f32) / (max - min);
        codes_of(inverse, min, trial);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for ((&x, &w), &code) in x.iter().zip(weights).zip(trial.iter()) {
            let l = f32::from(code);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        // Not `<= 0.0`: a NaN must not pass.
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let error = error_of(this_scale, this_min, trial);
            if error < best_error {
                codes.copy_from_slice(trial);
                best_error = error;
                scale = this_scale;
                min = this_min;
            }
        }
    }
    AffineFit { scale, offset: -min, weight: sum_w }
}
