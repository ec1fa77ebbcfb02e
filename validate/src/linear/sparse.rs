//! The down projection over active neurons only. Squared ReLU leaves most of the FFN's activations at zero;
//! a token's output is the sum of the few columns of the weights whose neurons fire.

use rayon::prelude::*;

use super::Linear;
use crate::buffers::Buffer;
use crate::kernels::{Kernels, SPARSE_OUTPUTS};
use crate::weights::Matrix;

/// Neurons per block: a block of weights (64 KB) stays in the second-level cache while tokens pass by.
const BLOCK: usize = 256;
/// Decoded weights held at a time.
const PANEL_BYTES: usize = 8 << 20;
/// Tokens a thread takes at a time.
const RUN: usize = 64;

/// The neurons that fire, token by token, in blocks of [`BLOCK`] neurons.
#[derive(Debug)]
pub(crate) struct ActiveNeurons {
    tokens: usize,
    blocks: usize,
    /// `[tokens][blocks + 1]`: where a block's entries start in its token's lists.
    starts: Vec<u32>,
    /// Per token: indices within the block, and values.
    lists: Vec<(Vec<u32>, Vec<f32>)>,
}

impl ActiveNeurons {
    /// Lists the non-zero values of `hidden` (`[tokens, neurons]`).
    pub fn new(hidden: &[f32], neurons: usize) -> ActiveNeurons {
        let tokens = hidden.len() / neurons;
        let blocks = neurons.div_ceil(BLOCK);
        let mut starts = vec![0u32; tokens * (blocks + 1)];
        let rows = hidden.par_chunks_exact(neurons).zip(starts.par_chunks_exact_mut(blocks + 1));
        let lists = rows
            .map(|(row, starts)| {
                let (mut indices, mut values) = (Vec::new(), Vec::new());
                for (block, chunk) in row.chunks(BLOCK).enumerate() {
                    for (i, &value) in chunk.iter().enumerate() {
                        if value != 0.0 {
                            indices.push(i as u32);
                            values.push(value);
                        }
                    }
                    starts[block + 1] = indices.len() as u32;
                }
                (indices, values)
            })
            .collect();
        ActiveNeurons { tokens, blocks, starts, lists }
    }

    fn block(&self, token: usize, block: usize) -> (&[u32], &[f32]) {
        let starts = &self.starts[token * (self.blocks + 1) + block..][..2];
        let range = starts[0] as usize..starts[1] as usize;
        let (indices, values) = &self.lists[token];
        (&indices[range.clone()], &values[range])
    }
}

impl Linear {
    /// `[tokens, matrix.rows]`: the product of `matrix` (`[outputs, neurons]`) with the active neurons.
    pub fn sparse_product(&self, matrix: &Matrix, active: &ActiveNeurons) -> Buffer<f32> {
        let outputs = matrix.rows;
        let mut out = self.workspace.floats.zeroed(active.tokens * outputs);
        let strip_len = active.blocks * BLOCK * SPARSE_OUTPUTS;
        let strips_at_once = (PANEL_BYTES / size_of::<f32>() / strip_len).max(1);
        for first in (0..outputs).step_by(strips_at_once * SPARSE_OUTPUTS) {
            let last = (first + strips_at_once * SPARSE_OUTPUTS).min(outputs);
            let strips = (last - first).div_ceil(SPARSE_OUTPUTS);
            let mut panels = self.workspace.floats.take(strips * strip_len);
            panels.par_chunks_mut(BLOCK * SPARSE_OUTPUTS).enumerate().for_each_init(
                || vec![0.0f32; BLOCK],
                |row, (i, panel)| {
                    let first_row = first + i / active.blocks * SPARSE_OUTPUTS;
                    transpose_block(matrix, first_row, i % active.blocks, row, panel);
                },
            );
            out.par_chunks_mut(RUN * outputs).enumerate().for_each(|(run, out)| {
                for (i, panel) in panels.chunks_exact(BLOCK * SPARSE_OUTPUTS).enumerate() {
                    let column = first + i / active.blocks * SPARSE_OUTPUTS;
                    let width = SPARSE_OUTPUTS.min(outputs - column);
                    for (t, out) in out.chunks_exact_mut(outputs).enumerate() {
                        let (indices, values) = active.block(run * RUN + t, i % active.blocks);
                        add(
                            &self.workspace.kernels,
                            indices,
                            values,
                            panel,
                            &mut out[column..column + width],
                        );
                    }
                }
            });
        }
        out
    }
}

fn add(kernels: &Kernels, indices: &[u32], values: &[f32], panel: &[f32], out: &mut [f32]) {
    if let Ok(out) = <&mut [f32; SPARSE_OUTPUTS]>::try_from(&mut *out) {
        kernels.sparse(indices, values, panel, out);
    } else {
        let mut whole = [0.0; SPARSE_OUTPUTS];
        whole[..out.len()].copy_from_slice(out);
        kernels.sparse(indices, values, panel, &mut whole);
        out.copy_from_slice(&whole[..out.len()]);
    }
}

/// `panel[j][o] = matrix[first_row + o][block * BLOCK + j]`; `panel`: `[BLOCK][SPARSE_OUTPUTS]`.
fn transpose_block(matrix: &Matrix, first_row: usize, block: usize, row: &mut [f32], panel: &mut [f32]) {
    let cols = block * BLOCK..((block + 1) * BLOCK).min(matrix.cols);
    let (panel, _) = panel.as_chunks_mut::<SPARSE_OUTPUTS>();
    // Outputs past the last row are computed and dropped; neurons past the last column are never active.
    for o in 0..SPARSE_OUTPUTS.min(matrix.rows - first_row) {
        let row = &mut row[..cols.len()];
        matrix.decode(first_row + o, cols.clone(), row);
        for (line, &value) in panel.iter_mut().zip(&*row) {
            line[o] = value;
        }
    }
}
