//! The search of the types with codes for minus one, zero and one (IQ1_S, IQ1_M), which all lie an eighth higher or lower.
//!
//! Under the best scale the smallest values of a sub-block get the lowest code and the largest the highest, so with values
//! in order there are only so many ways to split them, and all are tried. From `quantize_row_iq1_s_impl` and
//! `quantize_row_iq1_m_impl` in ggml-quants.c.

use super::grid::{Grid, code_bits};
use super::nearest::{Levels, Nearest};

/// How far the three levels lie off minus one, zero and one.
pub(super) const SHIFT: f32 = 0.125;

/// The levels shifted up and down, by code.
pub(super) const UP: Levels = [-1.0 + SHIFT, SHIFT, 1.0 + SHIFT, 0.0, 0.0, 0.0, 0.0, 0.0];
pub(super) const DOWN: Levels = [-1.0 - SHIFT, -SHIFT, 1.0 - SHIFT, 0.0, 0.0, 0.0, 0.0, 0.0];

/// Ends of the second part that are computed side by side: all those of a sub-block, in whole vectors.
pub(super) const fn ends(values: usize) -> usize {
    (values + 1).next_multiple_of(16)
}

/// `Σ w q x` and `Σ w q²` of the splits with one end of the first part, by the end of the second; for each of `C` choices
/// of shifts.
pub(super) struct Sums<const C: usize, const E: usize> {
    pub qx: [[f32; E]; C],
    pub q2: [[f32; E]; C],
}

/// What says the sums. Not a closure: one that is called in two places is compiled without the caller's instructions.
pub(super) trait SplitSums<const C: usize, const E: usize> {
    /// Fills in the sums for an end of the first part.
    fn fill(&self, first: usize, sums: &mut Sums<C, E>);
}

/// The best split of a sub-block: in order, values before `first` get code 0, those before `second` code 1.
#[derive(Clone, Copy)]
pub(super) struct Split {
    pub first: usize,
    pub second: usize,
    pub choice: usize,
    pub scale: f32,
}

/// The split that ggml's walk through all of them ends with: each takes the place of the best so far if it explains more,
/// both sides of the comparison rounded. `None` if all weights are zero.
#[inline(always)]
pub(super) fn best_split<const V: usize, const C: usize, const E: usize>(
    source: &impl SplitSums<C, E>,
) -> Option<Split> {
    let mut sums = Sums { qx: [[0.0; E]; C], q2: [[0.0; E]; C] };
    // What the best split at each end explains, first: vectors do that, and the walk need not go where nothing is near
    // the best. As bits, which for numbers that are not negative have the same order.
    let mut most = [0; E];
    for first in 0..=V {
        source.fill(first, &mut sums);
        most[first] = most_explained(&sums, first);
    }
    let top = f32::from_bits(most[..=V].iter().fold(0, |top, most| top.max(*most)).cast_unsigned());
    // The walk comes to the same end from any best so far that is clearly less, as the first split clearly above takes
    // its place either way.
    let is_usable = top.is_finite() && top > 1e-30;
    let (mut score, enough) = if is_usable { (top * 0.9999, top * 0.9998) } else { (-f32::MAX, 0.0) };
    let mut best = None;
    for first in (0..=V).filter(|first| most[*first] >= enough.to_bits().cast_signed()) {
        source.fill(first, &mut sums);
        take_better::<V, C, E>(&sums, first, &mut score, &mut best);
    }
    best
}

/// The largest `(Σ w q x)² / Σ w q²` there is, as bits without a sign, so that a NaN is larger than any number.
#[inline(always)]
fn most_explained<const C: usize, const E: usize>(sums: &Sums<C, E>, first: usize) -> i32 {
    let mut most = 0;
    for choice in 0..C {
        for second in 0..E {
            let (qx, q2) = (sums.qx[choice][second], sums.q2[choice][second]);
            let explained = (qx * qx / q2).to_bits().cast_signed() & i32::MAX;
            most = most.max(if second >= first && q2 > 0.0 { explained } else { 0 });
        }
    }
    most
}

