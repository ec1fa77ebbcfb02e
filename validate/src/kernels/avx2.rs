//! AVX2. An integer tile is computed as sub-tiles of 6 tokens by 16 outputs: 12 of the 16 registers.

use std::arch::x86_64::*;

use super::{GROUP, IntOperands, TILE_OUTPUTS, TILE_TOKENS, Tile};

/// Tokens of a sub-tile.
const TOKENS: usize = 6;
/// Outputs of a sub-tile.
const OUTPUTS: usize = 16;

#[target_feature(enable = "avx2")]
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

#[target_feature(enable = "avx2")]
fn add_group(operands: &IntOperands<'_>, group: usize, token: usize, output: usize, tile: &mut Tile) {
    let mut sums = [[_mm256_setzero_si256(); 2]; TOKENS];
    for step in group * GROUP / 2..(group + 1) * GROUP / 2 {
        // SAFETY: step < groups * GROUP / 2 (the caller checked the slices), the sub-tile is within the tile.
        unsafe {
            let a = operands.activations.as_ptr().add((step * TILE_TOKENS + token) * 2);
            let w = operands.weights.as_ptr().add((step * TILE_OUTPUTS + output) * 2);
            let row = [_mm256_loadu_si256(w.cast()), _mm256_loadu_si256(w.add(16).cast())];
            unroll!(t in [0 1 2 3 4 5] {
                let pair = _mm256_set1_epi32(a.add(2 * t).cast::<i32>().read_unaligned());
                sums[t][0] = _mm256_add_epi32(sums[t][0], _mm256_madd_epi16(pair, row[0]));
                sums[t][1] = _mm256_add_epi32(sums[t][1], _mm256_madd_epi16(pair, row[1]));
            });
        }
    }
    let w_scales = &operands.weight_scales[group * TILE_OUTPUTS + output..][..OUTPUTS];
    unroll!(t in [0 1 2 3 4 5] {
        let a_scale = _mm256_set1_ps(operands.activation_scales[group * TILE_TOKENS + token + t]);
        let row = &mut tile[token + t][output..output + OUTPUTS];
        unroll!(half in [0 1] {
            // SAFETY: `row` and `w_scales` hold two vectors.
            unsafe {
                let out = row.as_mut_ptr().add(8 * half);
                let scale = _mm256_loadu_ps(w_scales.as_ptr().add(8 * half));
                let sum = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[t][half]), scale);
                _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), _mm256_mul_ps(sum, a_scale)));
            }
        });
    });
}
