//! Tiles in plain Rust: the twin that every other level is tested against.

use super::sparse::{LANES, PANEL_COLS, add_lanes};
use super::tile::{Real, TILE_ROWS};

pub(super) fn tile_f32(left: &[f32], right: &[f32], out: &mut <f32 as Real>::Tile) {
    each_term(left, right, out, |sums: &mut [f32; f32::TILE_COLS], a, line| add_fused(sums, a, line));
}

pub(super) fn tile_f64(left: &[f64], right: &[f64], out: &mut <f64 as Real>::Tile) {
    each_term(left, right, out, |sums: &mut [f64; f64::TILE_COLS], a, line| {
        sums.iter_mut().zip(line).for_each(|(sum, b)| *sum += a * b);
    });
}

pub(super) fn add_rows(
    indices: &[u8],
    values: &[f32],
    panel: &[[f32; PANEL_COLS]],
    out: &mut [f32; PANEL_COLS],
) {
    let mut sums = [0.0; PANEL_COLS];
    for (&index, &value) in indices.iter().zip(values) {
        add_fused(&mut sums, value, &panel[usize::from(index)]);
    }
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
}

pub(super) fn add_dots(left: &[f32], indices: &[u8], panel: &[f32], out: &mut [f32]) {
    for (&index, out) in indices.iter().zip(out) {
        let row = &panel[usize::from(index) * left.len()..][..left.len()];
        let mut sums = [0.0; LANES];
        for (left, row) in left.as_chunks().0.iter().zip(row.as_chunks().0) {
            add_fused_pairs(&mut sums, left, row);
        }
        *out += add_lanes(sums);
    }
}

#[inline(always)]
fn each_term<T: Real, const COLS: usize>(
    left: &[T],
    right: &[T],
    out: &mut [T],
    add: impl Fn(&mut [T; COLS], T, &[T; COLS]),
) {
    let (left, _) = left.as_chunks::<TILE_ROWS>();
    let (right, _) = right.as_chunks::<COLS>();
    assert_eq!(left.len(), right.len());
    for (row, out) in out.as_chunks_mut::<COLS>().0.iter_mut().enumerate() {
        *out = [T::default(); COLS];
        for (left, line) in left.iter().zip(right) {
            add(out, left[row], line);
        }
    }
}

/// `sums[i] += a * b[i]`, rounded once.
///
/// The product of two f32 is exact in f64. Its sum with a third is rounded there and again to f32, which differs from
/// rounding once only if the first rounding ends half-way between two f32; the few sums for which that can be are
/// computed again.
#[inline(always)]
fn add_fused<const COLS: usize>(sums: &mut [f32; COLS], a: f32, b: &[f32; COLS]) {
    add_fused_pairs(sums, &[a; COLS], b);
}

/// `sums[i] += a[i] * b[i]`, as [`add_fused`].
#[inline(always)]
fn add_fused_pairs<const COLS: usize>(sums: &mut [f32; COLS], a: &[f32; COLS], b: &[f32; COLS]) {
    let mut rounded = [0f32; COLS];
    let mut doubtful = false;
    for i in 0..COLS {
        let sum = f64::from(a[i]) * f64::from(b[i]) + f64::from(sums[i]);
        rounded[i] = sum as f32;
        doubtful |= is_doubtful(sum);
    }
    if doubtful {
        for i in 0..COLS {
            rounded[i] = libm::fmaf(a[i], b[i], sums[i]);
        }
    }
    *sums = rounded;
}

/// Whether `sum` may be half-way between two f32: its last 29 bits, which a normal f32 lacks, are a one and zeros, or
/// it is below the normal ones, which lack more.
#[inline(always)]
fn is_doubtful(sum: f64) -> bool {
    const LACKING: u64 = (1 << 29) - 1;
    const LEAST_NORMAL: u64 = (f32::MIN_POSITIVE as f64).to_bits();
    let magnitude = sum.to_bits() & !(1 << 63);
    (magnitude & LACKING == 1 << 28) | (magnitude.wrapping_sub(1) < LEAST_NORMAL - 1)
}
