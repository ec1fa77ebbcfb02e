//! [`crate::codec::search::affine::fit`] in lanes.

use super::super::engine::affine_one;
use super::{EXACT_BELOW, LANES, Lanes, lanes_in, transpose};
use crate::codec::search::Weighting;
use crate::codec::search::affine::{AffineFit, AffineGrid};

/// Sixteen sub-blocks and what their searches share.
struct Group<L: Lanes, const SUB: usize> {
    lanes: L,
    x: [L::F; SUB],
    w: [L::F; SUB],
    smallest: L::F,
    max: L::F,
    sum_w: L::F,
    sum_x: L::F,
}

/// The best fits so far, and in which lanes all roundings were in range.
struct Best<L: Lanes> {
    scale: L::F,
    min: L::F,
    error: L::F,
    regular: L::M,
}

#[inline(always)]
pub(super) fn fit_all<L: Lanes, const SUB: usize>(
    lanes: L,
    grid: &AffineGrid,
    x: &[f32],
    weighting: Weighting<'_>,
    fits: &mut [AffineFit],
) {
    for (index, (x, fits)) in x.chunks(LANES * SUB).zip(fits.chunks_mut(LANES)).enumerate() {
        let first = index * LANES * SUB;
        fit_group::<L, SUB>(lanes, grid, x, weighting.slice(first..first + x.len()), fits);
    }
}

#[inline(always)]
fn fit_group<L: Lanes, const SUB: usize>(
    lanes: L,
    grid: &AffineGrid,
    x: &[f32],
    weighting: Weighting<'_>,
    fits: &mut [AffineFit],
) {
    let group = Group::<L, SUB>::load(lanes, x, weighting);
    let zero = lanes.splat(0.0);
    let low = lanes.select(lanes.less(zero, group.smallest), zero, group.smallest);
    let flat = lanes.equal(group.max, low);
    let mut best = group.start(grid, low);
    let mut codes = [zero; SUB];
    for step in 0..=grid.steps {
        group.improve(grid, step, flat, &mut codes, &mut best);
    }
    let scale = lanes.to_array(lanes.select(flat, zero, best.scale));
    let offset = lanes.to_array(lanes.mul(best.min, lanes.splat(-1.0)));
    let weight = lanes.to_array(group.sum_w);
    for (lane, fit) in fits.iter_mut().enumerate() {
        *fit = AffineFit { scale: scale[lane], offset: offset[lane], weight: weight[lane] };
    }
    let irregular = !(lanes.bits(flat) | lanes.bits(best.regular));
    for lane in lanes_in(irregular, fits.len()) {
        let range = lane * SUB..(lane + 1) * SUB;
        fits[lane] = affine_one::<SUB>(grid, &x[range.clone()], weighting.slice(range)).0;
    }
}

impl<L: Lanes, const SUB: usize> Group<L, SUB> {
    #[inline(always)]
    fn load(lanes: L, x: &[f32], weighting: Weighting<'_>) -> Self {
        let x_rows = transpose::<L, SUB>(lanes, x);
        let w = weight_rows(lanes, &x_rows, weighting);
        let (mut smallest, mut max) = (x_rows[0], x_rows[0]);
        let mut sum_w = w[0];
        let mut sum_x = lanes.mul(w[0], x_rows[0]);
        for (&x, &w) in x_rows[1..].iter().zip(&w[1..]) {
            smallest = lanes.min(x, smallest);
            max = lanes.max(x, max);
            sum_w = lanes.add(sum_w, w);
            sum_x = lanes.add(sum_x, lanes.mul(w, x));
        }
        Group { lanes, x: x_rows, w, smallest, max, sum_w, sum_x }
    }

    /// The codes of one row.
    #[inline(always)]
    fn code(&self, row: usize, inverse: L::F, min: L::F, max_code: L::F) -> L::F {
        let lanes = self.lanes;
        let scaled = lanes.mul(inverse, lanes.sub(self.x[row], min));
        lanes.max(lanes.min(lanes.round(scaled), max_code), lanes.splat(0.0))
    }

    /// `weight * penalty(scale * code + min - x)` of one row.
    #[inline(always)]
    fn error(&self, grid: &AffineGrid, row: usize, code: L::F, scale: L::F, min: L::F) -> L::F {
        let lanes = self.lanes;
        let error = lanes.sub(lanes.add(lanes.mul(scale, code), min), self.x[row]);
        let penalty = if grid.absolute { lanes.abs(error) } else { lanes.mul(error, error) };
        lanes.mul(self.w[row], penalty)
    }

