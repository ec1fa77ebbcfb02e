//! The search that the two- and three-bit types share: the scale of a sub-block, and the grid's point for each of its
//! groups.
//!
//! Some scales around the one that would stretch the largest value to the largest level are tried. Each rounds every
//! value to its nearest code, replaces combinations that the grid lacks by the best of their candidates, and is judged by
//! what its least-squares scale explains. The winner's groups are then looked at once more under that scale. From the
//! `quantize_row_iq2_…_impl` and `quantize_row_iq3_…_impl` of ggml-quants.c.
//!
//! Trials do not depend on each other and share everything but their scale, so the lanes of a vector are trials.

use super::grid::{Grid, code_bits, codes};
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

/// Lanes for the trials of a rule: whole vectors of sixteen.
pub(super) const fn lanes(rule: Rule) -> usize {
    (2 * rule.each_side as usize + 1).next_multiple_of(16)
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
    let mut roots = [0.0; V];
    for i in 0..V {
        roots[i] = block.w[i].sqrt();
    }
    let trials = try_scales::<K, V, N, T>(kernel, grid, rule, block, &roots, largest);
    let sums = sums::<V, N, T>(block, &trials.points);
    let mut fit = Fit { scale, points: [0; GROUPS] };
    let mut off_grid = if rule.again == Again::AllIfAnyIsOff { u8::MAX } else { 0 };
    let (mut best, mut winner) = (0.0, None);
    for trial in 0..(2 * rule.each_side + 1) as usize {
        let (qx, q2) = (sums.qx[trial], sums.q2[trial]);
        if q2 > 0.0 && qx * qx > best * q2 {
            (fit.scale, winner) = (qx / q2, Some(trial));
            best = fit.scale * qx;
        }
    }
    if let Some(winner) = winner {
        off_grid = trials.off_grid[winner];
        for g in 0..V / N {
            fit.points[g] = trials.points[g][winner] as u16;
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
    // Loops, not `map`: they become vector code.
    let mut inverse = [0.0; T];
    let mut trials = Trials { scale: [0.0; T], points: [[0; T]; GROUPS], off_grid: [0; T] };
    for t in 0..T {
        inverse[t] = (top + (t as i32 - rule.each_side) as f32 * rule.step) / largest;
        trials.scale[t] = 1.0 / inverse[t];
    }
    for g in 0..V / N {
        trials.points[g] = rounded::<N, T>(group::<N>(&block.x, g), &inverse);
    }
    let count = (2 * rule.each_side + 1) as usize;
    choose_points::<K, V, N, T>(kernel, grid, count, block, roots, &mut trials);
    trials
}

/// Replaces combinations that are no points, trial by trial.
#[inline(always)]
fn choose_points<K: Nearest, const V: usize, const N: usize, const T: usize>(
    kernel: K,
    grid: &Grid<N>,
    count: usize,
    block: &SubBlock<V>,
    roots: &[f32; V],
    trials: &mut Trials<T>,
) {
    for g in 0..V / N {
        let (x, w) = (group::<N>(&block.x, g), group(roots, g));
        for trial in 0..count {
            let point = &mut trials.points[g][trial];
            if let Some(candidates) = grid.candidates(*point as u16) {
                trials.off_grid[trial] |= 1 << g;
                *point = kernel.nearest(&ODD, x, w, trials.scale[trial], candidates).into();
            }
        }
    }
}

/// The combination that each trial rounds a group to.
#[inline(always)]
fn rounded<const N: usize, const T: usize>(x: &[f32; N], inverse: &[f32; T]) -> [i32; T] {
    let mut packed = [0; T];
    for (i, &x) in x.iter().enumerate() {
        for t in 0..T {
            packed[t] |= nearest_code::<N>(inverse[t], x) << (i * code_bits(N));
        }
    }
    packed
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
        let [combination] = rounded::<N, 1>(x, &[inverse]);
        let combination = combination as u16;
        fit.points[g] = match grid.candidates(combination) {
            None => combination,
            Some(candidates) => kernel.nearest(&ODD, x, group(roots, g), fit.scale, candidates),
        };
    }
    let (mut sum_qx, mut sum_q2) = (0.0, 0.0);
    for g in 0..V / N {
        for i in 0..N {
            let (x, w) = (block.x[g * N + i], block.w[g * N + i]);
            let code = i32::from(fit.points[g]) >> (i * code_bits(N)) & ((1 << code_bits(N)) - 1);
            let q = (2 * code + 1) as f32;
            sum_qx += w * x * q;
            sum_q2 += w * q * q;
        }
    }
    if sum_q2 > 0.0 {
        fit.scale = sum_qx / sum_q2;
    }
}
