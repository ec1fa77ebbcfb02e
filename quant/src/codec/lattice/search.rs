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
    choose_points::<K, V, N, T>(kernel, grid, (2 * rule.each_side + 1) as usize, block, roots, &mut trials);
    trials
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

/// Trials in a row in which a group rounds to the same combination, which is no point.
#[derive(Clone, Copy, Default)]
struct Run {
    group: u8,
    first: u8,
    last: u8,
}

/// Replaces combinations that are no points.
///
/// The candidates' order by what they cost changes little from trial to trial: the sums of two of them differ by
/// `s·(a·s − b)` at scale `s`, as the terms without `s` are the same. So one that is better at two scales is better at
/// every scale between, and a run whose first and last trials clearly choose the same has no other choice between them.
#[inline(always)]
fn choose_points<K: Nearest, const V: usize, const N: usize, const T: usize>(
    kernel: K,
    grid: &Grid<N>,
    count: usize,
    block: &SubBlock<V>,
    roots: &[f32; V],
    trials: &mut Trials<T>,
) {
    let mut margins = [0.0; GROUPS];
    for g in 0..V / N {
        margins[g] = clear_margin(group::<N>(&block.x, g), group(roots, g), trials.scale[0]);
    }
    let mut found = [Run::default(); MAX_RUNS];
    let runs = find_runs::<V, N, T>(grid, count, trials, &mut found);
    let combinations = trials.points;
    let choose = |run: &Run, trial: u8| {
        let (g, trial) = (usize::from(run.group) % GROUPS, usize::from(trial) % T);
        let candidates = grid.candidates(combinations[g][trial] as u16)?;
        let (x, w) = (group::<N>(&block.x, g), group(roots, g));
        Some(kernel.nearest(&ODD, x, w, trials.scale[trial], candidates, margins[g]))
    };
    // All ends first: they do not wait for each other.
    let mut ends = [(0_u16, 0_u16, false); MAX_RUNS];
    for (run, end) in runs.iter().zip(&mut ends) {
        let Some(first) = choose(run, run.first) else { continue };
        let Some(last) = choose(run, run.last) else { continue };
        *end = (first.point, last.point, first.point == last.point && first.is_clear && last.is_clear);
    }
    for (run, &(first, last, is_settled)) in runs.iter().zip(&ends) {
        let points = &mut trials.points[usize::from(run.group) % GROUPS];
        for trial in run.first + 1..run.last {
            let between =
                if is_settled { Some(first) } else { choose(run, trial).map(|choice| choice.point) };
            points[usize::from(trial) % T] = between.unwrap_or(first).into();
        }
        points[usize::from(run.first) % T] = first.into();
        points[usize::from(run.last) % T] = last.into();
    }
}

/// No more runs than groups times trials.
const MAX_RUNS: usize = 256;

#[inline(always)]
fn find_runs<'a, const V: usize, const N: usize, const T: usize>(
    grid: &Grid<N>,
    count: usize,
    trials: &mut Trials<T>,
    runs: &'a mut [Run; MAX_RUNS],
) -> &'a [Run] {
    let mut found = 0;
    for g in 0..V / N {
        let combinations = &trials.points[g];
        let mut first = 0;
        for next in 1..=count {
            if next < count && combinations[next] == combinations[first] {
                continue;
            }
            if grid.candidates(combinations[first] as u16).is_some() {
                runs[found] = Run { group: g as u8, first: first as u8, last: next as u8 - 1 };
                found += 1;
                trials.off_grid[first..next].iter_mut().for_each(|off_grid| *off_grid |= 1 << g);
            }
            first = next;
        }
    }
    &runs[..found]
}

/// The margin by which a candidate has to be better at two trials to be better between them in spite of rounding.
///
/// In exact numbers it is better there by at least the smaller margin times the quotient of the two scales, which
/// is above 0.6 for every rule. A computed sum is off by less than `14·2^-24·l²·Σw`, where `l` is the most that a value
/// and its code can be apart (rounding of `s·q`, of the difference, of two products and of seven additions), and a margin
/// of six times that would do. Near the ends of f32's range nothing is clear.
#[inline(always)]
fn clear_margin<const N: usize>(x: &[f32; N], w: &[f32; N], largest_scale: f32) -> f32 {
    let farthest = x.iter().fold(0.0_f32, |max, x| max.max(x.abs())) + largest_scale * ODD[codes(N) - 1];
    let weight = w.iter().fold(0.0, |sum, w| sum + w);
    let in_range = farthest > 1e-15 && farthest < 1e15 && weight > 1e-15 && weight < 1e15;
    if in_range { 1e-5 * farthest * farthest * weight } else { f32::INFINITY }
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
            Some(candidates) => kernel.nearest(&ODD, x, group(roots, g), fit.scale, candidates, 0.0).point,
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
