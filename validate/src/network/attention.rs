//! Causal softmax attention of one head over one sequence.

use super::Workspace;
use crate::arithmetic::ActivationRounding;
use crate::buffers::{Buffer, Buffers};
use crate::kernels::{Kernels, TILE_OUTPUTS, TILE_TOKENS};
use crate::linear::{Rows, pack_strip_f32};

/// Up to this many queries scores are computed one by one (decoding text).
const FEW_QUERIES: usize = 4;

/// What scores are multiplied with before softmax: `1 / sqrt(qk_head_dim)`.
pub fn attention_scale(qk_head_dim: usize) -> f32 {
    (1.0 / (qk_head_dim as f64).sqrt()) as f32
}

/// One head of one sequence. Query `i` is at position `past + i` and sees keys `0..=past + i`.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a> {
    /// One row a query.
    pub queries: Rows<'a>,
    /// One row a position, as wide as a query.
    pub keys: Rows<'a>,
    /// One row a position.
    pub values: Rows<'a>,
    /// Positions before the first query.
    pub past: usize,
    /// What scores are multiplied with.
    pub scale: f32,
    /// Shares are rounded to half precision before they meet the values.
    pub half_shares: bool,
}

impl Head<'_> {
    /// Writes `[queries, values.width]` to `out`, and to `shares`, where wanted, each query's shares of the keys:
    /// `[queries, keys]`, zero for keys that it does not see.
    pub fn attend(&self, workspace: &Workspace, shares: Option<&mut [f32]>, out: &mut [f32]) {
        assert_eq!(self.keys.count(), self.past + self.queries.count());
        assert_eq!(self.keys.count(), self.values.count());
        if self.queries.count() <= FEW_QUERIES {
            self.few(&workspace.kernels, shares, out)
        } else {
            self.many(workspace, shares, out)
        }
    }

    fn few(&self, kernels: &Kernels, mut shares: Option<&mut [f32]>, out: &mut [f32]) {
        let mut weights = Vec::with_capacity(self.keys.count());
        for (i, out) in out.chunks_exact_mut(self.values.width).enumerate() {
            let query = self.queries.row(i);
            weights.clear();
            weights.extend((0..=self.past + i).map(|p| kernels.dot(query, self.keys.row(p))));
            self.shares_of(kernels, &mut weights);
            if let Some(shares) = &mut shares {
                keep(&weights, i, self.keys.count(), shares);
            }
            out.fill(0.0);
            for (p, &weight) in weights.iter().enumerate() {
                for (out, value) in out.iter_mut().zip(self.values.row(p)) {
                    *out += weight * value;
                }
            }
        }
    }

    fn many(&self, workspace: &Workspace, mut shares: Option<&mut [f32]>, out: &mut [f32]) {
        let Workspace { kernels, floats } = workspace;
        let (keys, values) = (self.pack_keys(floats), self.pack_values(floats));
        let total = self.keys.count();
        let width = self.values.width;
        let mut query_strip = floats.take(self.queries.width * TILE_TOKENS);
        let mut scores = floats.take(TILE_TOKENS * total.next_multiple_of(TILE_OUTPUTS));
        let mut weight_strip = floats.take(total * TILE_TOKENS);
        let mut tile = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
        let row_len = scores.len() / TILE_TOKENS;
        for first in (0..self.queries.count()).step_by(TILE_TOKENS) {
            let count = TILE_TOKENS.min(self.queries.count() - first);
            // Keys that the strip's last query sees; later ones are never touched.
            let seen = self.past + first + count;
            pack_strip_f32(self.queries, first, &mut query_strip);
            for panel in 0..seen.div_ceil(TILE_OUTPUTS) {
                let keys = &keys[panel * TILE_OUTPUTS * self.keys.width..][..TILE_OUTPUTS * self.keys.width];
                kernels.tile_f32(&query_strip, keys, &mut tile);
                for (row, tile) in scores.chunks_exact_mut(row_len).zip(&tile) {
                    row[panel * TILE_OUTPUTS..][..TILE_OUTPUTS].copy_from_slice(tile);
                }
            }
            for (t, row) in scores.chunks_exact_mut(row_len).enumerate().take(count) {
                let visible = self.past + first + t + 1;
                self.shares_of(kernels, &mut row[..visible]);
                if let Some(shares) = &mut shares {
                    keep(&row[..visible], first + t, total, shares);
                }
                row[visible..seen].fill(0.0);
            }
            let weights = &mut weight_strip[..seen * TILE_TOKENS];
            let strip = Rows { data: &scores[..count * row_len], stride: row_len, offset: 0, width: seen };
            pack_strip_f32(strip, 0, weights);
            for column in (0..width).step_by(TILE_OUTPUTS) {
                let values = &values[column * total..][..seen * TILE_OUTPUTS];
                kernels.tile_f32(weights, values, &mut tile);
                let columns = TILE_OUTPUTS.min(width - column);
                for (t, row) in tile.iter().enumerate().take(count) {
                    out[(first + t) * width + column..][..columns].copy_from_slice(&row[..columns]);
                }
            }
        }
    }

    fn shares_of(&self, kernels: &Kernels, scores: &mut [f32]) {
        softmax(kernels, scores, self.scale);
        if self.half_shares {
            ActivationRounding::F16.apply(scores);
        }
    }

    /// `[panels][width][TILE_OUTPUTS]`: keys as if they were weight rows.
    fn pack_keys(&self, floats: &Buffers<f32>) -> Buffer<f32> {
        let panel_len = TILE_OUTPUTS * self.keys.width;
        let mut out = floats.take(self.keys.count().div_ceil(TILE_OUTPUTS) * panel_len);
        for (p, panel) in out.chunks_exact_mut(panel_len).enumerate() {
            let (lines, _) = panel.as_chunks_mut::<TILE_OUTPUTS>();
            // Columns of keys past the last are computed and dropped.
            for r in 0..TILE_OUTPUTS.min(self.keys.count() - p * TILE_OUTPUTS) {
                for (line, &value) in lines.iter_mut().zip(self.keys.row(p * TILE_OUTPUTS + r)) {
                    line[r] = value;
                }
            }
        }
        out
    }

    /// `[column panels][tokens][TILE_OUTPUTS]`: values as if they were weight columns.
    fn pack_values(&self, floats: &Buffers<f32>) -> Buffer<f32> {
        let total = self.values.count();
        let width = self.values.width;
        let mut out = floats.take(width.div_ceil(TILE_OUTPUTS) * total * TILE_OUTPUTS);
        for (p, panel) in out.chunks_exact_mut(total * TILE_OUTPUTS).enumerate() {
            let columns = p * TILE_OUTPUTS..((p + 1) * TILE_OUTPUTS).min(width);
            for (t, line) in panel.chunks_exact_mut(TILE_OUTPUTS).enumerate() {
                line[columns.len()..].fill(0.0);
                line[..columns.len()].copy_from_slice(&self.values.row(t)[columns.clone()]);
            }
        }
        out
    }
}

/// Writes what a query sees to its row of `shares`, `[queries, keys]`.
fn keep(seen: &[f32], query: usize, keys: usize, shares: &mut [f32]) {
    let (visible, hidden) = shares[query * keys..][..keys].split_at_mut(seen.len());
    visible.copy_from_slice(seen);
    hidden.fill(0.0);
}

/// Replaces scores by their shares: `exp(scale * score)` over the sum of all of them.
fn softmax(kernels: &Kernels, scores: &mut [f32], scale: f32) {
    let mut max = f32::NEG_INFINITY;
    for score in scores.iter_mut() {
        *score *= scale;
        max = if *score > max { *score } else { max };
    }
    let inverse = 1.0 / kernels.exp_minus(scores, max);
    scores.iter_mut().for_each(|x| *x *= inverse);
}
