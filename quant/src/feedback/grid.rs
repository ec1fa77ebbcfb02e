//! What a block can express: a type's grid as its file has it, or an integer grid with a scale for each block.

use half::f16;

pub(super) use crate::codec::scalar::{Block, Grid, Levels, ScaleForm};

/// The longest sub-block of any type of ggml.
pub(super) const MAX_SUB: usize = 32;
/// The longest block of an integer grid.
pub(super) const MAX_BLOCK: usize = 256;

/// An integer grid with a scale for each block. Scales are half-precision numbers whatever type holds them, and the
/// lowest code of 8 symmetric bits is not used: blocks of 32 are then those of Q4_0 and Q8_0.
pub(super) fn of_blocks(grid: &crate::grid::Grid) -> Grid {
    let middle = grid.middle();
    let (low, high, max_offset, scale) = match (grid.symmetric, grid.bits) {
        (false, _) => (0, grid.max_code(), Some(grid.max_code()), ScaleForm::HalfAndZeroPoint),
        (true, 8) => (1 - middle, middle - 1, None, ScaleForm::Half),
        (true, _) => (-middle, middle - 1, None, ScaleForm::Half),
    };
    Grid { sub: grid.block_size, subs: 1, levels: Levels::Integers { low, high }, scale, max_offset }
}

/// `x` as half precision stores it.
pub(super) fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}
