//! The choice of a sub-block's scale and offset.

use super::grid::{Grid, Levels, ScaleForm};
use crate::codec::{IQ4_BOUNDS, IQ4_VALUES, ROUNDING_MAGIC};
use crate::simd::{Level, Loop};

/// `scale * level - offset`, before it is made to fit the block's form.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Affine {
    pub scale: f32,
    pub offset: f32,
}

/// Trials whose sums are computed side by side, one in each lane: every trial has the order of operations that it would
/// have alone.
const LANES: usize = 8;
/// As many numbers, one of each trial.
type Lanes = [f32; LANES];

/// The least weighted squared error over all scales (and offsets), by trying ranges and refitting.
pub(super) fn fit(level: Level, grid: &Grid, x: &[f32], importance: &[f32]) -> Affine {
    let high = x.iter().copied().fold(f32::MIN, f32::max);
    let low = x.iter().copied().fold(f32::MAX, f32::min);
    if high == 0.0 && low == 0.0 {
        return Affine::default();
    }
    if grid.max_offset.is_some() {
        // A zero point is a code, so zero is always within reach.
        let high = if grid.scale == ScaleForm::HalfAndZeroPoint && high < 0.0 { 0.0 } else { high };
        // Not `min`, which returns either of two zeros: their sign would reach the bytes.
        let low = if low < 0.0 { low } else { 0.0 };
        if high <= low {
            return Affine { scale: 0.0, offset: -low };
        }
        let span = grid.span();
        let step = 0.1 * (span / 15.0).max(0.3);
        let attempts = (-10..=24).step_by(2);
        best_fit(
            level,
            grid,
            x,
            importance,
            attempts.map(|attempt| Affine {
                scale: (high - low) / (span * 0.96 + step * attempt as f32),
                offset: -low,
            }),
        )
    } else {
        let peak = if high >= -low { high } else { low };
        let attempts = [1.0, -1.0].into_iter().flat_map(|sign| (-9..=12).step_by(2).map(move |a| (sign, a)));
        best_fit(
            level,
            grid,
            x,
            importance,
            attempts.map(|(sign, attempt)| Affine {
                scale: -sign * peak / (grid.peak_level() * (1.0 + 0.025 * attempt as f32)),
                offset: 0.0,
            }),
        )
    }
}

/// The first of the least losses that refitting the attempts twice ends with.
fn best_fit(
    level: Level,
    grid: &Grid,
    x: &[f32],
    importance: &[f32],
    mut attempts: impl Iterator<Item = Affine>,
) -> Affine {
    let mut best = (f32::MAX, Affine::default());
    while let Some(first) = attempts.next() {
        // Lanes without an attempt repeat the first, which they cannot be better than.
        let mut fits = [first; LANES];
        fits[1..].iter_mut().zip(&mut attempts).for_each(|(fit, attempt)| *fit = attempt);
        let mut trials = Trials { scale: fits.map(|fit| fit.scale), offset: fits.map(|fit| fit.offset) };
        let losses = match grid.levels {
            Levels::Table => level.run(Refit::<true> { grid, x, importance, trials: &mut trials }),
            Levels::Integers { .. } => level.run(Refit::<false> { grid, x, importance, trials: &mut trials }),
        };
        for (lane, &loss) in losses.iter().enumerate() {
            if loss < best.0 {
                best = (loss, Affine { scale: trials.scale[lane], offset: trials.offset[lane] });
            }
        }
    }
    best.1
}

/// Scales and offsets of some trials.
struct Trials {
    scale: Lanes,
    offset: Lanes,
}

/// Refits trials twice, and returns their losses.
struct Refit<'a, const TABLE: bool> {
    grid: &'a Grid,
    x: &'a [f32],
    importance: &'a [f32],
    trials: &'a mut Trials,
}

impl<const TABLE: bool> Loop for Refit<'_, TABLE> {
    type Output = Lanes;

    #[inline(always)]
    fn run(self) -> Lanes {
        let Refit { grid, x, importance, trials } = self;
        let nearest = Nearest::<TABLE>::new(grid);
        for _ in 0..2 {
            if grid.max_offset.is_some() {
                refit_affine(nearest, x, importance, trials);
            } else {
                refit_symmetric(nearest, x, importance, trials);
            }
        }
        let inverse = trials.scale.map(|scale| 1.0 / scale);
        let mut losses = [0.0; LANES];
        for (&x, &h) in x.iter().zip(importance) {
            for l in 0..LANES {
                let level = nearest.level((x + trials.offset[l]) * inverse[l]);
                let error = x - (trials.scale[l] * level - trials.offset[l]);
                losses[l] += h * error * error;
            }
        }
        losses
    }
}

