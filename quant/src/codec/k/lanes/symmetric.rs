//! [`crate::codec::search::symmetric`] in lanes.

use super::super::engine::{SymmetricFit, symmetric_one};
use super::affine::weight_rows;
use super::{LANES, Lanes, lanes_in, transpose};
use crate::codec::search::{Weighting, ZERO_BELOW, symmetric};

/// Values per sub-block, and scales per super-block.
const SUB: usize = 16;

/// Above this a peak's inverse may leave the normal range.
const LARGEST_PEAK: f32 = 1e37;

/// What a group of searches found.
struct Found<L: Lanes> {
    scale: L::F,
    /// The inverse scale that rounds to the best codes.
    inverse: L::F,
    zero: u32,
    irregular: u32,
}

#[inline(always)]
pub(super) fn fit_all<L: Lanes>(
    lanes: L,
    half: i32,
    x: &[f32],
    weighting: Weighting<'_>,
    fits: &mut [SymmetricFit],
) {
    for (index, (x, fits)) in x.chunks(LANES * SUB).zip(fits.chunks_mut(LANES)).enumerate() {
        let weighting = weighting.slice(index * LANES * SUB..index * LANES * SUB + x.len());
        let rows = transpose::<L, SUB>(lanes, x);
        let weights = weight_rows(lanes, &rows, weighting);
        let found = search(lanes, half, &rows, &weights);
        let mut sum = lanes.splat(0.0);
        for &weight in &weights {
            sum = lanes.add(sum, weight);
        }
        let (scale, weight) = (lanes.to_array(found.scale), lanes.to_array(sum));
        for (lane, fit) in fits.iter_mut().enumerate() {
            *fit = SymmetricFit { scale: scale[lane], weight: weight[lane] };
        }
        for lane in lanes_in(found.irregular, fits.len()) {
            let range = lane * SUB..(lane + 1) * SUB;
            fits[lane] = symmetric_one(half, &x[range.clone()], weighting.slice(range)).0;
        }
    }
}

#[inline(always)]
pub(super) fn fit_all_codes<L: Lanes>(
    lanes: L,
    half: i32,
    x: &[f32],
    weights: &[f32],
    codes: &mut [u8],
    scales: &mut [f32],
) {
    let groups = x.chunks(LANES * SUB).zip(weights.chunks(LANES * SUB)).zip(codes.chunks_mut(LANES * SUB));
    for (((x, weights), codes), scales) in groups.zip(scales.chunks_mut(LANES)) {
        let rows = transpose::<L, SUB>(lanes, x);
        let found = search(lanes, half, &rows, &transpose(lanes, weights));
        for (row, &x) in rows.iter().enumerate() {
            let levels = lanes.to_array(nearest_level(lanes, half, lanes.mul(found.inverse, x)));
            for (lane, codes) in codes.chunks_exact_mut(SUB).enumerate() {
                codes[row] = if found.zero >> lane & 1 == 1 { 0 } else { (levels[lane] as i32 + half) as u8 };
            }
        }
        scales.copy_from_slice(&lanes.to_array(found.scale)[..scales.len()]);
        for lane in lanes_in(found.irregular, scales.len()) {
            let range = lane * SUB..(lane + 1) * SUB;
            scales[lane] =
                symmetric::fit(half, &x[range.clone()], &weights[range.clone()], &mut codes[range]);
        }
    }
}

/// The nearest of the levels from `-half` to `half - 1`, as ggml's `nearest_int` has it even far out.
#[inline(always)]
fn nearest_level<L: Lanes>(lanes: L, half: i32, value: L::F) -> L::F {
    let (low, high) = (lanes.splat_int(-half), lanes.splat_int(half - 1));
    lanes.to_float(lanes.max_int(lanes.min_int(lanes.nearest_int(value), high), low))
}

/// The value of largest magnitude in each lane, and that magnitude.
#[inline(always)]
fn peaks<L: Lanes>(lanes: L, x: &[L::F; SUB]) -> (L::F, L::F) {
    let (mut peak, mut magnitude) = (lanes.splat(0.0), lanes.splat(0.0));
    for &x in x {
        let larger = lanes.less(magnitude, lanes.abs(x));
        magnitude = lanes.select(larger, lanes.abs(x), magnitude);
        peak = lanes.select(larger, x, peak);
    }
    (peak, magnitude)
}

#[inline(always)]
fn search<L: Lanes>(lanes: L, half: i32, x: &[L::F; SUB], w: &[L::F; SUB]) -> Found<L> {
    let none = lanes.splat(0.0);
    let (peak, magnitude) = peaks(lanes, x);
    let mut wx = [none; SUB];
    for row in 0..SUB {
        wx[row] = lanes.mul(w[row], x[row]);
    }
    let mut best_inverse = lanes.div(lanes.splat(-half as f32), peak);
    let (sum_lx, sum_l2) = sums(lanes, half, x, w, &wx, best_inverse);
    // A NaN among the values does not show in the peak, but always in this sum.
    let regular = lanes.and(lanes.equal(sum_lx, sum_lx), lanes.less(magnitude, lanes.splat(LARGEST_PEAK)));
    let mut scale = lanes.select(lanes.equal(sum_l2, none), none, lanes.div(sum_lx, sum_l2));
    let mut best = lanes.mul(scale, sum_lx);
    for step in (-9..=9).filter(|&step| step != 0) {
        let inverse = lanes.div(lanes.splat(-(half as f32 + 0.1 * step as f32)), peak);
        let (sum_lx, sum_l2) = sums(lanes, half, x, w, &wx, inverse);
        let explains_more = lanes.less(lanes.mul(best, sum_l2), lanes.mul(sum_lx, sum_lx));
        let better = lanes.and(lanes.less(none, sum_l2), explains_more);
        let this_scale = lanes.div(sum_lx, sum_l2);
        scale = lanes.select(better, this_scale, scale);
        best = lanes.select(better, lanes.mul(this_scale, sum_lx), best);
        best_inverse = lanes.select(better, inverse, best_inverse);
    }
    let zero = lanes.less(magnitude, lanes.splat(ZERO_BELOW));
    Found {
        scale: lanes.select(zero, none, scale),
        inverse: best_inverse,
        zero: lanes.bits(zero),
        irregular: !(lanes.bits(regular) | lanes.bits(zero)),
    }
}

