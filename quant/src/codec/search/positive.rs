//! `value ≈ scale * code` for values that are not negative, with importance: a super-block's scales and offsets, and where
//! the search of IQ2_XXS starts.

use super::super::arithmetic::nearest_int;
use super::ZERO_BELOW;

/// `make_qp_quants`: the best of nine inverse scales, then moves one code at a time to where it explains more, in
/// at most five sweeps.
///
/// `x`, `weights` and `codes` have one length. Returns the scale. Codes wrap to a byte before and during
/// the search, as they do in C where they are kept as `uint8_t`.
#[inline(always)]
pub(in crate::codec) fn fit(max_code: i32, x: &[f32], weights: &[f32], codes: &mut [u8]) -> f32 {
    let mut max = 0.0;
    for &x in x {
        // C's MAX macro: the second operand where they are equal or one is NaN.
        max = if max > x { max } else { x };
    }
    if max < ZERO_BELOW {
        codes.fill(0);
        return 0.0;
    }
    let mut inverse = max_code as f32 / max;
    let scale = 1.0 / inverse;
    let mut best_error = 0.0;
    for (&x, &w) in x.iter().zip(weights) {
        let error = x - scale * f32::from(nearest_int(inverse * x) as u8);
        best_error += w * error * error;
    }
    for step in (-4..=4).filter(|&step| step != 0) {
        let this_inverse = (0.1 * step as f32 + max_code as f32) / max;
        let this_scale = 1.0 / this_inverse;
        let mut sum = 0.0;
        for (&x, &w) in x.iter().zip(weights) {
            let error = x - this_scale * nearest_int(this_inverse * x).min(max_code) as f32;
            sum += w * error * error;
        }
        if sum < best_error {
            best_error = sum;
            inverse = this_inverse;
        }
    }
    let (mut sum_lx, mut sum_l2) = (0.0, 0.0);
    for ((&x, &w), code) in x.iter().zip(weights).zip(codes.iter_mut()) {
        let l = nearest_int(inverse * x).min(max_code);
        *code = l as u8;
        sum_lx += w * x * l as f32;
        sum_l2 += w * l as f32 * l as f32;
    }
    for _ in 0..5 {
        let mut changed = false;
        for ((&x, &w), code) in x.iter().zip(weights).zip(codes.iter_mut()) {
            let l = f32::from(*code);
            let mut lx = sum_lx - w * x * l;
            let mut l2 = sum_l2 - w * l * l;
            if lx > 0.0 && l2 > 0.0 {
                let candidate = nearest_int(x * l2 / lx).min(max_code);
                if candidate != i32::from(*code) {
                    let l = candidate as f32;
                    lx += w * x * l;
                    l2 += w * l * l;
                    if lx * lx * sum_l2 > sum_lx * sum_lx * l2 {
                        *code = candidate as u8;
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
    if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 }
}
