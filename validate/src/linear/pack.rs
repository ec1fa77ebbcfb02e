//! Operands in the order in which the kernels read them.

use std::ops::Range;

use rayon::prelude::*;

use super::Linear;
use crate::buffers::Buffer;
use crate::kernels::{GROUP, Kernels, TILE_OUTPUTS, TILE_TOKENS};
use crate::weights::Matrix;

/// Columns decoded at a time: a multiple of every type's block and of [`GROUP`].
const DECODE_COLS: usize = 256;

/// Activations in strips of [`TILE_TOKENS`] tokens; missing tokens and columns are zero.
#[derive(Debug)]
pub(crate) enum Strips {
    /// `[strips][width][TILE_TOKENS]`
    F32(Buffer<f32>),
    /// `[strips][groups * GROUP / 2][TILE_TOKENS][2]` and `[strips][groups][TILE_TOKENS]`
    I16 { values: Buffer<i16>, scales: Buffer<f32> },
}

/// A rectangle of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    /// The matrix.
    pub data: &'a [f32],
    /// Values from one row to the next.
    pub stride: usize,
    /// First column.
    pub offset: usize,
    /// Columns.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// A whole matrix of rows of `width`.
    pub fn all(data: &'a [f32], width: usize) -> Rows<'a> {
        Rows { data, stride: width, offset: 0, width }
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.data.len() / self.stride
    }

    /// The rectangle's part of a row.
    #[inline]
    pub fn row(&self, row: usize) -> &'a [f32] {
        &self.data[row * self.stride + self.offset..][..self.width]
    }
}

/// `out[k][t] = rows[first + t][k]`, zero where there are fewer rows. `out`: `[width][TILE_TOKENS]`.
pub(crate) fn pack_strip_f32(rows: Rows<'_>, first: usize, out: &mut [f32]) {
    let (out, _) = out.as_chunks_mut::<TILE_TOKENS>();
    let count = rows.count().saturating_sub(first).min(TILE_TOKENS);
    for (t, row) in (0..count).map(|t| rows.row(first + t)).enumerate() {
        for (line, &value) in out.iter_mut().zip(row) {
            line[t] = value;
        }
    }
    for line in out {
        line[count..].fill(0.0);
    }
}

impl Linear {
    /// All of `rows` as f32 strips.
    pub(super) fn pack_f32(&self, rows: Rows<'_>) -> Buffer<f32> {
        let strips = rows.count().div_ceil(TILE_TOKENS);
        let mut values = self.workspace.floats.take(strips * TILE_TOKENS * rows.width);
        values
            .par_chunks_mut(TILE_TOKENS * rows.width)
            .enumerate()
            .for_each(|(strip, out)| pack_strip_f32(rows, strip * TILE_TOKENS, out));
        values
    }

    /// Rounds all of `rows` to integers, one scale a token and group, and packs them.
    pub(super) fn pack_i16(&self, rows: Rows<'_>) -> Strips {
        let strips = rows.count().div_ceil(TILE_TOKENS);
        let groups = rows.width.div_ceil(GROUP);
        let mut values = self.integers.take(strips * TILE_TOKENS * groups * GROUP);
        let mut scales = self.workspace.floats.take(strips * TILE_TOKENS * groups);
        let outputs = values
            .par_chunks_mut(TILE_TOKENS * groups * GROUP)
            .zip(scales.par_chunks_mut(TILE_TOKENS * groups));
        outputs.enumerate().for_each(|(strip, (values, scales))| {
            pack_strip_i16(&self.workspace.kernels, rows, strip * TILE_TOKENS, values, scales);
        });
        Strips::I16 { values, scales }
    }
}

/// One strip of integers, from token `first` on.
fn pack_strip_i16(kernels: &Kernels, rows: Rows<'_>, first: usize, values: &mut [i16], scales: &mut [f32]) {
    let count = rows.count().saturating_sub(first).min(TILE_TOKENS);
    if count < TILE_TOKENS {
        values.fill(0);
        scales.fill(0.0);
    }
    let (lines, _) = values.as_chunks_mut::<{ 2 * TILE_TOKENS }>();
    let (mut padded, mut integers) = ([0.0f32; GROUP], [0i16; GROUP]);
    for t in 0..count {
        for (group, chunk) in rows.row(first + t).chunks(GROUP).enumerate() {
            padded[..chunk.len()].copy_from_slice(chunk);
            padded[chunk.len()..].fill(0.0);
            scales[group * TILE_TOKENS + t] = kernels.round_group(&padded, &mut integers);
            let lines = &mut lines[group * GROUP / 2..][..GROUP / 2];
            for (line, pair) in lines.iter_mut().zip(integers.as_chunks::<2>().0) {
                line[2 * t..2 * t + 2].copy_from_slice(pair);
            }
        }
    }
}

