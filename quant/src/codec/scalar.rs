//! What a type whose codes stand for one value each can express, and a block of it before it has its bytes: for encoders that
//! choose scales and codes by themselves.

use super::arithmetic::ROUNDING_MAGIC;
use super::iq4::{BOUNDS, VALUES};

/// The levels a code stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Levels {
    /// The code itself.
    Integers { low: i32, high: i32 },
    /// An entry of the table of IQ4_NL and IQ4_XS.
    Table,
}

/// How a sub-block's scale is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ScaleForm {
    /// In half precision, one for each block.
    Half,
    /// An integer of this range times the super-block's half-precision scale.
    Integer { low: i32, high: i32 },
    /// In half precision, one for each block, beside a code that stands for zero: the offset is the scale times that.
    HalfAndZeroPoint,
}

/// A type's grid: `value = scale * level - offset`, sub-block by sub-block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
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
    /// Blocks of 32 values with codes of this range, a scale and perhaps an offset in half precision.
    pub const fn block(low: i32, high: i32, offset: bool) -> Grid {
        Grid {
            sub: 32,
            subs: 1,
            levels: Levels::Integers { low, high },
            scale: ScaleForm::Half,
            max_offset: if offset { Some(0) } else { None },
        }
    }

    /// Super-blocks of 256 values, `sub` of which share a scale, with codes and scales of these ranges and perhaps
    /// offsets up to `max_offset`.
    pub const fn super_block(
        sub: usize,
        (low, high): (i32, i32),
        (scale_low, scale_high): (i32, i32),
        max_offset: Option<i32>,
    ) -> Grid {
        Grid {
            sub,
            subs: 256 / sub,
            levels: Levels::Integers { low, high },
            scale: ScaleForm::Integer { low: scale_low, high: scale_high },
            max_offset,
        }
    }

    /// The same with the levels of IQ4_NL's table.
    pub const fn with_table(self) -> Grid {
        Grid { levels: Levels::Table, ..self }
    }

    /// The grid of `dtype`, if it has one.
    #[cfg(test)]
    pub fn of(dtype: plmconv_formats::DType) -> Option<Grid> {
        use super::registry::{Guided, codec};
        match codec(dtype)?.guided {
            Guided::Scalar { grid, .. } => Some(*grid),
            Guided::Points { .. } | Guided::No => None,
        }
    }

    /// Values in a block.
    pub fn block_len(&self) -> usize {
        self.sub * self.subs
    }

    /// What a code stands for.
    #[inline(always)]
    pub fn level(&self, code: i32) -> f32 {
        match self.levels {
            Levels::Integers { .. } => code as f32,
            Levels::Table => f32::from(VALUES[code as usize]),
        }
    }

    /// The code whose level is nearest to `x`.
    #[inline(always)]
    pub fn code(&self, x: f32) -> i32 {
        match self.levels {
            // Clamping before rounding saves the check of a float-to-integer conversion's range; NaN becomes `low`.
            Levels::Integers { low, high } => {
                let x = x.max(low as f32).min(high as f32);
                ((x + ROUNDING_MAGIC).to_bits() as i32).wrapping_sub(ROUNDING_MAGIC.to_bits() as i32)
            }
            Levels::Table => {
                let mut index = 0;
                for step in [8, 4, 2, 1] {
                    index += if x < BOUNDS[index + step - 1] { 0 } else { step };
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

/// What was chosen for one block.
#[derive(Clone, Debug, Default)]
pub(crate) struct Block {
    /// In half precision.
    pub d: f32,
    /// In half precision: the offsets' unit, or for a block without super-block the offset itself; with a zero point
    /// that.
    pub dmin: f32,
    /// Per sub-block, where [`ScaleForm::Integer`].
    pub scales: Vec<i32>,
    /// Per sub-block, where there are offsets and [`ScaleForm::Integer`].
    pub offsets: Vec<i32>,
    /// Per value: codes as [`Levels`] counts them.
    pub codes: Vec<i32>,
}

impl Block {
    /// The codes from `first` on with `zero` added, as a type without negative codes stores them.
    pub fn stored_codes<const N: usize>(&self, first: usize, zero: u8) -> [u8; N] {
        let codes = &self.codes[first..first + N];
        std::array::from_fn(|i| (codes[i] + i32::from(zero)) as u8)
    }
}
