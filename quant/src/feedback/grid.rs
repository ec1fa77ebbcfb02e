//! What a block type can express: `value = scale * level - offset`, sub-block by sub-block.

use half::f16;
use plmconv_formats::DType;

use super::pack::Loose;
use crate::codec::{IQ4_BOUNDS, IQ4_VALUES};

/// The longest sub-block of any type of ggml.
pub(super) const MAX_SUB: usize = 32;
/// The longest block of an integer grid.
pub(super) const MAX_BLOCK: usize = 256;

/// Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
pub(super) const ROUNDING: f32 = 12_582_912.0;

/// The levels a code stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Levels {
    /// The code itself.
    Integers { low: i32, high: i32 },
    /// An entry of the table of IQ4_NL and IQ4_XS.
    Table,
}

/// How a sub-block's scale is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ScaleForm {
    /// In half precision, one for each block.
    Half,
    /// An integer of this range times the super-block's half-precision scale.
    Integer { low: i32, high: i32 },
    /// In half precision, one for each block, beside a code that stands for zero: the offset is the scale times that.
    HalfAndZeroPoint,
}

/// How a block is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As this type of ggml.
    Ggml(DType),
    /// [`Loose`](super::pack::Loose): scale, zero point and one byte a code. The grid's middle is added to codes.
    Loose { middle: i32 },
}

/// A block type's grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    pub form: Form,
    /// Values in a sub-block.
    pub sub: usize,
    /// Sub-blocks in a block.
    pub subs: usize,
    pub levels: Levels,
    pub scale: ScaleForm,
    /// Offsets exist: in half precision, or integers (or zero points) from 0 to this.
    pub max_offset: Option<i32>,
}

impl Grid {
    /// The grid of `dtype`, if feedback knows it.
    pub fn of(dtype: DType) -> Option<Grid> {
        use DType::*;
        let form = Form::Ggml(dtype);
        let small = |low, high, offset: bool| Grid {
            form,
            sub: 32,
            subs: 1,
            levels: Levels::Integers { low, high },
            scale: ScaleForm::Half,
            max_offset: offset.then_some(0),
        };
        let large = |sub, (low, high), (scale_low, scale_high), max_offset| Grid {
            form,
            sub,
            subs: 256 / sub,
            levels: Levels::Integers { low, high },
            scale: ScaleForm::Integer { low: scale_low, high: scale_high },
            max_offset,
        };
        Some(match dtype {
            Q4_0 => small(-8, 7, false),
            Q4_1 => small(0, 15, true),
            Q5_0 => small(-16, 15, false),
            Q5_1 => small(0, 31, true),
            Q8_0 => small(-127, 127, false),
            Iq4Nl => Grid { levels: Levels::Table, ..small(0, 15, false) },
            Iq4Xs => Grid { levels: Levels::Table, ..large(32, (0, 15), (-32, 31), None) },
            Q2K => large(16, (0, 3), (0, 15), Some(15)),
            Q3K => large(16, (-4, 3), (-32, 31), None),
            Q4K => large(32, (0, 15), (0, 63), Some(63)),
            Q5K => large(32, (0, 31), (0, 63), Some(63)),
            Q6K => large(16, (-32, 31), (-128, 127), None),
            _ => return None,
        })
    }

    /// An integer grid with a scale for each block. Scales are half-precision numbers whatever type holds them, and the
    /// lowest code of 8 symmetric bits is not used: blocks of 32 are then those of Q4_0 and Q8_0.
    pub fn of_blocks(grid: &crate::grid::Grid) -> Grid {
        let middle = grid.middle();
        let (low, high, max_offset, scale) = match (grid.symmetric, grid.bits) {
            (false, _) => (0, grid.max_code(), Some(grid.max_code()), ScaleForm::HalfAndZeroPoint),
            (true, 8) => (1 - middle, middle - 1, None, ScaleForm::Half),
            (true, _) => (-middle, middle - 1, None, ScaleForm::Half),
        };
        Grid {
            form: Form::Loose { middle: if grid.symmetric { middle } else { 0 } },
            sub: grid.block_size,
            subs: 1,
            levels: Levels::Integers { low, high },
            scale,
            max_offset,
        }
    }

    /// Bytes of a block as it is written.
    pub fn block_bytes(&self) -> usize {
        match self.form {
            Form::Ggml(dtype) => dtype.block_bytes(),
            Form::Loose { .. } => Loose::HEAD + self.sub,
        }
    }

    /// What an error calls it: the type of ggml, or that of the scales.
    pub fn dtype(&self) -> DType {
        match self.form {
            Form::Ggml(dtype) => dtype,
            Form::Loose { .. } => DType::F16,
        }
    }

    /// Values in a block.
    pub fn block(&self) -> usize {
        self.sub * self.subs
    }

    /// What a code stands for.
    #[inline(always)]
    pub fn level(&self, code: i32) -> f32 {
        match self.levels {
            Levels::Integers { .. } => code as f32,
            Levels::Table => f32::from(IQ4_VALUES[code as usize]),
        }
    }

    /// The code whose level is nearest to `x`.
    #[inline(always)]
    pub fn code(&self, x: f32) -> i32 {
        match self.levels {
            // Clamping before rounding saves the check of a float-to-integer conversion's range; NaN becomes `low`.
            Levels::Integers { low, high } => {
                let x = x.max(low as f32).min(high as f32);
                ((x + ROUNDING).to_bits() as i32).wrapping_sub(ROUNDING.to_bits() as i32)
            }
            Levels::Table => {
                let mut index = 0;
                for step in [8, 4, 2, 1] {
                    index += if x < IQ4_BOUNDS[index + step - 1] { 0 } else { step };
                }
                index as i32
            }
        }
    }

    /// The level of largest magnitude.
    pub fn peak_level(&self) -> f32 {
        match self.levels {
            Levels::Integers { low, high } => low.abs().max(high) as f32,
            Levels::Table => 127.0,
        }
    }

    /// Largest minus smallest level.
    pub fn span(&self) -> f32 {
        match self.levels {
            Levels::Integers { low, high } => (high - low) as f32,
            Levels::Table => 240.0,
        }
    }
}

/// `x` as half precision stores it.
pub(super) fn half(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

/// What was chosen for one block; see [`pack`](super::pack) for its bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    /// In half precision.
    pub d: f32,
    /// In half precision: the offsets' unit, or for a block without super-block the offset itself; with a zero point
    /// that.
    pub dmin: f32,
    /// Per sub-block, where [`ScaleForm::Integer`].
    pub scales: Vec<i32>,
    /// Per sub-block, where there are offsets and [`ScaleForm::Integer`].
    pub offsets: Vec<i32>,
    /// Per value.
    pub codes: Vec<i32>,
}