/// The grid's level that is nearest to a number.
#[derive(Clone, Copy)]
struct Nearest<const TABLE: bool> {
    low: f32,
    high: f32,
}

impl<const TABLE: bool> Nearest<TABLE> {
    fn new(grid: &Grid) -> Nearest<TABLE> {
        match grid.levels {
            Levels::Integers { low, high } => Nearest { low: low as f32, high: high as f32 },
            Levels::Table => Nearest { low: 0.0, high: 0.0 },
        }
    }

    /// [`Grid::level`] of [`Grid::code`].
    #[inline(always)]
    fn level(self, x: f32) -> f32 {
        if TABLE {
            // Counted instead of searched, which needs no place in a table that depends on a lane.
            let mut level = f32::from(IQ4_VALUES[0]);
            for (bound, values) in IQ4_BOUNDS.iter().zip(IQ4_VALUES.windows(2)) {
                level += if x < *bound { 0.0 } else { f32::from(values[1]) - f32::from(values[0]) };
            }
            level
        } else {
            // As in `Grid::code`, staying with floats.
            (x.max(self.low).min(self.high) + ROUNDING_MAGIC) - ROUNDING_MAGIC
        }
    }
}

/// Weighted least squares for the codes that each trial gives; an offset may not be negative.
#[inline(always)]
fn refit_affine<const TABLE: bool>(
    nearest: Nearest<TABLE>,
    x: &[f32],
    importance: &[f32],
    trials: &mut Trials,
) {
    let (mut h_, mut hx) = (0f32, 0f32);
    let (mut hl, mut hll, mut hxl) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
    let inverse = trials.scale.map(|scale| 1.0 / scale);
    for (&x, &h) in x.iter().zip(importance) {
        h_ += h;
        hx += h * x;
        for l in 0..LANES {
            let level = nearest.level((x + trials.offset[l]) * inverse[l]);
            hl[l] += h * level;
            hll[l] += h * level * level;
            hxl[l] += h * x * level;
        }
    }
    for l in 0..LANES {
        let determinant = h_ * hll[l] - hl[l] * hl[l];
        if determinant <= 0.0 {
            continue;
        }
        let scale = (h_ * hxl[l] - hx * hl[l]) / determinant;
        let offset = (hl[l] * hxl[l] - hll[l] * hx) / determinant;
        if scale > 0.0 && offset >= 0.0 {
            (trials.scale[l], trials.offset[l]) = (scale, offset);
        } else if scale > 0.0 && hxl[l] > 0.0 {
            (trials.scale[l], trials.offset[l]) = (hxl[l] / hll[l], 0.0);
        }
    }
}

/// The same without offsets.
#[inline(always)]
fn refit_symmetric<const TABLE: bool>(
    nearest: Nearest<TABLE>,
    x: &[f32],
    importance: &[f32],
    trials: &mut Trials,
) {
    let (mut numerator, mut denominator) = ([0f32; LANES], [0f32; LANES]);
    let inverse = trials.scale.map(|scale| 1.0 / scale);
    for (&x, &h) in x.iter().zip(importance) {
        for l in 0..LANES {
            let level = nearest.level(x * inverse[l]);
            numerator[l] += h * x * level;
            denominator[l] += h * level * level;
        }
    }
    for l in 0..LANES {
        if denominator[l] > 0.0 && numerator[l] != 0.0 {
            trials.scale[l] = numerator[l] / denominator[l];
        }
    }
}

/// A sub-block's values and the corner of the column factor that belongs to them, rows of `stride`.
#[derive(Clone, Copy)]
pub(super) struct Targets<'a> {
    pub x: &'a [f32],
    pub factor: &'a [f32],
    pub stride: usize,
}

