//! Q2_K: 16 sub-blocks of 16 values, `value = d * scale * code - dmin * min` with 4-bit scales and mins.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..16 | per sub-block: scale in the low, min in the high nibble |
//! | 16..80 | the 2-bit codes |
//! | 80..82 | `d`, half precision |
//! | 82..84 | `dmin`, half precision |
//!
//! Byte `l` of each 32 bytes of codes holds those at `l`, `l + 32`, `l + 64` and `l + 96` of 128 values, lowest bits first.

use super::KQuant;
use super::affine::{self, AffineType};
use super::engine::Engine;
use super::layout::{Layout, Scales};
use crate::codec::field::Field;
use crate::codec::float::{half_bytes, half_value};
use crate::codec::registry::{Codec, Guided, ScaleFields};
use crate::codec::scalar::Grid;
use crate::codec::search::Weighting;
use crate::codec::search::affine::AffineGrid;

const CODES: usize = 16;
const D: usize = 80;
const DMIN: usize = 82;

pub(in crate::codec) static Q2_K: Codec = Codec {
    scales: ScaleFields::Halves([D, DMIN]),
    encode: super::encode::<Q2K>,
    decode: super::decode::<Q2K>,
    guided: Guided::Scalar { grid: &GRID, pack: super::pack::<Q2K> },
};

static GRID: Grid = Grid::super_block(16, (0, 3), (0, 15), Some(15));

pub(super) struct Q2K;

impl Layout for Q2K {
    const BYTES: usize = 84;
    const SUB: usize = 16;
    const BITS: u32 = 2;
    const ZERO: u8 = 0;
    const MINS: bool = true;

    #[inline(always)]
    fn fields(run: usize) -> [Field; 2] {
        let shift = run as u32 % 4 * 2;
        [Field { at: CODES + run / 4 * 32, shift, bits: 2, place: 0 }, Field::NONE]
    }

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        Scales {
            d: half_value([block[D], block[D + 1]]),
            dmin: half_value([block[DMIN], block[DMIN + 1]]),
            scale: std::array::from_fn(|sub| (block[sub] & 0xf) as i8),
            min: std::array::from_fn(|sub| block[sub] >> 4),
        }
    }

    #[inline(always)]
    fn put_scales(scales: &Scales, block: &mut [u8]) {
        for (byte, (&scale, min)) in block.iter_mut().zip(scales.scale.iter().zip(&scales.min)) {
            *byte = scale as u8 | min << 4;
        }
        block[D..][..2].copy_from_slice(&half_bytes(scales.d));
        block[DMIN..][..2].copy_from_slice(&half_bytes(scales.dmin));
    }
}

impl AffineType for Q2K {
    const PLAIN: AffineGrid = AffineGrid { max_code: 3, first: -0.5, step: 0.1, steps: 15, absolute: true };
    const WEIGHTING: Weighting<'static> = Weighting::Magnitude;
    const SPREAD: f32 = 1.0;
    const MAX_SCALE: u8 = 15;
    const CUT: [u8; 2] = [u8::MAX; 2];
}

impl KQuant for Q2K {
    fn encode<E: Engine>(engine: E, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        affine::encode::<Q2K, E, 16, 16>(engine, values, importance, out);
    }
}
