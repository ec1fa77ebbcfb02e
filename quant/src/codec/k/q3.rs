//! Q3_K: 16 sub-blocks of 16 values, `value = d * (scale - 32) * (code - 4)` with 6-bit scales.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..32 | the codes' third bits |
//! | 32..96 | the codes' low 2 bits |
//! | 96..108 | the scales |
//! | 108..110 | `d`, half precision |
//!
//! Byte `l` of each 32 bytes of low bits holds those at `l`, `l + 32`, `l + 64` and `l + 96` of 128 values, lowest bits
//! first; bit `n` of byte `l` is the third bit of value `32 * n + l`. Low nibbles of scales `j` and `j + 8` share byte `j`;
//! the upper two bits of scales `j`, `j + 4`, `j + 8` and `j + 12` share byte `8 + j`.

use super::batch::{BATCH, for_each_batch};
use super::engine::{Engine, SymmetricFit, symmetric_one};
use super::layout::{Layout, Scales, write_block};
use super::{KQuant, MOST_SUBS, SUPER_BLOCK};
use crate::codec::arithmetic::{nearest_int, peak};
use crate::codec::field::Field;
use crate::codec::float::{half_bytes, half_value};
use crate::codec::registry::{Codec, Guided, ScaleFields};
use crate::codec::scalar::Grid;
use crate::codec::search::{Weighting, symmetric};

const SUB: usize = 16;
const SUBS: usize = SUPER_BLOCK / SUB;
const LOW: usize = 32;
const SCALES: usize = 96;
const D: usize = 108;
/// Codes and scales are stored with these added.
const HALF: i32 = 4;
const SCALE_HALF: i32 = 32;

pub(in crate::codec) static Q3_K: Codec = Codec {
    scales: ScaleFields::Halves([D, D]),
    encode: super::encode::<Q3K>,
    decode: super::decode::<Q3K>,
    guided: Guided::Scalar { grid: &GRID, pack: super::pack::<Q3K> },
};

static GRID: Grid = Grid::super_block(SUB, (-HALF, HALF - 1), (-SCALE_HALF, SCALE_HALF - 1), None);

pub(super) struct Q3K;

impl Layout for Q3K {
    const BYTES: usize = 110;
    const SUB: usize = SUB;
    const BITS: u32 = 3;
    const ZERO: u8 = HALF as u8;
    const MINS: bool = false;

    #[inline(always)]
    fn fields(run: usize) -> [Field; 2] {
        let low = Field { at: LOW + run / 4 * 32, shift: run as u32 % 4 * 2, bits: 2, place: 0 };
        [low, Field { at: 0, shift: run as u32, bits: 1, place: 2 }]
    }

    #[inline(always)]
    fn scales(block: &[u8]) -> Scales {
        let packed = &block[SCALES..D];
        let scale = |j: usize| {
            let low = (packed[j % 8] >> (j / 8 * 4)) & 0xf;
            let high = (packed[8 + j % 4] >> (j / 4 * 2)) & 3;
            (low | (high << 4)) as i8 - SCALE_HALF as i8
        };
        let d = half_value([block[D], block[D + 1]]);
        Scales { d, scale: std::array::from_fn(scale), ..Scales::default() }
    }

    #[inline(always)]
    fn put_scales(scales: &Scales, block: &mut [u8]) {
        block[D..][..2].copy_from_slice(&half_bytes(scales.d));
        let out = &mut block[SCALES..D];
        out.fill(0);
        for (j, &scale) in scales.scale.iter().enumerate() {
            let scale = (scale + SCALE_HALF as i8) as u8;
            out[j % 8] |= (scale & 0xf) << (j / 8 * 4);
            out[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
        }
    }
}

/// Before any scale was found ggml leaves the bytes zero, which reads as scales of -32 and is harmless with d = 0.
const NO_SCALES: Scales =
    Scales { d: 0.0, dmin: 0.0, scale: [-SCALE_HALF as i8; MOST_SUBS], min: [0; MOST_SUBS] };

impl KQuant for Q3K {
    fn encode<E: Engine>(engine: E, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let mut weights = vec![0.0; if importance.is_some() { BATCH * SUPER_BLOCK } else { 0 }];
        for_each_batch(values, importance, Q3K::BYTES, out, |batch| {
            let mut scales = [NO_SCALES; BATCH];
            let weights = &mut weights[..if batch.importance.is_some() { batch.x.len() } else { 0 }];
            if let Some(importance) = batch.importance {
                engine.importance_weights(2.0, batch.x, importance, weights);
                search_weighted(engine, batch.x, weights, &mut scales);
            } else {
                search_plain(engine, batch.x, &mut scales);
            }
            let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(Q3K::BYTES));
            for (index, ((x, out), scales)) in blocks.zip(&scales).enumerate() {
                write_block::<Q3K, E>(engine, x, scales, out, |sub, x, codes| {
                    let first = index * SUPER_BLOCK + sub * SUB;
                    if weights.is_empty() {
                        symmetric::fit_by_descent(HALF, x, codes);
                    } else {
                        let weighting = Weighting::Given(&weights[first..first + SUB]);
                        codes.copy_from_slice(&symmetric_one(HALF, x, weighting).1);
                    }
                });
            }
        });
    }
}

/// Sub-block scales by descent, then each relative to the one of largest magnitude.
fn search_plain<E: Engine>(engine: E, x: &[f32], out: &mut [Scales; BATCH]) {
    let mut fits = [0.0; BATCH * SUBS];
    let fits = &mut fits[..x.len() / SUB];
    engine.descent(HALF, x, fits);
    for (fits, scales) in fits.chunks_exact(SUBS).zip(out) {
        let peak = peak(fits.iter().copied());
        if peak != 0.0 {
            let inverse = -32.0 / peak;
            scales.d = 1.0 / inverse;
            for (scale, &fit) in scales.scale.iter_mut().zip(fits) {
                // C keeps the integer in a signed byte before it clamps.
                let level = nearest_int(inverse * fit) as i8;
                *scale = level.clamp(-SCALE_HALF as i8, SCALE_HALF as i8 - 1);
            }
        }
    }
}

/// Sub-block scales by weighted search, then a search over those in which a sub-block counts as its weights' sum.
fn search_weighted<E: Engine>(engine: E, x: &[f32], weights: &[f32], out: &mut [Scales; BATCH]) {
    let mut fits = [SymmetricFit::default(); BATCH * SUBS];
    let fits = &mut fits[..x.len() / SUB];
    engine.symmetric(HALF, x, Weighting::Given(weights), fits);
    let (subs, supers) = (fits.len(), fits.len() / SUBS);
    let mut values = [0.0; BATCH * SUBS];
    let mut sums = [0.0; BATCH * SUBS];
    let mut codes = [0; BATCH * SUBS];
    let mut units = [0.0; BATCH];
    for (index, fit) in fits.iter().enumerate() {
        values[index] = fit.scale;
        sums[index] = fit.weight;
    }
    let codes = &mut codes[..subs];
    engine.symmetric_codes(SCALE_HALF, &values[..subs], &sums[..subs], codes, &mut units[..supers]);
    for ((scales, codes), &d) in out.iter_mut().zip(codes.as_chunks::<SUBS>().0).zip(&units[..supers]) {
        scales.d = d;
        scales.scale = codes.map(|code| code as i8 - SCALE_HALF as i8);
    }
}
