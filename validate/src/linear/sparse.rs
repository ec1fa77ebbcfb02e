//! The down projection over active neurons only. Squared ReLU leaves most of the FFN's activations at zero;
//! a token's output is the sum of the few columns of the weights whose neurons fire.

use plmconv_quant::product::{PANEL_COLS, RUN, SparseMatrix, add_rows};
use rayon::prelude::*;

use super::Linear;
use crate::buffers::Buffer;
use crate::weights::Matrix;

/// Decoded weights held at a time.
const PANEL_BYTES: usize = 8 << 20;
/// Tokens a thread takes at a time.
const TOKENS: usize = 64;

impl Linear {
    /// `[tokens, matrix.rows]`: the product of `matrix` (`[outputs, neurons]`) with the active neurons.
    pub fn sparse_product(&self, matrix: &Matrix, active: &SparseMatrix) -> Buffer<f32> {
        let outputs = matrix.rows;
        let blocks = active.cols().div_ceil(RUN);
        let mut out = self.workspace.floats.zeroed(active.rows() * outputs);
        let strip_len = blocks * RUN * PANEL_COLS;
        let strips_at_once = (PANEL_BYTES / size_of::<f32>() / strip_len).max(1);
        for first in (0..outputs).step_by(strips_at_once * PANEL_COLS) {
            let last = (first + strips_at_once * PANEL_COLS).min(outputs);
            let strips = (last - first).div_ceil(PANEL_COLS);
            let mut panels = self.workspace.floats.take(strips * strip_len);
            panels.par_chunks_mut(RUN * PANEL_COLS).enumerate().for_each_init(
                || vec![0.0f32; RUN],
                |row, (i, panel)| {
                    let first_row = first + i / blocks * PANEL_COLS;
                    transpose_block(matrix, first_row, i % blocks, row, panel);
                },
            );
            out.par_chunks_mut(TOKENS * outputs).enumerate().for_each(|(run, out)| {
                for (i, panel) in panels.chunks_exact(RUN * PANEL_COLS).enumerate() {
                    let column = first + i / blocks * PANEL_COLS;
                    let width = PANEL_COLS.min(outputs - column);
                    for (t, out) in out.chunks_exact_mut(outputs).enumerate() {
                        let (indices, values) = active.run(run * TOKENS + t, i % blocks);
                        let out = &mut out[column..column + width];
                        add_rows(self.workspace.kernels.0, indices, values, panel, out);
                    }
                }
            });
        }
        out
    }
}

/// `panel[j][o] = matrix[first_row + o][block * RUN + j]`; `panel`: `[RUN][PANEL_COLS]`.
fn transpose_block(matrix: &Matrix, first_row: usize, block: usize, row: &mut [f32], panel: &mut [f32]) {
    let cols = block * RUN..((block + 1) * RUN).min(matrix.cols);
    let (panel, _) = panel.as_chunks_mut::<PANEL_COLS>();
    // Outputs past the last row are computed and dropped; neurons past the last column are never active.
    for o in 0..PANEL_COLS.min(matrix.rows - first_row) {
        let row = &mut row[..cols.len()];
        matrix.decode(first_row + o, cols.clone(), row);
        for (line, &value) in panel.iter_mut().zip(&*row) {
            line[o] = value;
        }
    }
}
