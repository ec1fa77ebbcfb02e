//! Plain Rust: the twin that every other kernel is tested against.

use super::{GROUP, IntOperands, TILE_OUTPUTS, TILE_TOKENS, Tile};

pub(super) fn tile_i16(operands: IntOperands<'_>, tile: &mut Tile) {
    *tile = [[0.0; TILE_OUTPUTS]; TILE_TOKENS];
    let groups = operands.activations.chunks_exact(GROUP * TILE_TOKENS);
    for (group, activations) in groups.enumerate() {
        let weights = &operands.weights[group * GROUP * TILE_OUTPUTS..][..GROUP * TILE_OUTPUTS];
        let a_scales = &operands.activation_scales[group * TILE_TOKENS..][..TILE_TOKENS];
        let w_scales = &operands.weight_scales[group * TILE_OUTPUTS..][..TILE_OUTPUTS];
        for (token, row) in tile.iter_mut().enumerate() {
            let mut sums = [0i32; TILE_OUTPUTS];
            for k in 0..GROUP / 2 {
                let a = &activations[(k * TILE_TOKENS + token) * 2..][..2];
                let w = &weights[k * TILE_OUTPUTS * 2..][..TILE_OUTPUTS * 2];
                for (sum, w) in sums.iter_mut().zip(w.as_chunks::<2>().0) {
                    *sum += a[0] as i32 * w[0] as i32 + a[1] as i32 * w[1] as i32;
                }
            }
            for ((out, sum), w_scale) in row.iter_mut().zip(sums).zip(w_scales) {
                *out += sum as f32 * w_scale * a_scales[token];
            }
        }
    }
}
