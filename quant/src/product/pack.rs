//! Operands in the order in which a tile reads them.

use rayon::prelude::*;

use super::matrix::Matrix;
use super::tile::{Real, TILE_ROWS};

/// Values that [`pack`] writes: whole strips of `width` lines, `depth` values each.
pub(super) fn packed_len(lines: usize, depth: usize, width: usize) -> usize {
    lines.next_multiple_of(width) * depth
}

/// Cuts the rows of `from` into strips of `width`, `out`: `[strips][from.cols()][width]`. Rows that the last strip
/// lacks are zero.
pub(super) fn pack<T: Real>(from: Matrix<'_, T>, width: usize, out: &mut [T]) {
    let strips = out.par_chunks_exact_mut(width * from.cols()).enumerate();
    strips.for_each(|(index, out)| {
        let lines = index * width..((index + 1) * width).min(from.rows());
        let strip = from.rows_of(lines);
        match width {
            _ if strip.rows() < width => pack_some(strip, width, out),
            TILE_ROWS => pack_strip::<T, TILE_ROWS>(strip, out),
            16 => pack_strip::<T, 16>(strip, out),
            32 => pack_strip::<T, 32>(strip, out),
            64 => pack_strip::<T, 64>(strip, out),
            _ => pack_some(strip, width, out),
        }
    });
}

/// Lines, and values of each, that are transposed at a time.
const STEP: usize = 4;

/// A whole strip of `W` lines.
fn pack_strip<T: Real, const W: usize>(strip: Matrix<'_, T>, out: &mut [T]) {
    let (out, _) = out.as_chunks_mut::<W>();
    if let Some(first) = strip.row(0) {
        let lines: [&[T]; W] = std::array::from_fn(|line| strip.row(line).unwrap_or(first));
        let (steps, rest) = out.as_chunks_mut::<STEP>();
        for (step, out) in steps.iter_mut().enumerate() {
            for line in (0..W).step_by(STEP) {
                let from: [[T; STEP]; STEP] = std::array::from_fn(|i| {
                    *lines[line + i][step * STEP..].first_chunk().expect("a whole step")
                });
                for (k, out) in out.iter_mut().enumerate() {
                    out[line..line + STEP].copy_from_slice(&from.map(|values| values[k]));
                }
            }
        }
        let done = steps.len() * STEP;
        for (k, out) in rest.iter_mut().enumerate() {
            *out = lines.map(|line| line[done + k]);
        }
        return;
    }
    let columns = strip.transposed();
    for (depth, out) in out.iter_mut().enumerate() {
        match columns.row(depth) {
            Some(values) => out.copy_from_slice(values),
            None => unreachable!("a matrix lies in order of its rows or of its columns"),
        }
    }
}

/// A strip of fewer lines.
fn pack_some<T: Real>(strip: Matrix<'_, T>, width: usize, out: &mut [T]) {
    for (depth, out) in out.chunks_exact_mut(width).enumerate() {
        for (line, out) in out.iter_mut().enumerate() {
            *out = if line < strip.rows() { strip.at(line, depth) } else { T::default() };
        }
    }
}
