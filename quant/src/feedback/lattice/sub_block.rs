//! The choice of a sub-block's scale, and its words one after another under it.

use super::word::{Corner, Levels, SHARES, WORD, Word};
use super::{Lattice, MOST_SUB};
use crate::codec::Signs;
use crate::feedback::line::charge;
use crate::feedback::sweep::nearest_first;

/// A rounded sub-block.
#[derive(Clone, Copy, Default)]
pub(super) struct SubBlock {
    pub loss: f32,
    /// Of its scale.
    pub code: u8,
    pub words: [Word; MOST_SUB / WORD],
    /// Of each word, whether its levels are shifted down.
    pub down: [bool; MOST_SUB / WORD],
}

/// The part of a factor that belongs to a sub-block.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    /// From the sub-block's first column on, in rows of `stride`.
    pub factor: &'a [f32],
    pub stride: usize,
    /// Of each word.
    pub corners: &'a [Corner],
}

impl Lattice {
    /// The scale (and shift) near `start` under which rounding a sub-block's targets `x` costs least, unless that is
    /// `limit` or more. `d` is the super-block's scale.
    #[inline(always)]
    pub(super) fn choose<const L: usize>(
        &self,
        x: &[f32],
        part: Part<'_>,
        d: f32,
        start: f32,
        limit: f32,
    ) -> Option<SubBlock> {
        let top = i32::from(self.shape.top_code);
        // Scales are `unit · (code + 1/2)`.
        let unit = (self.shape.scale)(d, 1) - (self.shape.scale)(d, 0);
        let nearest = if unit > 0.0 { (start / unit - 0.5).round().clamp(0.0, top as f32) as i32 } else { 0 };
        self.choose_near::<L>(x, part, d, nearest, self.search.reach, limit)
    }

    /// The same with the code of the scale to begin with, and how far others may be.
    #[inline(always)]
    pub(super) fn choose_near<const L: usize>(
        &self,
        x: &[f32],
        part: Part<'_>,
        d: f32,
        nearest: i32,
        reach: i32,
        limit: f32,
    ) -> Option<SubBlock> {
        let top = i32::from(self.shape.top_code);
        let shifts: &[bool] = match self.shape.signs {
            Signs::Shifted { words: 2.. } => &[false, true],
            _ => &[false],
        };
        let codes = nearest_first(reach).map(|step| nearest + step).filter(|code| (0..=top).contains(code));
        let mut best: Option<SubBlock> = None;
        for code in codes {
            for &down in shifts {
                let limit = best.as_ref().map_or(limit, |best| best.loss);
                best = self.round_sub_block::<L>(x, part, d, code as u8, down, limit).or(best);
            }
        }
        best
    }

    /// Rounds a sub-block under one scale (and shift), unless that costs `limit` or more.
    #[inline(always)]
    fn round_sub_block<const L: usize>(
        &self,
        x: &[f32],
        part: Part<'_>,
        d: f32,
        code: u8,
        down: bool,
        limit: f32,
    ) -> Option<SubBlock> {
        let scale = (self.shape.scale)(d, code);
        let len = x.len();
        let mut rest = [0.0; MOST_SUB];
        rest[..len].copy_from_slice(x);
        let mut found = SubBlock { code, down: [down; MOST_SUB / WORD], ..SubBlock::default() };
        let levels = self.levels::<L>(scale, down);
        for index in 0..len / WORD {
            let x = &rest.as_chunks::<WORD>().0[index];
            let corner = &part.corners[index];
            let left = limit - found.loss;
            let mut best = levels.nearest(corner, x, left, self.search.nodes);
            if self.shape.signs == (Signs::Shifted { words: 1 }) {
                let left = best.map_or(left, |best| best.loss);
                let other = self.levels::<L>(scale, true).nearest(corner, x, left, self.search.nodes);
                found.down[index] = other.is_some();
                best = other.or(best);
            }
            let best = best?;
            found.loss += best.loss;
            let at = WORD * index;
            charge(part.factor, part.stride, &mut rest[..len], at, at + WORD, &best.errors);
            found.words[index] = best;
        }
        Some(found)
    }

    #[inline(always)]
    fn levels<const L: usize>(&self, scale: f32, down: bool) -> Levels<'_, L> {
        let shape = self.shape;
        let shift = match shape.signs {
            Signs::Shifted { .. } if down => -SHIFT,
            Signs::Shifted { .. } => SHIFT,
            _ => 0.0,
        };
        let mut values = [0.0; L];
        for (code, level) in shape.levels.iter().enumerate() {
            values[code] = scale * (level + shift);
            values[L / 2 + code] = -values[code];
        }
        let signed = matches!(shape.signs, Signs::Each | Signs::Even);
        Levels {
            trie: self.trie,
            group: shape.group,
            values,
            signed,
            even: shape.signs == Signs::Even,
            shares: SHARES,
        }
    }
}

/// How far shifted levels lie off.
const SHIFT: f32 = 0.125;