    /// Where `inverse * (x - min)` is within the reach of `round` for every x of the lane.
    #[inline(always)]
    fn in_range(&self, inverse: L::F, min: L::F) -> L::M {
        let lanes = self.lanes;
        let bound = lanes.splat(EXACT_BELOW);
        let low = lanes.abs(lanes.mul(inverse, lanes.sub(self.smallest, min)));
        let high = lanes.abs(lanes.mul(inverse, lanes.sub(self.max, min)));
        lanes.and(lanes.less(low, bound), lanes.less(high, bound))
    }

    /// The fit before any candidate: codes spread evenly from the smallest to the largest value.
    #[inline(always)]
    fn start(&self, grid: &AffineGrid, min: L::F) -> Best<L> {
        let lanes = self.lanes;
        let max_code = lanes.splat(grid.max_code as f32);
        let inverse = lanes.div(max_code, lanes.sub(self.max, min));
        let scale = lanes.div(lanes.splat(1.0), inverse);
        let mut error = lanes.splat(0.0);
        for row in 0..SUB {
            let code = self.code(row, inverse, min, max_code);
            error = lanes.add(error, self.error(grid, row, code, scale, min));
        }
        // A NaN among the values does not show in the extremes, but always in the sum.
        let no_nan = lanes.equal(self.sum_x, self.sum_x);
        Best { scale, min, error, regular: lanes.and(no_nan, self.in_range(inverse, min)) }
    }

    /// Tries one candidate in every lane and keeps it where it is better. `codes` is room to work in.
    #[inline(always)]
    fn improve(&self, grid: &AffineGrid, step: i32, flat: L::M, codes: &mut [L::F; SUB], best: &mut Best<L>) {
        let lanes = self.lanes;
        let zero = lanes.splat(0.0);
        let max_code = lanes.splat(grid.max_code as f32);
        let numerator = lanes.splat(grid.first + grid.step * step as f32 + grid.max_code as f32);
        let inverse = lanes.div(numerator, lanes.sub(self.max, best.min));
        best.regular = lanes.and(best.regular, self.in_range(inverse, best.min));

        let (mut sum_l, mut sum_l2, mut sum_xl) = (zero, zero, zero);
        for (row, code) in codes.iter_mut().enumerate() {
            let l = self.code(row, inverse, best.min, max_code);
            *code = l;
            let wl = lanes.mul(self.w[row], l);
            sum_l = lanes.add(sum_l, wl);
            sum_l2 = lanes.add(sum_l2, lanes.mul(wl, l));
            sum_xl = lanes.add(sum_xl, lanes.mul(wl, self.x[row]));
        }
        let determinant = cross(lanes, (self.sum_w, sum_l), (sum_l, sum_l2));
        let mut scale = lanes.div(cross(lanes, (self.sum_w, self.sum_x), (sum_l, sum_xl)), determinant);
        let mut min = lanes.div(cross(lanes, (sum_l2, sum_l), (sum_xl, self.sum_x)), determinant);
        let positive = lanes.less(zero, min);
        if lanes.bits(positive) != 0 {
            min = lanes.select(positive, zero, min);
            scale = lanes.select(positive, lanes.div(sum_xl, sum_l2), scale);
        }
        let mut error = zero;
        for (row, &code) in codes.iter().enumerate() {
            error = lanes.add(error, self.error(grid, row, code, scale, min));
        }
        let solvable = lanes.and_not(lanes.less(zero, determinant), flat);
        let better = lanes.and(solvable, lanes.less(error, best.error));
        best.error = lanes.select(better, error, best.error);
        best.scale = lanes.select(better, scale, best.scale);
        best.min = lanes.select(better, min, best.min);
    }
}

/// The determinant of two columns: `a.0 * b.1 - a.1 * b.0`.
#[inline(always)]
fn cross<L: Lanes>(lanes: L, a: (L::F, L::F), b: (L::F, L::F)) -> L::F {
    lanes.sub(lanes.mul(a.0, b.1), lanes.mul(a.1, b.0))
}

/// [`Weighting::fill`] in lanes.
#[inline(always)]
pub(super) fn weight_rows<L: Lanes, const SUB: usize>(
    lanes: L,
    x: &[L::F; SUB],
    weighting: Weighting<'_>,
) -> [L::F; SUB] {
    if let Weighting::Given(weights) = weighting {
        return transpose(lanes, weights);
    }
    let mut spread = lanes.splat(0.0);
    if let Weighting::SpreadPlusMagnitude = weighting {
        for &x in x {
            spread = lanes.add(spread, lanes.mul(x, x));
        }
        spread = lanes.sqrt(lanes.div(spread, lanes.splat(SUB as f32)));
    }
    let mut weights = *x;
    for weight in &mut weights {
        *weight = match weighting {
            Weighting::Square => lanes.mul(*weight, *weight),
            // Adding the zero to a magnitude changes nothing.
            _ => lanes.add(spread, lanes.abs(*weight)),
        };
    }
    weights
}