/// `Σ w x l` and `Σ w l²` of the levels that one inverse scale per lane rounds to; `wx` is `w x`.
#[inline(always)]
fn sums<L: Lanes>(
    lanes: L,
    half: i32,
    x: &[L::F; SUB],
    w: &[L::F; SUB],
    wx: &[L::F; SUB],
    inverse: L::F,
) -> (L::F, L::F) {
    let (low, high) = (lanes.splat(-half as f32), lanes.splat((half - 1) as f32));
    let (mut sum_lx, mut sum_l2) = (lanes.splat(0.0), lanes.splat(0.0));
    for row in 0..SUB {
        let level = lanes.round(lanes.mul(inverse, x[row]));
        let level = lanes.max(lanes.min(level, high), low);
        sum_lx = lanes.add(sum_lx, lanes.mul(wx[row], level));
        sum_l2 = lanes.add(sum_l2, lanes.mul(lanes.mul(w[row], level), level));
    }
    (sum_lx, sum_l2)
}

#[inline(always)]
pub(super) fn descend_all<L: Lanes>(lanes: L, half: i32, x: &[f32], scales: &mut [f32]) {
    for (x, scales) in x.chunks(LANES * SUB).zip(scales.chunks_mut(LANES)) {
        let rows = transpose::<L, SUB>(lanes, x);
        let (found, irregular) = descend(lanes, half, &rows);
        scales.copy_from_slice(&lanes.to_array(found)[..scales.len()]);
        for lane in lanes_in(irregular, scales.len()) {
            scales[lane] = symmetric::fit_by_descent(half, &x[lane * SUB..(lane + 1) * SUB], &mut [0; SUB]);
        }
    }
}

/// The scales of [`symmetric::fit_by_descent`], and the lanes it has to do itself.
#[inline(always)]
fn descend<L: Lanes>(lanes: L, half: i32, x: &[L::F; SUB]) -> (L::F, u32) {
    let none = lanes.splat(0.0);
    let (peak, magnitude) = peaks(lanes, x);
    let inverse = lanes.div(lanes.splat(-half as f32), peak);
    let (mut w, mut wx, mut levels) = ([none; SUB], [none; SUB], [none; SUB]);
    let (mut sum_lx, mut sum_l2) = (none, none);
    for row in 0..SUB {
        w[row] = lanes.mul(x[row], x[row]);
        wx[row] = lanes.mul(w[row], x[row]);
        levels[row] = nearest_level(lanes, half, lanes.mul(inverse, x[row]));
        sum_lx = lanes.add(sum_lx, lanes.mul(wx[row], levels[row]));
        sum_l2 = lanes.add(sum_l2, lanes.mul(lanes.mul(w[row], levels[row]), levels[row]));
    }
    let regular = lanes.and(lanes.equal(sum_lx, sum_lx), lanes.less(magnitude, lanes.splat(LARGEST_PEAK)));
    for _ in 0..5 {
        let mut changed = 0;
        for row in 0..SUB {
            let level = levels[row];
            let lx = lanes.sub(sum_lx, lanes.mul(wx[row], level));
            let l2 = lanes.sub(sum_l2, lanes.mul(lanes.mul(w[row], level), level));
            let candidate = nearest_level(lanes, half, lanes.div(lanes.mul(x[row], l2), lx));
            let new_lx = lanes.add(lx, lanes.mul(wx[row], candidate));
            let new_l2 = lanes.add(l2, lanes.mul(lanes.mul(w[row], candidate), candidate));
            let explains_more = lanes.less(
                lanes.mul(lanes.mul(sum_lx, sum_lx), new_l2),
                lanes.mul(lanes.mul(new_lx, new_lx), sum_l2),
            );
            let allowed = lanes.and(lanes.less(none, lx), lanes.less(none, new_l2));
            let better = lanes.and_not(lanes.and(allowed, explains_more), lanes.equal(candidate, level));
            levels[row] = lanes.select(better, candidate, level);
            sum_lx = lanes.select(better, new_lx, sum_lx);
            sum_l2 = lanes.select(better, new_l2, sum_l2);
            changed |= lanes.bits(better);
        }
        // A lane without a change repeats itself in the next sweep, so waiting for the others does no harm.
        if changed == 0 {
            break;
        }
    }
    let zero = lanes.less(magnitude, lanes.splat(ZERO_BELOW));
    let solvable = lanes.and_not(lanes.less(none, sum_l2), zero);
    let scale = lanes.select(solvable, lanes.div(sum_lx, sum_l2), none);
    (scale, !(lanes.bits(regular) | lanes.bits(zero)))
}