/// The first of the candidates whose rounding with feedback costs least, if any costs a finite amount.
pub(super) fn cheapest<const N: usize>(
    level: Level,
    grid: &Grid,
    targets: Targets<'_>,
    candidates: &[Affine],
) -> Option<usize> {
    let mut best = (f32::INFINITY, None);
    for (chunk, fits) in candidates.chunks(ROUNDED).enumerate() {
        let of = |part: fn(&Affine) -> f32| std::array::from_fn(|l| part(fits.get(l).unwrap_or(&fits[0])));
        let (scale, offset, limit) = (of(|fit| fit.scale), of(|fit| fit.offset), best.0);
        let losses = match grid.levels {
            Levels::Table => level.run(Costs::<true, N> { grid, targets, scale, offset, limit }),
            Levels::Integers { .. } => level.run(Costs::<false, N> { grid, targets, scale, offset, limit }),
        };
        for (l, &loss) in losses.iter().enumerate() {
            if loss < best.0 {
                best = (loss, Some(chunk * ROUNDED + l));
            }
        }
    }
    best.1
}

/// Candidates that are rounded side by side.
const ROUNDED: usize = 16;

/// What rounding with feedback costs under each of some scales and offsets; may stop where all cost `limit` already.
struct Costs<'a, const TABLE: bool, const N: usize> {
    grid: &'a Grid,
    targets: Targets<'a>,
    scale: [f32; ROUNDED],
    offset: [f32; ROUNDED],
    limit: f32,
}

impl<const TABLE: bool, const N: usize> Loop for Costs<'_, TABLE, N> {
    type Output = [f32; ROUNDED];

    #[inline(always)]
    fn run(self) -> [f32; ROUNDED] {
        let Costs { grid, targets: Targets { x, factor, stride }, scale, offset, limit } = self;
        let nearest = Nearest::<TABLE>::new(grid);
        let inverse = scale.map(|scale| if scale != 0.0 { 1.0 / scale } else { 0.0 });
        let mut rest = [[0f32; ROUNDED]; N];
        rest.iter_mut().zip(x).for_each(|(rest, &x)| *rest = [x; ROUNDED]);
        let rest = &mut rest[..x.len()];
        let mut losses = [0f32; ROUNDED];
        for j in 0..x.len() {
            let row = &factor[j * stride..][..x.len()];
            let (target, later) = rest[j..].split_first_mut().expect("j is below the length");
            let mut errors = [0f32; ROUNDED];
            for l in 0..ROUNDED {
                let value = scale[l] * nearest.level((target[l] + offset[l]) * inverse[l]) - offset[l];
                errors[l] = (target[l] - value) / row[j];
                losses[l] += errors[l] * errors[l];
            }
            if losses.iter().all(|&loss| loss >= limit) {
                break;
            }
            for (rest, &u) in later.iter_mut().zip(&row[j + 1..]) {
                for l in 0..ROUNDED {
                    rest[l] -= errors[l] * u;
                }
            }
        }
        losses
    }
}

/// One sub-block of at most `N` values, rounded with feedback among its own values.
pub(super) struct Rounded<const N: usize> {
    pub codes: [i32; N],
    /// Each value's error over its pivot: what the later columns are charged with.
    pub errors: [f32; N],
}

