//! `value ≈ scale * code + min` with codes from 0 to a maximum: Q2_K, Q4_K and Q5_K.

use super::super::rounding::nearest_int;

/// The candidates a search tries: inverse scales `(first + step * i + max_code) / (max - min)`, i in 0..=steps.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct AffineGrid {
    pub max_code: i32,
    pub first: f32,
    pub step: f32,
    pub steps: i32,
    /// Compare absolute instead of squared errors.
    pub absolute: bool,
}

/// The best affine map of one sub-block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in super::super) struct AffineFit {
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
pub(in super::super) fn fit(grid: &AffineGrid, x: &[f32], weights: &[f32], codes: &mut [u8]) -> AffineFit {
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
    let code_of = |inverse: f32, min: f32, x: f32| nearest_int(inverse * (x - min)).min(grid.max_code).max(0);
    let penalty = |error: f32| if grid.absolute { error.abs() } else { error * error };

    let inverse = grid.max_code as f32 / (max - min);
    let mut scale = 1.0 / inverse;
    let mut best_error = 0.0;
    for ((&x, &w), code) in x.iter().zip(weights).zip(codes.iter_mut()) {
        *code = code_of(inverse, min, x) as u8;
        best_error += w * penalty(scale * f32::from(*code) + min - x);
    }
    for step in 0..=grid.steps {
        // From here on `min` is the best fit's: every improvement also moves the candidates after it.
        let inverse = (grid.first + grid.step * step as f32 + grid.max_code as f32) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0, 0.0, 0.0);
        for (&x, &w) in x.iter().zip(weights) {
            let l = code_of(inverse, min, x) as f32;
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
            let mut error = 0.0;
            for (&x, &w) in x.iter().zip(weights) {
                error += w * penalty(this_scale * code_of(inverse, min, x) as f32 + this_min - x);
            }
            if error < best_error {
                codes.iter_mut().zip(x).for_each(|(code, &x)| *code = code_of(inverse, min, x) as u8);
                best_error = error;
                scale = this_scale;
                min = this_min;
            }
        }
    }
    AffineFit { scale, offset: -min, weight: sum_w }
}
