//! Arm's 128-bit vectors. Sub-tiles of 6 tokens by 16 outputs fill 24 of the 32 registers.

use std::arch::aarch64::*;

use super::{GROUP, IntOperands, TILE_OUTPUTS, TILE_TOKENS, Tile};

/// Tokens of a sub-tile.
const TOKENS: usize = 6;
/// Outputs of a sub-tile.
const OUTPUTS: usize = 16;

#[target_feature(enable = "neon")]
pub(super) fn tile_i16(operands: IntOperands<'_>, tile: &mut Tile) {
    let groups = operands.groups();
    *tile = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
    for group in 0..groups {
        for token in (0..TILE_TOKENS).step_by(TOKENS) {
            for output in (0..TILE_OUTPUTS).step_by(OUTPUTS) {
                add_group(&operands, group, token, output, tile);
            }
        }
    }
}

#[target_feature(enable = "neon")]
fn add_group(operands: &IntOperands<'_>, group: usize, token: usize, output: usize, tile: &mut Tile) {
    let mut sums = [[vdupq_n_s32(0); 4]; TOKENS];
    for step in group * GROUP / 2..(group + 1) * GROUP / 2 {
        // SAFETY: step < groups * GROUP / 2 (the caller checked the slices), the sub-tile is within the tile.
        unsafe {
            let a = operands.activations.as_ptr().add((step * TILE_TOKENS + token) * 2);
            let w = operands.weights.as_ptr().add((step * TILE_OUTPUTS + output) * 2);
            unroll!(v in [0 1 2 3] {
                // Even and odd columns of four outputs.
                let pairs = vld2_s16(w.add(8 * v));
                unroll!(t in [0 1 2 3 4 5] {
                    let sum = vmlal_n_s16(sums[t][v], pairs.0, *a.add(2 * t));
                    sums[t][v] = vmlal_n_s16(sum, pairs.1, *a.add(2 * t + 1));
                });
            });
        }
    }
    let w_scales = &operands.weight_scales[group * TILE_OUTPUTS + output..][..OUTPUTS];
    for (t, sums) in sums.iter().enumerate() {
        let a_scale = operands.activation_scales[group * TILE_TOKENS + token + t];
        let row = &mut tile[token + t][output..output + OUTPUTS];
        for (v, &sum) in sums.iter().enumerate() {
            // SAFETY: `row` and `w_scales` hold four vectors.
            unsafe {
                let out = row.as_mut_ptr().add(4 * v);
                let scaled = vmulq_f32(vcvtq_f32_s32(sum), vld1q_f32(w_scales.as_ptr().add(4 * v)));
                vst1q_f32(out, vaddq_f32(vld1q_f32(out), vmulq_n_f32(scaled, a_scale)));
            }
        }
    }
}
