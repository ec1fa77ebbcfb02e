//! The choice of a sub-block's scale and offset.

use super::grid::{Grid, ScaleForm};

/// `scale * level - offset`, before it is made to fit the block's form.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Affine {
    pub scale: f32,
    pub offset: f32,
}

/// The least weighted squared error over all scales (and offsets), by trying ranges and refitting.
pub(super) fn fit(grid: &Grid, x: &[f32], importance: &[f32]) -> Affine {
    let high = x.iter().copied().fold(f32::MIN, f32::max);
    let low = x.iter().copied().fold(f32::MAX, f32::min);
    if high == 0.0 && low == 0.0 {
        return Affine::default();
    }
    if grid.max_offset.is_some() {
        // A zero point is a code, so zero is always within reach.
        let high = if grid.scale == ScaleForm::HalfAndZeroPoint && high < 0.0 { 0.0 } else { high };
        // Not `min`, which returns either of two zeros: their sign would reach the bytes.
        fit_affine(grid, x, importance, if low < 0.0 { low } else { 0.0 }, high)
    } else {
        fit_symmetric(grid, x, importance, if high >= -low { high } else { low })
    }
}

fn loss(grid: &Grid, x: &[f32], importance: &[f32], fit: Affine) -> f32 {
    let inverse = 1.0 / fit.scale;
    let error = |x: f32| x - (fit.scale * grid.level(grid.code((x + fit.offset) * inverse)) - fit.offset);
    x.iter().zip(importance).map(|(&x, h)| h * error(x) * error(x)).sum()
}

fn fit_affine(grid: &Grid, x: &[f32], importance: &[f32], low: f32, high: f32) -> Affine {
    if high <= low {
        return Affine { scale: 0.0, offset: -low };
    }
    let span = grid.span();
    let step = 0.1 * (span / 15.0).max(0.3);
    let mut best = (f32::MAX, Affine::default());
    for attempt in (-10..=24).step_by(2) {
        let mut fit = Affine { scale: (high - low) / (span * 0.96 + step * attempt as f32), offset: -low };
        for _ in 0..2 {
            refit_affine(grid, x, importance, &mut fit);
        }
        let loss = loss(grid, x, importance, fit);
        if loss < best.0 {
            best = (loss, fit);
        }
    }
    best.1
}

/// Weighted least squares for the codes that `fit` gives; an offset may not be negative.
fn refit_affine(grid: &Grid, x: &[f32], importance: &[f32], fit: &mut Affine) {
    let (mut h_, mut hx, mut hl, mut hll, mut hxl) = (0f32, 0f32, 0f32, 0f32, 0f32);
    let inverse = 1.0 / fit.scale;
    for (&x, &h) in x.iter().zip(importance) {
        let level = grid.level(grid.code((x + fit.offset) * inverse));
        h_ += h;
        hx += h * x;
        hl += h * level;
        hll += h * level * level;
        hxl += h * x * level;
    }
    let determinant = h_ * hll - hl * hl;
    if determinant <= 0.0 {
        return;
    }
    let scale = (h_ * hxl - hx * hl) / determinant;
    let offset = (hl * hxl - hll * hx) / determinant;
    if scale > 0.0 && offset >= 0.0 {
        *fit = Affine { scale, offset };
    } else if scale > 0.0 && hxl > 0.0 {
        *fit = Affine { scale: hxl / hll, offset: 0.0 };
    }
}

fn fit_symmetric(grid: &Grid, x: &[f32], importance: &[f32], peak: f32) -> Affine {
    let mut best = (f32::MAX, Affine::default());
    for sign in [1.0, -1.0] {
        for attempt in (-9..=12).step_by(2) {
            let range = grid.peak_level() * (1.0 + 0.025 * attempt as f32);
            let mut fit = Affine { scale: -sign * peak / range, offset: 0.0 };
            for _ in 0..2 {
                let (mut numerator, mut denominator) = (0f32, 0f32);
                let inverse = 1.0 / fit.scale;
                for (&x, &h) in x.iter().zip(importance) {
                    let level = grid.level(grid.code(x * inverse));
                    numerator += h * x * level;
                    denominator += h * level * level;
                }
                if denominator > 0.0 && numerator != 0.0 {
                    fit.scale = numerator / denominator;
                }
            }
            let loss = loss(grid, x, importance, fit);
            if loss < best.0 {
                best = (loss, fit);
            }
        }
    }
    best.1
}

/// One sub-block of at most `N` values, rounded with feedback among its own values.
pub(super) struct Rounded<const N: usize> {
    pub loss: f32,
    pub codes: [i32; N],
    /// Each value's error over its pivot: what the later columns are charged with.
    pub errors: [f32; N],
}

/// Rounds `x` from left to right, each error made up for in the values to its right. `factor` is the corner of
/// the column factor that belongs to `x`, rows of `stride`. Gives up once the loss exceeds `limit`.
#[inline]
pub(super) fn round<const N: usize>(
    grid: &Grid,
    x: &[f32],
    factor: &[f32],
    stride: usize,
    fit: Affine,
    limit: f32,
) -> Rounded<N> {
    let len = x.len();
    let mut rest = [0f32; N];
    rest[..len].copy_from_slice(x);
    let mut out = Rounded { loss: 0.0, codes: [0; N], errors: [0.0; N] };
    let inverse = if fit.scale != 0.0 { 1.0 / fit.scale } else { 0.0 };
    for j in 0..len {
        let row = &factor[j * stride..j * stride + len];
        let code = grid.code((rest[j] + fit.offset) * inverse);
        let value = fit.scale * grid.level(code) - fit.offset;
        let error = (rest[j] - value) / row[j];
        out.codes[j] = code;
        out.errors[j] = error;
        out.loss += error * error;
        if out.loss >= limit {
            return out;
        }
        for (rest, u) in rest[j + 1..len].iter_mut().zip(&row[j + 1..]) {
            *rest -= error * u;
        }
    }
    out
}
