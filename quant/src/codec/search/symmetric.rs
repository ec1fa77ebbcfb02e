//! `value ≈ scale * (code - half)` with codes around zero: Q3_K and Q6_K, Q3_K's scales, and with importance Q4_0 and Q5_0.

use super::super::arithmetic::{nearest_int, peak};
use super::ZERO_BELOW;

/// The value of largest magnitude, the first of equals, or `None` where all count as zero.
#[inline(always)]
fn nonzero_peak(x: &[f32]) -> Option<f32> {
    let peak = peak(x.iter().copied());
    if peak.abs() < ZERO_BELOW { None } else { Some(peak) }
}

/// `make_qx_quants` with its `rmse_type` 1: 19 inverse scales around `-half / peak`, least squares for each, and
/// the largest explained share wins. Codes are from 0 to `2 * half - 1`.
///
/// `x`, `weights` and `codes` have the sub-block's length. Returns the scale.
#[inline(always)]
pub(in crate::codec) fn fit(half: i32, x: &[f32], weights: &[f32], codes: &mut [u8]) -> f32 {
    let Some(peak) = nonzero_peak(x) else {
        codes.fill(0);
        return 0.0;
    };
    let level = |inverse: f32, x: f32| nearest_int(inverse * x).min(half - 1).max(-half);
    let sums = |inverse: f32| {
        let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
        for (&x, &w) in x.iter().zip(weights) {
            let l = level(inverse, x) as f32;
            sum_lx += w * x * l;
            sum_l2 += w * l * l;
        }
        (sum_lx, sum_l2)
    };
    let mut best_inverse = -half as f32 / peak;
    let (sum_lx, sum_l2) = sums(best_inverse);
    let mut scale = if sum_l2 != 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / peak;
        let (sum_lx, sum_l2) = sums(inverse);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            best_inverse = inverse;
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    codes.iter_mut().zip(x).for_each(|(code, &x)| *code = (half + level(best_inverse, x)) as u8);
    scale
}

/// `make_q3_quants`: starts from `-half / peak`, then moves one code at a time to where it explains more, in at
/// most five sweeps. Every value weighs `x²`.
///
/// `x` and `codes` have the sub-block's length, 16. Returns the scale.
pub(in crate::codec) fn fit_by_descent(half: i32, x: &[f32], codes: &mut [u8]) -> f32 {
    let Some(peak) = nonzero_peak(x) else {
        codes.fill(0);
        return 0.0;
    };
    let inverse = -half as f32 / peak;
    let mut levels = [0_i32; 16];
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for (&x, level) in x.iter().zip(&mut levels) {
        *level = nearest_int(inverse * x).min(half - 1).max(-half);
        let (w, l) = (x * x, *level as f32);
        sum_lx += w * x * l;
        sum_l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (&x, level) in x.iter().zip(&mut levels) {
            let (w, l) = (x * x, *level as f32);
            let mut lx = sum_lx - w * x * l;
            if lx > 0.0 {
                let mut l2 = sum_l2 - w * l * l;
                let candidate = nearest_int(x * l2 / lx).min(half - 1).max(-half);
                if candidate != *level {
                    let l = candidate as f32;
                    lx += w * x * l;
                    l2 += w * l * l;
                    if l2 > 0.0 && lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        *level = candidate;
                        (sum_lx, sum_l2) = (lx, l2);
                        changed = true;
                    }
                }
            }
        }
        if !changed {
            break;
        }
    }
    codes.iter_mut().zip(&levels).for_each(|(code, &level)| *code = (half + level) as u8);
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}
