//! The search that the two- and three-bit types share: the scale of a sub-block, and the grid's point for each of its
//! groups.
//!
//! Some scales around the one that would stretch the largest value to the largest level are tried. Each rounds every
//! value to its nearest code, replaces combinations that the grid lacks by the best of their candidates, and is judged by
//! what its least-squares scale explains. The winner's groups are then looked at once more under that scale. From the
//! `quantize_row_iq2_…_impl` and `quantize_row_iq3_…_impl` of ggml-quants.c.
//!
//! Trials do not depend on each other and share everything but their scale, so the lanes of a vector are trials.

use super::grid::{Grid, code_bits, codes, unpack};
use super::nearest::{Nearest, ODD};
use crate::codec::arithmetic::nearest_int;

/// Groups of a sub-block, at most.
pub(super) const GROUPS: usize = 8;

/// A sub-block's values without signs, and what an error in each costs.
pub(super) struct SubBlock<const V: usize> {
    pub x: [f32; V],
    pub w: [f32; V],
}

/// Which groups are looked at once more under the winning scale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    Always,
    /// Those whose rounded codes were no point.
    OffGrid,
    /// All, unless every group's rounded codes were a point.
    AllIfAnyIsOff,
}

/// How a type searches.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// Trials on each side of the middle one.
    pub each_side: i32,
    /// How far trials lie apart, in levels that the largest value is stretched to.
    pub step: f32,
    pub again: Again,
}

/// Lanes for the trials of a rule: whole vectors of eight.
pub(super) const fn lanes(rule: Rule) -> usize {
    (2 * rule.each_side as usize + 1).next_multiple_of(8)
}

/// What a search found: a scale, negative only if weights overflow, and each group's point, packed.
pub(super) struct Fit {
    pub scale: f32,
    pub points: [u16; GROUPS],
}

/// A sub-block under trial: lane `t` of every array belongs to trial `t`.
struct Trials<const T: usize> {
    scale: [f32; T],
    /// Packed as everywhere, in the width that vectors want.
    points: [[i32; T]; GROUPS],
    /// Bit `g`: the rounded codes of group `g` were no point.
    off_grid: [u8; T],
}

/// `Σ w q x` and `Σ w q²` over a sub-block.
struct Sums<const T: usize> {
    qx: [f32; T],
    q2: [f32; T],
}

/// The code of a value under an inverse scale.
#[inline(always)]
fn nearest_code<const N: usize>(inverse: f32, x: f32) -> i32 {
    nearest_int(0.5 * (inverse * x - 1.0)).clamp(0, codes(N) as i32 - 1)
}

/// Values `g * N..` of a sub-block.
#[inline(always)]
fn group<const N: usize>(values: &[f32], g: usize) -> &[f32; N] {
    &values.as_chunks().0[g]
}

/// Finds the fit of a sub-block of `V` values in groups of `N`.
///
/// `largest` is the value that trials stretch to about the largest level; `scale` is the result if no trial
/// explains anything. `T` is the number of trials, filled up to whole vectors.
#[inline(always)]
pub(super) fn best_fit<K: Nearest, const V: usize, const N: usize, const T: usize>(
    kernel: K,
    grid: &Grid<N>,
    rule: Rule,
    block: &SubBlock<V>,
    largest: f32,
    scale: f32,
) -> Fit {
    let roots = block.w.map(f32::sqrt);
    let trials = try_scales::<K, V, N, T>(kernel, grid, rule, block, &roots, largest);
    let sums = sums::<V, N, T>(block, &trials.points);
    let mut fit = Fit { scale, points: [0; GROUPS] };
    let mut off_grid = if rule.again == Again::AllIfAnyIsOff { u8::MAX } else { 0 };
    let mut best = 0.0;
    for trial in 0..(2 * rule.each_side + 1) as usize {
        let (qx, q2) = (sums.qx[trial], sums.q2[trial]);
        if q2 > 0.0 && qx * qx > best * q2 {
            fit = Fit { scale: qx / q2, points: trials.points.map(|points| points[trial] as u16) };
            best = fit.scale * qx;
            off_grid = trials.off_grid[trial];
        }
    }
    let again = match rule.again {
        Again::Always => u8::MAX,
        Again::OffGrid => off_grid,
        Again::AllIfAnyIsOff if off_grid == 0 => 0,
        Again::AllIfAnyIsOff => u8::MAX,
    };
    if again != 0 && fit.scale > 0.0 {
        look_again(kernel, grid, again, block, &roots, &mut fit);
    }
    fit
}

