//! Searches for the scale (and minimum) of 32 values that minimize a weighted squared error, for the block types
//! of 32 values when an importance is given.
//!
//! Operation for operation in ggml's order: `make_qx_quants` and `make_qkx3_quants` in ggml-quants.c.

use super::arithmetic::{nearest_int, signed_max};
use super::legacy::BLOCK;

/// Below this magnitude a block counts as all zero (`GROUP_MAX_EPS`).
pub(super) const ZERO_BLOCK: f32 = 1e-15;

/// The result of [`affine`]: `value = scale * code + min`.
pub(super) struct Levels {
    pub scale: f32,
    pub min: f32,
    pub codes: [u8; BLOCK],
}

/// Codes `0..2 * half` around a zero at `half`; returns the scale and the codes.
///
/// Tries 19 inverse scales around the one that maps the largest magnitude onto code 0, and takes for each the
/// weighted least-squares scale.
#[inline(always)]
pub(super) fn symmetric(x: &[f32; BLOCK], w: &[f32; BLOCK], half: i32) -> (f32, [u8; BLOCK]) {
    let max = signed_max(x);
    if max.abs() < ZERO_BLOCK {
        return (0.0, [0; BLOCK]);
    }
    let level = |inverse: f32, v: f32| nearest_int(inverse * v).clamp(-half, half - 1);
    // Numerator and denominator of the least-squares scale for the codes that `inverse` gives.
    let fit = |inverse: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0_f32, 0.0_f32);
        for (&v, &w) in x.iter().zip(w) {
            let l = level(inverse, v) as f32;
            sum_lx += w * v * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };

    let mut chosen = -(half as f32) / max;
    let (sum_lx, sum_l2) = fit(chosen);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / max;
        let (sum_lx, sum_l2) = fit(inverse);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            chosen = inverse;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    (scale, x.map(|v| (half + level(chosen, v)) as u8))
}

/// Codes `0..=max_code` above a minimum that is at most zero.
///
/// Tries 37 inverse scales and solves for each the weighted least-squares scale and minimum.
#[inline(always)]
pub(super) fn affine(x: &[f32; BLOCK], w: &[f32; BLOCK], max_code: i32) -> Levels {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (w[0], w[0] * x[0]);
    for (&v, &w) in x.iter().zip(w).skip(1) {
        min = if v < min { v } else { min };
        max = if v > max { v } else { max };
        sum_w += w;
        sum_x += w * v;
    }
    min = if min > 0.0 { 0.0 } else { min };
    if max <= min {
        return Levels { scale: 0.0, min, codes: [0; BLOCK] };
    }

    let top = max_code as f32;
    // The minimum of the candidates' grid moves with the best solution, as it does in ggml.
    let codes_of =
        |inverse: f32, min: f32| x.map(|v| nearest_int(inverse * (v - min)).clamp(0, max_code) as u8);
    let error = |scale: f32, min: f32, codes: &[u8; BLOCK]| {
        let mut sum = 0.0_f32;
        for j in 0..BLOCK {
            let difference = scale * f32::from(codes[j]) + min - x[j];
            sum += w[j] * (difference * difference);
        }
        sum
    };

    let inverse = top / (max - min);
    let mut best = Levels { scale: 1.0 / inverse, min, codes: codes_of(inverse, min) };
    let mut best_error = error(best.scale, best.min, &best.codes);
    for step in 0..=36 {
        let inverse = (-0.9 + 0.05 * step as f32 + top) / (max - best.min);
        let codes = codes_of(inverse, best.min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0_f32, 0.0_f32, 0.0_f32);
        for j in 0..BLOCK {
            let l = f32::from(codes[j]);
            sum_l += w[j] * l;
            sum_l2 += w[j] * l * l;
            sum_xl += w[j] * l * x[j];
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if min > 0.0 {
                min = 0.0;
                scale = sum_xl / sum_l2;
            }
            let error = error(scale, min, &codes);
            if error < best_error {
                best_error = error;
                best = Levels { scale, min, codes };
            }
        }
    }
    best
}
