//! Products with matrices that are mostly zero, such as the neurons that squared ReLU leaves.
//!
//! [`add_sparse_product`] leaves out terms that are zero and keeps the order of all others, so its bits are those of
//! [`add_product`](super::add_product). [`sampled_product`] computes a few elements of a product, in an order of its own:
//! of each run of `DEPTH` terms lane `l` takes every term whose number leaves the remainder `l` by [`LANES`], each by a
//! fused multiply-add; lanes are added in halves, and the runs in order.

use std::ops::Range;

use rayon::prelude::*;

use super::matrix::Matrix;
#[cfg(target_arch = "aarch64")]
use super::neon;
use super::{COLUMNS, DEPTH, generic, pack};
#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};
use crate::simd::Level;

/// Columns whose values lie together in a [`SparseMatrix`].
pub const RUN: usize = DEPTH;
/// Columns of a panel: what [`add_rows`] computes at a time.
pub const PANEL_COLS: usize = 64;
/// Partial sums of an element of a sampled product.
pub(super) const LANES: usize = 16;
/// Rows that a thread takes at a time.
const BAND: usize = 64;

/// The values of a matrix that are not zero, row by row, cut into runs of `DEPTH` columns.
#[derive(Clone, Debug, PartialEq)]
pub struct SparseMatrix {
    cols: usize,
    rows: Vec<SparseRow>,
}

/// One row: its values and their columns, counted within each run.
#[derive(Clone, Debug, PartialEq)]
struct SparseRow {
    /// `[runs + 1]`: where a run's values begin.
    starts: Vec<u32>,
    indices: Vec<u8>,
    values: Vec<f32>,
}

impl SparseRow {
    fn with_runs(runs: usize) -> SparseRow {
        SparseRow { starts: vec![0; runs + 1], indices: Vec::new(), values: Vec::new() }
    }

    fn new(dense: &[f32]) -> SparseRow {
        let mut row = SparseRow::with_runs(dense.len().div_ceil(DEPTH));
        for (run, chunk) in dense.chunks(DEPTH).enumerate() {
            for (index, &value) in chunk.iter().enumerate() {
                // A NaN is kept: it is not zero.
                if value != 0.0 {
                    row.indices.push(index as u8);
                    row.values.push(value);
                }
            }
            row.starts[run + 1] = row.values.len() as u32;
        }
        row
    }

    fn run(&self, run: usize) -> Range<usize> {
        self.starts[run] as usize..self.starts[run + 1] as usize
    }

    fn runs(&self) -> usize {
        self.starts.len() - 1
    }

    fn entries(&self) -> impl Iterator<Item = (usize, f32)> {
        (0..self.runs()).flat_map(move |run| {
            let at = self.run(run);
            let indices = self.indices[at.clone()].iter().map(move |&i| run * DEPTH + usize::from(i));
            indices.zip(self.values[at].iter().copied())
        })
    }
}

