//! [`crate::codec::search::positive::fit`] in lanes, one super-block per lane.

use super::{LANES, Lanes, transpose};
use crate::codec::search::ZERO_BELOW;

#[inline(always)]
pub(super) fn fit_all<L: Lanes, const N: usize>(
    lanes: L,
    max_code: i32,
    x: &[f32],
    weights: &[f32],
    codes: &mut [u8],
    scales: &mut [f32],
) {
    let groups = x.chunks(LANES * N).zip(weights.chunks(LANES * N)).zip(codes.chunks_mut(LANES * N));
    for (((x, weights), codes), scales) in groups.zip(scales.chunks_mut(LANES)) {
        let x = transpose::<L, N>(lanes, x);
        let weights = transpose::<L, N>(lanes, weights);
        let (scale, levels) = fit(lanes, max_code, &x, &weights);
        scales.copy_from_slice(&lanes.to_array(scale)[..scales.len()]);
        for (row, &level) in levels.iter().enumerate() {
            let level = lanes.int_to_array(level);
            codes.chunks_exact_mut(N).zip(level).for_each(|(codes, level)| codes[row] = level as u8);
        }
    }
}

/// All integers are kept as in C, wrapped to a byte where it stores one; no value is out of reach.
#[inline(always)]
fn fit<L: Lanes, const N: usize>(lanes: L, max_code: i32, x: &[L::F; N], w: &[L::F; N]) -> (L::F, [L::I; N]) {
    let none = lanes.splat(0.0);
    let byte = lanes.splat_int(0xff);
    let limit = lanes.splat_int(max_code);
    let mut max = none;
    for &x in x {
        max = lanes.max(max, x);
    }
    let mut inverse = lanes.div(lanes.splat(max_code as f32), max);
    let scale = lanes.div(lanes.splat(1.0), inverse);
    let mut best_error = none;
    for row in 0..N {
        let level = lanes.and_int(lanes.nearest_int(lanes.mul(inverse, x[row])), byte);
        best_error = lanes.add(best_error, error(lanes, x[row], w[row], scale, level));
    }
    for step in (-4..=4).filter(|&step| step != 0) {
        let this_inverse = lanes.div(lanes.splat(0.1 * step as f32 + max_code as f32), max);
        let this_scale = lanes.div(lanes.splat(1.0), this_inverse);
        let mut sum = none;
        for row in 0..N {
            let level = lanes.min_int(lanes.nearest_int(lanes.mul(this_inverse, x[row])), limit);
            sum = lanes.add(sum, error(lanes, x[row], w[row], this_scale, level));
        }
        let better = lanes.less(sum, best_error);
        best_error = lanes.select(better, sum, best_error);
        inverse = lanes.select(better, this_inverse, inverse);
    }
    let (scale, mut levels) = descend(lanes, limit, inverse, x, w);
    let zero = lanes.less(max, lanes.splat(ZERO_BELOW));
    for level in &mut levels {
        *level = lanes.select_int(zero, lanes.splat_int(0), *level);
    }
    (lanes.select(zero, none, scale), levels)
}

/// `w * (x - scale * level)²`
#[inline(always)]
fn error<L: Lanes>(lanes: L, x: L::F, w: L::F, scale: L::F, level: L::I) -> L::F {
    let error = lanes.sub(x, lanes.mul(scale, lanes.to_float(level)));
    lanes.mul(lanes.mul(w, error), error)
}

/// `w * l * l`
#[inline(always)]
fn weighted_square<L: Lanes>(lanes: L, w: L::F, l: L::F) -> L::F {
    lanes.mul(lanes.mul(w, l), l)
}

/// Moves one code at a time to where it explains more.
#[inline(always)]
fn descend<L: Lanes, const N: usize>(
    lanes: L,
    limit: L::I,
    inverse: L::F,
    x: &[L::F; N],
    w: &[L::F; N],
) -> (L::F, [L::I; N]) {
    let none = lanes.splat(0.0);
    let byte = lanes.splat_int(0xff);
    let mut wx = [none; N];
    let mut levels = [lanes.splat_int(0); N];
    let (mut sum_lx, mut sum_l2) = (none, none);
    for row in 0..N {
        let level = lanes.min_int(lanes.nearest_int(lanes.mul(inverse, x[row])), limit);
        let l = lanes.to_float(level);
        levels[row] = lanes.and_int(level, byte);
        wx[row] = lanes.mul(w[row], x[row]);
        sum_lx = lanes.add(sum_lx, lanes.mul(wx[row], l));
        sum_l2 = lanes.add(sum_l2, weighted_square(lanes, w[row], l));
    }
    for _ in 0..5 {
        let mut changed = 0;
        for row in 0..N {
            let l = lanes.to_float(levels[row]);
            let lx = lanes.sub(sum_lx, lanes.mul(wx[row], l));
            let l2 = lanes.sub(sum_l2, weighted_square(lanes, w[row], l));
            let nearest = lanes.nearest_int(lanes.div(lanes.mul(x[row], l2), lx));
            let candidate = lanes.min_int(nearest, limit);
            let l = lanes.to_float(candidate);
            let new_lx = lanes.add(lx, lanes.mul(wx[row], l));
            let new_l2 = lanes.add(l2, weighted_square(lanes, w[row], l));
            let explains_more = lanes.less(
                lanes.mul(lanes.mul(sum_lx, sum_lx), new_l2),
                lanes.mul(lanes.mul(new_lx, new_lx), sum_l2),
            );
            let allowed = lanes.and(lanes.less(none, lx), lanes.less(none, l2));
            let better =
                lanes.and_not(lanes.and(allowed, explains_more), lanes.equal_int(candidate, levels[row]));
            levels[row] = lanes.select_int(better, lanes.and_int(candidate, byte), levels[row]);
            sum_lx = lanes.select(better, new_lx, sum_lx);
            sum_l2 = lanes.select(better, new_l2, sum_l2);
            changed |= lanes.bits(better);
        }
        if changed == 0 {
            break;
        }
    }
    let scale = lanes.select(lanes.less(none, sum_l2), lanes.div(sum_lx, sum_l2), none);
    (scale, levels)
}