/// Goes through the splits with one end of the first part in order.
#[inline(always)]
fn take_better<const V: usize, const C: usize, const E: usize>(
    sums: &Sums<C, E>,
    first: usize,
    score: &mut f32,
    best: &mut Option<Split>,
) {
    for second in first..=V {
        for choice in 0..C {
            let (qx, q2) = (sums.qx[choice][second], sums.q2[choice][second]);
            if q2 > 0.0 && qx * qx > *score * q2 {
                let scale = qx / q2;
                *score = scale * qx;
                *best = Some(Split { first, second, choice, scale });
            }
        }
    }
}

/// The places of values from the smallest to the largest, equal ones in their order.
#[inline(always)]
pub(super) fn ascending<const V: usize>(x: &[f32; V]) -> [usize; V] {
    let mut keys: [u64; V] = std::array::from_fn(|i| {
        // Zeros of both signs are equal. Bits of floats are in order but for negative ones, which run backwards.
        let bits = (x[i] + 0.0).to_bits();
        let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        u64::from(ordered) << 32 | i as u64
    });
    keys.sort_unstable();
    keys.map(|key| key as u32 as usize)
}

/// The code of each value under a split, all negated if its scale is negative.
#[inline(always)]
pub(super) fn codes<const V: usize>(split: &Split, order: &[usize; V]) -> [u8; V] {
    let mut codes = [0; V];
    for (place, &at) in order.iter().enumerate() {
        let code = u8::from(place >= split.first) + u8::from(place >= split.second);
        codes[at] = if split.scale < 0.0 { 2 - code } else { code };
    }
    codes
}

/// A sub-block in words of eight values: which shift each has, values, and what an error costs.
pub(super) struct SubBlock<'a, const V: usize> {
    pub x: &'a [f32; V],
    pub w: &'a [f32; V],
}

/// The point for each group's codes, and the scale anew if some codes were no point.
#[inline(always)]
pub(super) fn to_grid<K: Nearest, const V: usize>(
    kernel: K,
    grid: &Grid<8>,
    block: &SubBlock<V>,
    codes: &[u8; V],
    levels: impl Fn(usize) -> &'static Levels,
    scale: &mut f32,
) -> [u16; 4] {
    let mut indices = [0; 4];
    let mut all_on_grid = true;
    let groups = block.x.as_chunks::<8>().0.iter().zip(block.w.as_chunks::<8>().0);
    for (g, (x, w)) in groups.clone().enumerate() {
        let codes = codes.as_chunks::<8>().0[g].iter().enumerate();
        let combination = codes.fold(0, |packed, (i, code)| packed | u16::from(*code) << (i * code_bits(8)));
        let point = match grid.candidates(combination) {
            None => combination,
            Some(candidates) => {
                all_on_grid = false;
                kernel.nearest(levels(g), x, w, *scale, candidates)
            }
        };
        indices[g] = grid.index(point);
    }
    if !all_on_grid {
        let mut sums = (0.0, 0.0);
        for (g, (x, w)) in groups.enumerate() {
            let codes = grid.codes(usize::from(indices[g]));
            add_sums(&mut sums, x, w, |i| levels(g)[usize::from(codes[i])]);
        }
        if sums.0 > 0.0 && sums.1 > 0.0 {
            *scale = sums.0 / sums.1;
        }
    }
    indices
}

/// Adds `Σ w q x` and `Σ w q²` of a group.
#[inline(always)]
pub(super) fn add_sums(sums: &mut (f32, f32), x: &[f32; 8], w: &[f32; 8], q: impl Fn(usize) -> f32) {
    for i in 0..8 {
        sums.0 += w[i] * q(i) * x[i];
        sums.1 += w[i] * q(i) * q(i);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_keep_their_order() {
        let x = [0.0, -1.0, -0.0, 2.0, -1.0, f32::MIN, 1e-40, 0.0];
        assert_eq!(ascending(&x), [5, 1, 4, 0, 2, 7, 6, 3]);
    }
}
