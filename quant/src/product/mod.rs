//! Matrix products that give the same bits on every CPU.
//!
//! What a sum's order is belongs to the definition here, and every instruction set keeps it: the terms of an element
//! of `a b` are cut into runs of `DEPTH`. A run starts at zero and takes its terms in order, in f32 each by a fused
//! multiply-add (rounded once, as IEEE 754 defines it; AVX2 machines, AVX-512 and NEON have the instruction), in f64 by
//! a multiplication and an addition. The runs are added to the output in order. Lanes hold different elements, never
//! parts of one, so neither their number nor that of threads is seen in the result.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
mod matrix;
#[cfg(target_arch = "aarch64")]
mod neon;
mod pack;
mod sparse;
#[cfg(test)]
mod tests;
mod tile;

use rayon::prelude::*;

pub use matrix::Matrix;
pub use sparse::{
    PANEL_COLS, RUN, SparseMatrix, add_rows, add_sparse_product, add_sparse_product_with, sampled_product,
    sampled_product_with,
};
pub use tile::{TILE_COLS, TILE_ROWS, Tile, tile};

use crate::simd::Level;
use tile::Real;

/// Terms that are added up before they go to the output.
const DEPTH: usize = 256;
/// Columns of `b` that are packed at a time.
const COLUMNS: usize = 4096;
/// Strips of rows that a thread takes at most: they stay in its second-level cache while the panels pass by.
const MOST_STRIPS: usize = 32;

/// Adds `a b` to `out`, whose rows start `stride` apart: `out[i * stride + j]`, `i < a.rows()`, `j < b.cols()`.
///
/// Runs on the threads of the current pool; their number does not change the result.
///
/// # Panics
/// If `a.cols()` is not `b.rows()`, or `out` is too short.
pub fn add_product<T: Real>(a: Matrix<'_, T>, b: Matrix<'_, T>, out: &mut [T], stride: usize) {
    add_product_with(Level::detect(), a, b, out, stride);
}

/// [`add_product`] by the instructions of one level.
pub fn add_product_with<T: Real>(
    level: Level,
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [T],
    stride: usize,
) {
    assert_eq!(a.cols(), b.rows(), "inner dimensions");
    assert!(b.cols() <= stride, "rows of the output overlap");
    if a.rows() == 0 || b.cols() == 0 {
        return;
    }
    let len = (a.rows() - 1) * stride + b.cols();
    let out = &mut out[..len];
    let mut left = vec![T::default(); pack::packed_len(a.rows(), DEPTH.min(a.cols()), TILE_ROWS)];
    let columns = COLUMNS.min(b.cols());
    let mut right = vec![T::default(); pack::packed_len(columns, DEPTH.min(a.cols()), T::TILE_COLS)];
    for start in (0..a.cols()).step_by(DEPTH) {
        let terms = start..(start + DEPTH).min(a.cols());
        let left = &mut left[..pack::packed_len(a.rows(), terms.len(), TILE_ROWS)];
        pack::pack(a.columns(terms.clone()), TILE_ROWS, left);
        for first in (0..b.cols()).step_by(COLUMNS) {
            let columns = first..(first + COLUMNS).min(b.cols());
            let right = &mut right[..pack::packed_len(columns.len(), terms.len(), T::TILE_COLS)];
            pack::pack(b.rows_of(terms.clone()).columns(columns.clone()).transposed(), T::TILE_COLS, right);
            let packed = Packed { level, depth: terms.len(), left, right };
            packed.add_to(&mut out[first..], stride, columns.len());
        }
    }
}

/// One run of terms of both operands.
struct Packed<'a, T> {
    level: Level,
    depth: usize,
    /// `[strips][depth][TILE_ROWS]`
    left: &'a [T],
    /// `[panels][depth][TILE_COLS]`
    right: &'a [T],
}

impl<T: Real> Packed<'_, T> {
    /// Adds the run's sums to all rows of `out` and its first `columns` columns.
    fn add_to(&self, out: &mut [T], stride: usize, columns: usize) {
        let strip_len = TILE_ROWS * self.depth;
        let strips = self.left.len() / strip_len;
        let band = strips.div_ceil(4 * rayon::current_num_threads()).clamp(1, MOST_STRIPS);
        let bands = out.par_chunks_mut(band * TILE_ROWS * stride).zip(self.left.par_chunks(band * strip_len));
        bands.for_each(|(out, strips)| {
            for (panel, right) in self.right.chunks_exact(T::TILE_COLS * self.depth).enumerate() {
                let first = panel * T::TILE_COLS;
                let width = T::TILE_COLS.min(columns - first);
                let strips = strips.chunks_exact(strip_len).zip(out.chunks_mut(TILE_ROWS * stride));
                for (left, out) in strips {
                    let mut sums = T::zero_tile();
                    T::tile(self.level, left, right, &mut sums);
                    for (sums, out) in sums.as_ref().chunks_exact(T::TILE_COLS).zip(out.chunks_mut(stride)) {
                        let out = &mut out[first..first + width];
                        out.iter_mut().zip(sums).for_each(|(out, &sum)| *out += sum);
                    }
                }
            }
        });
    }
}
