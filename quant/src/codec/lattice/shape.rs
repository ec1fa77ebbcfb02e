//! What a type can express and what a super-block of it is made of, for encoders that choose points by themselves.

use std::sync::LazyLock;

use super::SUPER_BLOCK;
use super::trie::Trie;

/// What the codes of eight values say besides magnitudes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signs {
    /// A sign for each value.
    Each,
    /// The number of minus signs is even.
    Even,
    /// None: levels are around zero and lie an eighth higher or lower, for this many words of eight values alike.
    Shifted { words: usize },
}

/// A type's grid: `scale · level` with a sign, or shifted.
#[derive(Debug)]
pub(crate) struct Shape {
    /// Values that share a point: eight or four.
    pub group: usize,
    /// Points, packed; see `grid`.
    pub points: &'static [u16],
    /// The same, made when first needed.
    pub trie: &'static LazyLock<Trie>,
    /// By code. Of shifted types without the shift.
    pub levels: &'static [f32],
    pub signs: Signs,
    /// Values that share a scale.
    pub sub: usize,
    /// Codes of scales are from 0 to this.
    pub top_code: u8,
    /// The scale that a code stands for under the super-block's own.
    pub scale: fn(d: f32, code: u8) -> f32,
}

#[cfg(test)]
impl Shape {
    /// What `dtype` can express, if its codes are points of a grid.
    pub fn of(dtype: plmconv_formats::DType) -> Option<&'static Shape> {
        use crate::codec::{Guided, codec};
        match codec(dtype)?.guided {
            Guided::Points { shape, .. } => Some(shape),
            Guided::Scalar { .. } | Guided::No => None,
        }
    }
}

/// What was chosen for a super-block; a type's `pack` lays it out and leaves alone what it has no place for.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// The super-block's scale, half precision.
    pub d: u16,
    /// Per sub-block, the code of its scale.
    pub scales: [u8; SUPER_BLOCK / 16],
    /// Per group, its point's index.
    pub points: [u16; SUPER_BLOCK / 4],
    /// Per eight values, a bit set for a negative one, the first lowest.
    pub signs: [u8; SUPER_BLOCK / 8],
    /// Per eight values, whether levels are shifted down. What shares a shift takes the first one's.
    pub down: [bool; SUPER_BLOCK / 8],
}

impl Default for Chosen {
    fn default() -> Chosen {
        Chosen { d: 0, scales: [0; 16], points: [0; 64], signs: [0; 32], down: [false; 32] }
    }
}