/// Decodes [`TILE_OUTPUTS`] rows from `first` on (zero past `end`), columns `cols`, as `[rows][cols]`.
fn decode_panel_rows(matrix: &Matrix, rows: Range<usize>, cols: Range<usize>, out: &mut [f32]) {
    let width = cols.len();
    for (r, out) in out.chunks_exact_mut(width).take(TILE_OUTPUTS).enumerate() {
        if rows.start + r < rows.end {
            matrix.decode(rows.start + r, cols.clone(), out);
        } else {
            out.fill(0.0);
        }
    }
}

/// Steps of [`DECODE_COLS`] over a row.
fn column_steps(cols: usize) -> impl Iterator<Item = Range<usize>> {
    (0..cols).step_by(DECODE_COLS).map(move |start| start..(start + DECODE_COLS).min(cols))
}

/// `out[k][r] = matrix[rows.start + r][k]` for up to [`TILE_OUTPUTS`] rows; `out`: `[cols][TILE_OUTPUTS]`.
pub(crate) fn panel_f32(matrix: &Matrix, rows: Range<usize>, scratch: &mut Vec<f32>, out: &mut [f32]) {
    scratch.resize(TILE_OUTPUTS * DECODE_COLS, 0.0);
    let (out, _) = out.as_chunks_mut::<TILE_OUTPUTS>();
    for cols in column_steps(matrix.cols) {
        let width = cols.len();
        decode_panel_rows(matrix, rows.clone(), cols.clone(), scratch);
        for (k, line) in out[cols].iter_mut().enumerate() {
            for (r, value) in line.iter_mut().enumerate() {
                *value = scratch[r * width + k];
            }
        }
    }
}

/// `[panels of columns][rows][TILE_OUTPUTS]`: rows of the matrix as the dimension that is summed over.
pub(crate) fn transposed_panels(matrix: &Matrix, rows: Range<usize>) -> Vec<f32> {
    let panel_len = rows.len() * TILE_OUTPUTS;
    let mut panels = vec![0.0; matrix.cols.div_ceil(TILE_OUTPUTS) * panel_len];
    let mut decoded = vec![0.0; matrix.cols];
    for (r, row) in rows.enumerate() {
        matrix.decode_row(row, &mut decoded);
        for (panel, chunk) in panels.chunks_exact_mut(panel_len).zip(decoded.chunks(TILE_OUTPUTS)) {
            panel[r * TILE_OUTPUTS..][..chunk.len()].copy_from_slice(chunk);
        }
    }
    panels
}

/// The same as integers: `values`: `[groups * GROUP / 2][TILE_OUTPUTS][2]`, `scales`: `[groups][TILE_OUTPUTS]`.
pub(crate) fn panel_i16(
    kernels: &Kernels,
    matrix: &Matrix,
    rows: Range<usize>,
    scratch: &mut Vec<f32>,
    values: &mut [i16],
    scales: &mut [f32],
) {
    scratch.resize(TILE_OUTPUTS * (DECODE_COLS + GROUP), 0.0);
    let (decoded, group_rows) = scratch.split_at_mut(TILE_OUTPUTS * DECODE_COLS);
    let mut groups = values.chunks_exact_mut(GROUP * TILE_OUTPUTS).zip(scales.chunks_exact_mut(TILE_OUTPUTS));
    for cols in column_steps(matrix.cols) {
        let width = cols.len();
        decode_panel_rows(matrix, rows.clone(), cols, decoded);
        for start in (0..width).step_by(GROUP) {
            let (values, scales) = groups.next().expect("a panel has a place for every group");
            let count = GROUP.min(width - start);
            if count == GROUP {
                kernels.interleave_weights(&decoded[start..], width, values, scales);
                continue;
            }
            for (r, out) in group_rows.chunks_exact_mut(GROUP).enumerate() {
                out[..count].copy_from_slice(&decoded[r * width + start..][..count]);
                out[count..].fill(0.0);
            }
            kernels.interleave_weights(group_rows, GROUP, values, scales);
        }
    }
}
