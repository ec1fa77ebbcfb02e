//! [`super::super::engine::importance_weights`] in lanes.

use super::super::SUPER_BLOCK;
use super::super::engine;
use super::{LANES, Lanes};

#[inline(always)]
pub(super) fn fill<L: Lanes>(lanes: L, factor: f32, x: &[f32], importance: &[f32], weights: &mut [f32]) {
    let whole = x.len() - x.len() % (LANES * SUPER_BLOCK);
    let groups = x[..whole].chunks_exact(LANES * SUPER_BLOCK);
    for (index, x) in groups.enumerate() {
        let first = index * LANES * SUPER_BLOCK;
        let squares = sums_of_squares(lanes, x);
        let blocks = x.chunks_exact(SUPER_BLOCK).zip(importance[first..].chunks_exact(SUPER_BLOCK));
        let blocks = blocks.zip(weights[first..].chunks_exact_mut(SUPER_BLOCK));
        for (((x, importance), weights), squares) in blocks.zip(squares) {
            engine::weights_of_block(factor, squares, x, importance, weights);
        }
    }
    engine::importance_weights(factor, &x[whole..], &importance[whole..], &mut weights[whole..]);
}

/// The sum over a super-block is one long chain of additions; sixteen of them run side by side.
#[inline(always)]
fn sums_of_squares<L: Lanes>(lanes: L, x: &[f32]) -> [f32; LANES] {
    let mut sums = lanes.splat(0.0);
    for column in (0..SUPER_BLOCK).step_by(8) {
        for x in lanes.columns(&x[column..], SUPER_BLOCK) {
            sums = lanes.add(sums, lanes.mul(x, x));
        }
    }
    lanes.to_array(sums)
}