#[inline(always)]
fn try_scales<K: Nearest, const V: usize, const N: usize, const T: usize>(
    kernel: K,
    grid: &Grid<N>,
    rule: Rule,
    block: &SubBlock<V>,
    roots: &[f32; V],
    largest: f32,
) -> Trials<T> {
    let top = (2 * codes(N) - 1) as f32;
    let inverse: [f32; T] =
        std::array::from_fn(|t| (top + (t as i32 - rule.each_side) as f32 * rule.step) / largest);
    let mut trials =
        Trials { scale: inverse.map(|inverse| 1.0 / inverse), points: [[0; T]; GROUPS], off_grid: [0; T] };
    for g in 0..V / N {
        let x = group::<N>(&block.x, g);
        let mut rounded = [0_i32; T];
        for (i, &x) in x.iter().enumerate() {
            for t in 0..T {
                rounded[t] |= nearest_code::<N>(inverse[t], x) << (i * code_bits(N));
            }
        }
        for trial in 0..(2 * rule.each_side + 1) as usize {
            if let Some(candidates) = grid.candidates(rounded[trial] as u16) {
                trials.off_grid[trial] |= 1 << g;
                let scale = trials.scale[trial];
                rounded[trial] = kernel.nearest(&ODD, x, group(roots, g), scale, candidates).into();
            }
        }
        trials.points[g] = rounded;
    }
    trials
}

#[inline(always)]
fn sums<const V: usize, const N: usize, const T: usize>(
    block: &SubBlock<V>,
    points: &[[i32; T]; GROUPS],
) -> Sums<T> {
    let mut sums = Sums { qx: [0.0; T], q2: [0.0; T] };
    for g in 0..V / N {
        for i in 0..N {
            let (x, w) = (block.x[g * N + i], block.w[g * N + i]);
            let wx = w * x;
            for t in 0..T {
                let code = points[g][t] >> (i * code_bits(N)) & ((1 << code_bits(N)) - 1);
                let q = (2 * code + 1) as f32;
                sums.qx[t] += wx * q;
                sums.q2[t] += w * q * q;
            }
        }
    }
    sums
}

/// Takes the points of the groups in `again` anew under the fit's scale, and then the scale anew.
#[inline(always)]
fn look_again<K: Nearest, const V: usize, const N: usize>(
    kernel: K,
    grid: &Grid<N>,
    again: u8,
    block: &SubBlock<V>,
    roots: &[f32; V],
    fit: &mut Fit,
) {
    let inverse = 1.0 / fit.scale;
    for g in (0..V / N).filter(|g| again >> g & 1 == 1) {
        let x = group::<N>(&block.x, g);
        let code = |i: usize| nearest_code::<N>(inverse, x[i]) << (i * code_bits(N));
        let combination = (0..N).fold(0, |packed, i| packed | code(i)) as u16;
        fit.points[g] = match grid.candidates(combination) {
            None => combination,
            Some(candidates) => kernel.nearest(&ODD, x, group(roots, g), fit.scale, candidates),
        };
    }
    let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
    for g in 0..V / N {
        for (i, code) in unpack::<N>(fit.points[g]).into_iter().enumerate() {
            let (x, w) = (block.x[g * N + i], block.w[g * N + i]);
            let q = f32::from(2 * code + 1);
            sum_qx += w * x * q;
            sum_q2 += w * q * q;
        }
    }
    if sum_q2 > 0.0 {
        fit.scale = sum_qx / sum_q2;
    }
}