/// Rounds the values from left to right, each error made up for in the values to its right.
#[inline(always)]
pub(super) fn round<const N: usize>(grid: &Grid, targets: Targets<'_>, fit: Affine) -> Rounded<N> {
    let Targets { x, factor, stride } = targets;
    let len = x.len();
    let mut rest = [0f32; N];
    rest[..len].copy_from_slice(x);
    let mut out = Rounded { codes: [0; N], errors: [0.0; N] };
    let inverse = if fit.scale != 0.0 { 1.0 / fit.scale } else { 0.0 };
    for j in 0..len {
        let row = &factor[j * stride..j * stride + len];
        let code = grid.code((rest[j] + fit.offset) * inverse);
        let value = fit.scale * grid.level(code) - fit.offset;
        let error = (rest[j] - value) / row[j];
        out.codes[j] = code;
        out.errors[j] = error;
        for (rest, u) in rest[j + 1..len].iter_mut().zip(&row[j + 1..]) {
            *rest -= error * u;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use plmconv_formats::DType;

    use super::super::grid::MAX_SUB;
    use super::*;

    const TYPES: [DType; 8] =
        [DType::Q4_0, DType::Q5_1, DType::Q8_0, DType::Iq4Xs, DType::Q2K, DType::Q3K, DType::Q4K, DType::Q6K];

    /// Numbers in -1..1 that depend on their place alone.
    fn wave(seed: usize, at: usize) -> f32 {
        (((at * 37 + seed * 101 + at * at * 7) % 211) as f32 - 105.0) / 105.0
    }

    #[test]
    fn the_cheapest_candidate_is_the_one_whose_rounding_costs_least() {
        for (seed, dtype) in TYPES.into_iter().enumerate() {
            let grid = Grid::of(dtype).expect("a grid");
            let x: Vec<f32> = (0..grid.sub).map(|i| wave(seed, i)).collect();
            let stride = grid.sub + 3;
            let factor: Vec<f32> =
                (0..grid.sub * stride)
                    .map(|i| {
                        if i % stride == i / stride { 1.0 + 0.1 * wave(2, i).abs() } else { 0.2 * wave(3, i) }
                    })
                    .collect();
            let targets = Targets { x: &x, factor: &factor, stride };
            let candidates: Vec<Affine> = (0..37)
                .map(|i| Affine {
                    scale: 2.0 / grid.span() * (0.5 + 0.05 * ((i * 11) % 37) as f32),
                    offset: if grid.max_offset.is_some() { 0.1 * (i % 12) as f32 } else { 0.0 },
                })
                .collect();
            let cost = |fit: &Affine| {
                let rounded = round::<MAX_SUB>(&grid, targets, *fit);
                rounded.errors[..grid.sub].iter().fold(0.0, |sum, error| sum + error * error)
            };
            let costs: Vec<f32> = candidates.iter().map(cost).collect();
            let least = costs.iter().copied().fold(f32::INFINITY, f32::min);
            for level in Level::available() {
                let found = cheapest::<MAX_SUB>(level, &grid, targets, &candidates).expect("finite costs");
                assert_eq!(Some(found), costs.iter().position(|&cost| cost == least), "{dtype} {level}");
                let infinite = [Affine { scale: f32::NAN, offset: 0.0 }];
                assert_eq!(cheapest::<MAX_SUB>(level, &grid, targets, &infinite), None, "{dtype} {level}");
            }
        }
    }

    #[test]
    fn fits_are_the_same_at_every_level_and_better_than_the_range() {
        for (seed, dtype) in TYPES.into_iter().enumerate() {
            let grid = Grid::of(dtype).expect("a grid");
            let x: Vec<f32> = (0..grid.sub).map(|i| wave(seed + 9, i)).collect();
            let importance: Vec<f32> = (0..grid.sub).map(|i| 0.1 + wave(4, i).abs()).collect();
            let expected = fit(Level::Generic, &grid, &x, &importance);
            for level in Level::available() {
                assert_eq!(fit(level, &grid, &x, &importance), expected, "{dtype} {level}");
            }
            let loss = |fit: Affine| -> f32 {
                let value =
                    |x: f32| fit.scale * grid.level(grid.code((x + fit.offset) / fit.scale)) - fit.offset;
                x.iter().zip(&importance).map(|(&x, h)| h * (x - value(x)).powi(2)).sum()
            };
            let low = if grid.max_offset.is_some() { x.iter().copied().fold(0.0, f32::min) } else { 0.0 };
            let high = x.iter().copied().fold(0.0, f32::max);
            let range = if grid.max_offset.is_some() {
                Affine { scale: (high - low) / grid.span(), offset: -low }
            } else {
                Affine {
                    scale: high.max(-x.iter().copied().fold(0.0, f32::min)) / grid.peak_level(),
                    offset: 0.0,
                }
            };
            assert!(loss(expected) <= loss(range), "{dtype}: {} {}", loss(expected), loss(range));
        }
    }

    #[test]
    fn levels_without_a_search_are_those_of_the_codes() {
        for dtype in TYPES {
            let grid = Grid::of(dtype).expect("a grid");
            for i in -4000..4000 {
                let x = i as f32 * 0.0625;
                let expected = grid.level(grid.code(x));
                let found = match grid.levels {
                    Levels::Table => Nearest::<true>::new(&grid).level(x),
                    Levels::Integers { .. } => Nearest::<false>::new(&grid).level(x),
                };
                assert_eq!(found, expected, "{dtype} {x}");
            }
        }
    }
}