impl SparseMatrix {
    /// What is not zero in `dense`, rows of `cols` values.
    pub fn new(dense: &[f32], cols: usize) -> SparseMatrix {
        SparseMatrix { cols, rows: dense.par_chunks_exact(cols).map(SparseRow::new).collect() }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Columns and values of a row, in order of the columns.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (usize, f32)> {
        self.rows[row].entries()
    }

    /// What a row has in columns `run * RUN` and the following: their numbers from there on, and the values.
    #[inline]
    pub fn run(&self, row: usize, run: usize) -> (&[u8], &[f32]) {
        let row = &self.rows[row];
        let at = row.run(run);
        (&row.indices[at.clone()], &row.values[at])
    }

    /// Values that are not zero.
    pub fn count(&self) -> usize {
        self.rows.iter().map(|row| row.values.len()).sum()
    }

    /// The sum of a row's squares.
    pub fn row_squares(&self, row: usize) -> f32 {
        self.rows[row].values.iter().map(|x| x * x).sum()
    }

    /// Replaces every value of this matrix, given its row's number, by what `change` makes of it.
    pub fn change(&mut self, change: impl Fn(usize, f32) -> f32 + Sync) {
        self.rows.par_iter_mut().enumerate().for_each(|(index, row)| {
            row.values.iter_mut().for_each(|value| *value = change(index, *value));
        });
    }

    /// Multiplies every value by that of `other`, which has values in the same places.
    ///
    /// # Panics
    /// If it has not.
    pub fn multiply(&mut self, other: &SparseMatrix) {
        self.rows.par_iter_mut().zip(&other.rows).for_each(|(row, other)| {
            assert!(row.starts == other.starts && row.indices == other.indices, "values in other places");
            row.values.iter_mut().zip(&other.values).for_each(|(value, other)| *value *= other);
        });
    }

    /// Its values and their places, row by row: the reverse of [`from_bytes`](Self::from_bytes).
    pub fn to_bytes(&self) -> Vec<u8> {
        let runs = self.cols.div_ceil(RUN);
        let mut out = Vec::with_capacity(self.rows() * (runs + 1) * 4 + self.count() * 5);
        for row in &self.rows {
            out.extend_from_slice(bytemuck::cast_slice(&row.starts));
            out.extend_from_slice(&row.indices);
            out.extend_from_slice(bytemuck::cast_slice(&row.values));
        }
        out
    }

    /// A matrix of `rows` rows and `cols` columns from the bytes that this machine made of it; `None` if they are not of
    /// that shape.
    pub fn from_bytes(rows: usize, cols: usize, mut bytes: &[u8]) -> Option<SparseMatrix> {
        let runs = cols.div_ceil(RUN);
        let mut take = |count: usize| {
            let (taken, rest) = bytes.split_at_checked(count)?;
            bytes = rest;
            Some(taken)
        };
        let mut row = || {
            let starts = take((runs + 1) * 4)?.as_chunks().0;
            let starts: Vec<u32> = starts.iter().map(|&b| u32::from_ne_bytes(b)).collect();
            let count = *starts.last()? as usize;
            let indices = take(count)?.to_vec();
            let values = take(count.checked_mul(4)?)?.as_chunks().0;
            let values = values.iter().map(|&b| f32::from_ne_bytes(b)).collect();
            (starts[0] == 0 && starts.is_sorted()).then_some(SparseRow { starts, indices, values })
        };
        let rows = (0..rows).map(|_| row()).collect::<Option<_>>()?;
        bytes.is_empty().then_some(SparseMatrix { cols, rows })
    }

    /// Its columns as rows.
    pub fn transposed(&self) -> SparseMatrix {
        let runs = self.rows.len().div_ceil(DEPTH);
        let mut rows = vec![SparseRow::with_runs(runs); self.cols];
        rows.par_chunks_mut(DEPTH).enumerate().for_each(|(run, out)| {
            for (index, row) in self.rows.iter().enumerate() {
                let at = row.run(run);
                for (&column, &value) in row.indices[at.clone()].iter().zip(&row.values[at]) {
                    let out = &mut out[usize::from(column)];
                    out.indices.push((index % DEPTH) as u8);
                    out.values.push(value);
                    out.starts[index / DEPTH + 1] = out.values.len() as u32;
                }
            }
            for row in out {
                // Runs without a value end where the one before does.
                for run in 0..runs {
                    row.starts[run + 1] = row.starts[run + 1].max(row.starts[run]);
                }
            }
        });
        SparseMatrix { cols: self.rows.len(), rows }
    }

    /// `[rows, columns.len()]`: some columns with their zeros. `columns` begin and end at a run or at the last column.
    pub fn dense(&self, columns: Range<usize>) -> Vec<f32> {
        let mut out = vec![0.0; self.rows.len() * columns.len()];
        if columns.is_empty() {
            return out;
        }
        assert!(columns.start.is_multiple_of(DEPTH), "columns of whole runs");
        assert!(columns.end.is_multiple_of(DEPTH) || columns.end == self.cols, "columns of whole runs");
        out.par_chunks_exact_mut(columns.len()).zip(&self.rows).for_each(|(out, row)| {
            for (run, out) in out.chunks_mut(DEPTH).enumerate() {
                let at = row.run(columns.start / DEPTH + run);
                for (&index, &value) in row.indices[at.clone()].iter().zip(&row.values[at]) {
                    out[usize::from(index)] = value;
                }
            }
        });
        out
    }
}

/// Adds `a b` to `out`, whose rows start `stride` apart, for some rows of `a`: `out[i * stride + j]`,
/// `i < rows.len()`, `j < b.cols()`. The bits are those of [`add_product`](super::add_product) with the dense `a`, where
/// no value of `b` is infinite or NaN and no sum of `out` is -0.
///
/// # Panics
/// If `a.cols()` is not `b.rows()`, or `out` is too short.
pub fn add_sparse_product(
    a: &SparseMatrix,
    rows: Range<usize>,
    b: Matrix<'_, f32>,
    out: &mut [f32],
    stride: usize,
) {
    add_sparse_product_with(Level::detect(), a, rows, b, out, stride);
}

/// [`add_sparse_product`] by the instructions of one level.
pub fn add_sparse_product_with(
    level: Level,
    a: &SparseMatrix,
    rows: Range<usize>,
    b: Matrix<'_, f32>,
    out: &mut [f32],
    stride: usize,
) {
    assert_eq!(a.cols, b.rows(), "inner dimensions");
    assert!(b.cols() <= stride, "rows of the output overlap");
    if rows.is_empty() || b.cols() == 0 {
        return;
    }
    let out = &mut out[..(rows.len() - 1) * stride + b.cols()];
    let rows = &a.rows[rows];
    let columns_at_once = COLUMNS.min(b.cols());
    let mut packed = vec![0.0; pack::packed_len(columns_at_once, DEPTH.min(a.cols), PANEL_COLS)];
    for (run, start) in (0..a.cols).step_by(DEPTH).enumerate() {
        let terms = start..(start + DEPTH).min(a.cols);
        for first in (0..b.cols()).step_by(COLUMNS) {
            let columns = first..(first + COLUMNS).min(b.cols());
            let packed = &mut packed[..pack::packed_len(columns.len(), terms.len(), PANEL_COLS)];
            pack::pack(b.rows_of(terms.clone()).columns(columns.clone()).transposed(), PANEL_COLS, packed);
            let bands = out.par_chunks_mut(BAND * stride).zip(rows.par_chunks(BAND));
            bands.for_each(|(out, rows)| {
                for (panel, packed) in packed.chunks_exact(PANEL_COLS * terms.len()).enumerate() {
                    let at = columns.start + panel * PANEL_COLS;
                    let at = at..(at + PANEL_COLS).min(columns.end);
                    for (row, out) in rows.iter().zip(out.chunks_mut(stride)) {
                        let entries = row.run(run);
                        let (indices, values) = (&row.indices[entries.clone()], &row.values[entries]);
                        add_rows(level, indices, values, packed, &mut out[at.clone()]);
                    }
                }
            });
        }
    }
}

/// `out[j] += sum over i of values[i] * panel[indices[i]][j]`. The sum starts at zero and takes its terms in order, each
/// by a fused multiply-add. `panel`: `[rows][PANEL_COLS]`; `out` may be narrower.
///
/// # Panics
/// If an index has no row, or `out` is wider.
#[inline]
pub fn add_rows(level: Level, indices: &[u8], values: &[f32], panel: &[f32], out: &mut [f32]) {
    assert_eq!(indices.len(), values.len());
    let panel = panel.as_chunks().0;
    if let Ok(out) = <&mut [f32; PANEL_COLS]>::try_from(&mut *out) {
        add_whole_rows(level, indices, values, panel, out);
    } else {
        let mut whole = [0.0; PANEL_COLS];
        whole[..out.len()].copy_from_slice(out);
        add_whole_rows(level, indices, values, panel, &mut whole);
        out.copy_from_slice(&whole[..out.len()]);
    }
}

#[inline]
fn add_whole_rows(
    level: Level,
    indices: &[u8],
    values: &[f32],
    panel: &[[f32; PANEL_COLS]],
    out: &mut [f32; PANEL_COLS],
) {
    match level {
        // SAFETY: the token is the proof that the CPU has the instructions.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => unsafe { avx2::add_rows(indices, values, panel, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => unsafe { avx512::add_rows(indices, values, panel, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => unsafe { neon::add_rows(indices, values, panel, out) },
        _ => generic::add_rows(indices, values, panel, out),
    }
}

/// The elements of `a bᵀ` in the places where `places` has values. `a`: `[places.rows(), depth]`, `b`:
/// `[places.cols(), depth]`, both in order of their rows.
///
/// # Panics
/// If the shapes do not fit.
pub fn sampled_product(a: &[f32], b: &[f32], depth: usize, places: &SparseMatrix) -> SparseMatrix {
    sampled_product_with(Level::detect(), a, b, depth, places)
}

/// [`sampled_product`] by the instructions of one level.
pub fn sampled_product_with(
    level: Level,
    a: &[f32],
    b: &[f32],
    depth: usize,
    places: &SparseMatrix,
) -> SparseMatrix {
    assert_eq!(a.len(), places.rows() * depth);
    assert_eq!(b.len(), places.cols * depth);
    let mut out = places.clone();
    out.change(|_, _| 0.0);
    let width = DEPTH.min(depth).next_multiple_of(LANES);
    let mut packed = vec![0.0; places.cols * width];
    for start in (0..depth).step_by(DEPTH) {
        let terms = start..(start + DEPTH).min(depth);
        let width = terms.len().next_multiple_of(LANES);
        let packed = &mut packed[..places.cols * width];
        packed.par_chunks_exact_mut(width).zip(b.par_chunks_exact(depth)).for_each(|(out, row)| {
            out[..terms.len()].copy_from_slice(&row[terms.clone()]);
            out[terms.len()..].fill(0.0);
        });
        let bands = out.rows.par_chunks_mut(BAND).zip(a.par_chunks(BAND * depth));
        bands.for_each(|(rows, a)| {
            let mut left = [0.0; DEPTH];
            for (run, panel) in packed.chunks(DEPTH * width).enumerate() {
                for (row, a) in rows.iter_mut().zip(a.chunks_exact(depth)) {
                    left[..terms.len()].copy_from_slice(&a[terms.clone()]);
                    left[terms.len()..width].fill(0.0);
                    let at = row.run(run);
                    add_dots(level, &left[..width], &row.indices[at.clone()], panel, &mut row.values[at]);
                }
            }
        });
    }
    out
}

/// `out[i] += left · panel[indices[i]]`, `panel`: `[rows][left.len()]`.
fn add_dots(level: Level, left: &[f32], indices: &[u8], panel: &[f32], out: &mut [f32]) {
    assert_eq!(indices.len(), out.len());
    assert!(left.len().is_multiple_of(LANES) && !left.is_empty());
    let highest = indices.last().map_or(0, |&index| usize::from(index) + 1);
    debug_assert!(indices.is_sorted());
    assert!(highest * left.len() <= panel.len());
    match level {
        // SAFETY: the token is the proof that the CPU has the instructions; every row is within the panel.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => unsafe { avx2::add_dots(left, indices, panel, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(_) => unsafe { avx512::add_dots(left, indices, panel, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Level::Neon(_) => unsafe { neon::add_dots(left, indices, panel, out) },
        _ => generic::add_dots(left, indices, panel, out),
    }
}

/// Adds up lanes in halves: the order that every level keeps.
#[inline(always)]
pub(super) fn add_lanes(lanes: [f32; LANES]) -> f32 {
    let eight: [f32; 8] = std::array::from_fn(|i| lanes[i] + lanes[i + 8]);
    let four: [f32; 4] = std::array::from_fn(|i| eight[i] + eight[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The two inner loops for vectors of so many lanes. `vectors` are those of a panel's row, `parts` those of
/// [`LANES`] partial sums.
macro_rules! sparse_functions {
    (
        $features:literal, vectors [$($vector:literal)*], parts [$($part:literal)*], $lanes:literal lanes,
        $zero:expr, $load:expr, $store:expr, $splat:expr, $add_product:expr, $add:expr
    ) => {
        #[target_feature(enable = $features)]
        pub(super) fn add_rows(
            indices: &[u8],
            values: &[f32],
            panel: &[[f32; PANEL_COLS]],
            out: &mut [f32; PANEL_COLS],
        ) {
            const VECTORS: usize = [$($vector),*].len();
            const { assert!(VECTORS * $lanes == PANEL_COLS) };
            let mut sums = [$zero; VECTORS];
            for (&index, &value) in indices.iter().zip(values) {
                let row = panel[usize::from(index)].as_ptr();
                let value = $splat(value);
                unroll!(v in [$($vector)*] {
                    // SAFETY: a row holds that many vectors.
                    let weights = unsafe { $load(row.add(v * $lanes)) };
                    sums[v] = $add_product(sums[v], value, weights);
                });
            }
            unroll!(v in [$($vector)*] {
                let out = &mut out[v * $lanes..][..$lanes];
                // SAFETY: `out` holds a vector.
                unsafe { $store(out.as_mut_ptr(), $add($load(out.as_ptr()), sums[v])) };
            });
        }

        /// # Safety
        /// Every index has a row in the panel, and `left` is whole parts of [`LANES`] values.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn add_dots(left: &[f32], indices: &[u8], panel: &[f32], out: &mut [f32]) {
            const PARTS: usize = [$($part),*].len();
            const { assert!(PARTS * $lanes == LANES) };
            // Four rows at a time share the loads of `left`; the last ones are computed again rather than apart.
            for (indices, out) in indices.chunks(4).zip(out.chunks_mut(4)) {
                let row = |i: usize| {
                    let index = usize::from(indices[i.min(indices.len() - 1)]);
                    // SAFETY: the caller's promise.
                    unsafe { panel.as_ptr().add(index * left.len()) }
                };
                let rows = [row(0), row(1), row(2), row(3)];
                let mut sums = [[$zero; PARTS]; 4];
                for k in (0..left.len()).step_by(LANES) {
                    unroll!(p in [$($part)*] {
                        // SAFETY: `k` and the part lie within `left`, and so within every row.
                        unsafe {
                            let at = k + p * $lanes;
                            let value = $load(left.as_ptr().add(at));
                            unroll!(r in [0 1 2 3] {
                                sums[r][p] = $add_product(sums[r][p], value, $load(rows[r].add(at)));
                            });
                        }
                    });
                }
                for (sums, out) in sums.iter().zip(out) {
                    let mut lanes = [0.0f32; LANES];
                    unroll!(p in [$($part)*] {
                        // SAFETY: the part lies within the lanes.
                        unsafe { $store(lanes.as_mut_ptr().add(p * $lanes), sums[p]) };
                    });
                    *out += add_lanes(lanes);
                }
            }
        }
    };
}
pub(super) use sparse_functions;
