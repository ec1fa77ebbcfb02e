//! Q6_K: 16 sub-blocks of 16 values, `value = d * scale * (code - 32)` with 8-bit scales.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..128 | the codes' low 4 bits |
//! | 128..192 | the codes' high 2 bits |
//! | 192..208 | the scales, signed |
//! | 208..210 | `d`, half precision |
//!
//! In each half of 128 values, low byte `l` holds the nibbles of `l` and `l + 64`, and high byte `l` the bit pairs of `l`,
//! `l + 32`, `l + 64` and `l + 96`.

use super::batch::{BATCH, for_each_batch};
use super::engine::{Engine, SymmetricFit};
use super::layout::{Layout, Scales, write_block};
use super::{KQuant, SUPER_BLOCK};
use crate::codec::arithmetic::{nearest_int, peak};
use crate::codec::field::Field;
use crate::codec::float::{half_bytes, half_value};
use crate::codec::registry::{Codec, Guided, ScaleFields};
use crate::codec::scalar::Grid;
use crate::codec::search::{Weighting, ZERO_BELOW};

const SUB: usize = 16;
const SUBS: usize = SUPER_BLOCK / SUB;
const HIGH: usize = 128;
const SCALES: usize = 192;
const D: usize = 208;
/// Codes are stored with this added.
const HALF: i32 = 32;

pub(in crate::codec) static Q6_K: Codec = Codec {
    scales: ScaleFields::Halves([D, D]),
    encode: super::encode::<Q6K>,
    decode: super::decode::<Q6K>,
    guided: Guided::Scalar { grid: &GRID, pack: super::pack::<Q6K> },
};

static GRID: Grid = Grid::super_block(SUB, (-HALF, HALF - 1), (-128, 127), None);

pub(super) struct Q6K;

impl Layout for Q6K {
    const BYTES: usize = 210;
    const SUB: usize = SUB;
    const BITS: u32 = 6;
    const ZERO: u8 = HALF as u8;
    const MINS: bool = false;

    #[inline(always)]
    fn fields(run: usize) -> [Field; 2] {
        let (half, part) = (run / 4, run % 4);
        let low = Field { at: half * 64 + part % 2 * 32, shift: part as u32 / 2 * 4, bits: 4, place: 0 };
        [low, Field { at: HIGH + half * 32, shift: part as u32 * 2, bits: 2, place: 4 }]
    }

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let d = half_value([block[D], block[D + 1]]);
        Scales { d, scale: std::array::from_fn(|sub| block[SCALES + sub] as i8), ..Scales::default() }
    }

    #[inline(always)]
    fn put_scales(scales: &Scales, block: &mut [u8]) {
        block[SCALES..D].copy_from_slice(&scales.scale.map(|scale| scale as u8));
        block[D..][..2].copy_from_slice(&half_bytes(scales.d));
    }
}

impl KQuant for Q6K {
    fn encode<E: Engine>(engine: E, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        for_each_batch(values, importance, Q6K::BYTES, out, |batch| {
            let mut fits = [SymmetricFit::default(); BATCH * SUBS];
            let fits = &mut fits[..batch.len() * SUBS];
            // Unlike the smaller types, this one takes the importance as it is.
            let weighting = batch.importance.map_or(Weighting::Square, Weighting::Given);
            engine.symmetric(HALF, batch.x, weighting, fits);
            let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(Q6K::BYTES));
            for (index, ((x, out), fits)) in blocks.zip(fits.chunks_exact(SUBS)).enumerate() {
                let first = index * SUPER_BLOCK;
                let weighting = weighting.slice(first..first + SUPER_BLOCK);
                match quantize_scales(fits) {
                    None => out.fill(0),
                    Some(scales) => {
                        // One large value brings many sub-blocks without a scale, so they are searched together.
                        let mut searched = None;
                        write_block::<Q6K, E>(engine, x, &scales, out, |sub, _, codes| {
                            let all = searched.get_or_insert_with(|| searched_codes(engine, x, weighting));
                            codes.copy_from_slice(&all[sub * SUB..][..SUB]);
                        });
                    }
                }
            }
        });
    }
}

/// The scales relative to the one of largest magnitude; `None` if that is as good as zero.
fn quantize_scales(fits: &[SymmetricFit]) -> Option<Scales> {
    let peak = peak(fits.iter().map(|fit| fit.scale));
    if peak.abs() < ZERO_BELOW {
        return None;
    }
    let inverse = -128.0 / peak;
    let mut scales = Scales { d: 1.0 / inverse, ..Scales::default() };
    for (scale, fit) in scales.scale.iter_mut().zip(fits) {
        *scale = nearest_int(inverse * fit.scale).min(127) as i8;
    }
    Some(scales)
}

/// The codes of the search itself, for one super-block.
fn searched_codes<E: Engine>(engine: E, x: &[f32], weighting: Weighting<'_>) -> [u8; SUPER_BLOCK] {
    let mut weights = [0.0; SUPER_BLOCK];
    let mut codes = [0; SUPER_BLOCK];
    weighting.fill(x, &mut weights);
    engine.symmetric_codes(HALF, x, &weights, &mut codes, &mut [0.0; SUBS]);
    codes
}
