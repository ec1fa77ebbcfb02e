//! Q4_K and Q5_K: 8 sub-blocks of 32 values, `value = d * scale * code - dmin * min` with 6-bit scales and mins.
//!
//! | bytes (Q4_K) | bytes (Q5_K) | what |
//! | --- | --- | --- |
//! | 0..2 | 0..2 | `d`, half precision |
//! | 2..4 | 2..4 | `dmin`, half precision |
//! | 4..16 | 4..16 | 8 scales and 8 mins of 6 bits |
//! | | 16..48 | the codes' fifth bits |
//! | 16..144 | 48..176 | the codes' low 4 bits |
//!
//! Byte `l` of each 32 bytes of low bits holds those at `l` and `l + 32` of 64 values; bit `n` of high byte `l` is the fifth
//! bit of value `32 * n + l`. Scales and mins 0 to 3 take the low 6 bits of a byte each; 4 to 7 share the nibbles of the
//! last four bytes, and their upper two bits are on top of the first eight.

use super::affine::{self, AffineType};
use super::engine::Engine;
use super::layout::{Layout, Scales};
use super::{KQuant, MOST_SUBS};
use crate::codec::field::Field;
use crate::codec::float::{half_bytes, half_value};
use crate::codec::registry::{Codec, Guided, ScaleFields};
use crate::codec::scalar::Grid;
use crate::codec::search::Weighting;
use crate::codec::search::affine::AffineGrid;

const D: usize = 0;
const DMIN: usize = 2;
const SCALES: usize = 4;
/// Where the codes begin: with the fifth bits if there are some.
const CODES: usize = 16;
/// The largest 6-bit scale.
const MAX_SCALE: u8 = 63;

pub(in crate::codec) static Q4_K: Codec = Codec {
    scales: ScaleFields::Halves([D, DMIN]),
    encode: super::encode::<Q4K>,
    decode: super::decode::<Q4K>,
    guided: Guided::Scalar {
        grid: &Grid::super_block(32, (0, 15), (0, MAX_SCALE as i32), Some(MAX_SCALE as i32)),
        pack: super::pack::<Q4K>,
    },
};

pub(in crate::codec) static Q5_K: Codec = Codec {
    scales: ScaleFields::Halves([D, DMIN]),
    encode: super::encode::<Q5K>,
    decode: super::decode::<Q5K>,
    guided: Guided::Scalar {
        grid: &Grid::super_block(32, (0, 31), (0, MAX_SCALE as i32), Some(MAX_SCALE as i32)),
        pack: super::pack::<Q5K>,
    },
};

/// Codes of four bits, or of five.
pub(super) struct Bits<const FIFTH: bool>;

pub(super) type Q4K = Bits<false>;
pub(super) type Q5K = Bits<true>;

impl<const FIFTH: bool> Bits<FIFTH> {
    const LOW: usize = if FIFTH { CODES + 32 } else { CODES };
}

impl<const FIFTH: bool> Layout for Bits<FIFTH> {
    const BYTES: usize = Self::LOW + 128;
    const SUB: usize = 32;
    const BITS: u32 = if FIFTH { 5 } else { 4 };
    const ZERO: u8 = 0;
    const MINS: bool = true;

    #[inline(always)]
    fn fields(run: usize) -> [Field; 2] {
        let low = Field { at: Self::LOW + run / 2 * 32, shift: run as u32 % 2 * 4, bits: 4, place: 0 };
        let high = Field { at: CODES, shift: run as u32, bits: 1, place: 4 };
        [low, if FIFTH { high } else { Field::NONE }]
    }

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        let (low, middle, high) = (word(SCALES), word(SCALES + 4), word(SCALES + 8));
        let spread = |six: u32, four: u32| {
            let upper = (four & 0x0f0f_0f0f) | ((six >> 2) & 0x3030_3030);
            let all = u128::from(six & 0x3f3f_3f3f) | u128::from(upper) << 32;
            all.to_le_bytes()
        };
        Scales {
            d: half_value([block[D], block[D + 1]]),
            dmin: half_value([block[DMIN], block[DMIN + 1]]),
            scale: spread(low, high).map(|scale| scale as i8),
            min: spread(middle, high >> 4),
        }
    }

    #[inline(always)]
    fn put_scales(scales: &Scales, block: &mut [u8]) {
        block[D..][..2].copy_from_slice(&half_bytes(scales.d));
        block[DMIN..][..2].copy_from_slice(&half_bytes(scales.dmin));
        let out = &mut block[SCALES..CODES];
        for j in 0..MOST_SUBS / 2 {
            let (scale, min) = (scales.scale[j] as u8, scales.min[j]);
            if j < 4 {
                out[j] = scale;
                out[j + 4] = min;
            } else {
                out[j + 4] = (scale & 0xf) | ((min & 0xf) << 4);
                out[j - 4] |= (scale >> 4) << 6;
                out[j] |= (min >> 4) << 6;
            }
        }
    }
}

impl<const FIFTH: bool> AffineType for Bits<FIFTH> {
    const PLAIN: AffineGrid = if FIFTH {
        AffineGrid { max_code: 31, first: -0.5, step: 0.1, steps: 15, absolute: false }
    } else {
        AffineGrid { max_code: 15, first: -1.0, step: 0.1, steps: 20, absolute: false }
    };
    const WEIGHTING: Weighting<'static> = Weighting::SpreadPlusMagnitude;
    const SPREAD: f32 = 2.0;
    const MAX_SCALE: u8 = MAX_SCALE;
    const CUT: [u8; 2] = [MAX_SCALE, if FIFTH { MAX_SCALE } else { u8::MAX }];
}

impl<const FIFTH: bool> KQuant for Bits<FIFTH> {
    fn encode<E: Engine>(engine: E, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        affine::encode::<Self, E, 32, 8>(engine, values, importance, out);
    }
}
