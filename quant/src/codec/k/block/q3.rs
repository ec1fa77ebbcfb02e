//! Q3_K: 16 sub-blocks of 16 values, `value = d * (scale - 32) * (code - 4)` with 6-bit scales.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..32 | the codes' third bits |
//! | 32..96 | the codes' low 2 bits |
//! | 96..108 | the scales |
//! | 108..110 | `d`, half precision |

use std::ops::Range;

use super::super::SUPER_BLOCK;
use super::super::batch::{BATCH, for_each_batch};
use super::super::engine::{Engine, Levels, Steps, SymmetricFit, symmetric_one};
use super::{pack_bit_planes, pack_two_bits};
use crate::codec::arithmetic::{nearest_int, peak};
use crate::codec::float::{half_bytes, half_value};
use crate::codec::search::{Weighting, symmetric};

const SUB: usize = 16;
const SUBS: usize = SUPER_BLOCK / SUB;
const HIGH: Range<usize> = 0..32;
const LOW: Range<usize> = 32..96;
const SCALES: Range<usize> = 96..108;
const D: Range<usize> = 108..110;
pub(in super::super) const BLOCK_BYTES: usize = D.end;
/// Codes and scales are stored with these added.
const HALF: i32 = 4;
const SCALE_HALF: i32 = 32;

/// Quantized scales of one super-block.
#[derive(Clone, Copy, Default)]
struct Scales {
    d: f32,
    /// From 0 to 63.
    scale: [u8; SUBS],
}

pub(in super::super) fn encode<E: Engine>(
    engine: E,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let mut weights = vec![0.0; if importance.is_some() { BATCH * SUPER_BLOCK } else { 0 }];
    for_each_batch(values, importance, BLOCK_BYTES, out, |batch| {
        let mut scales = [Scales::default(); BATCH];
        let weights = &mut weights[..if batch.importance.is_some() { batch.x.len() } else { 0 }];
        if let Some(importance) = batch.importance {
            engine.importance_weights(2.0, batch.x, importance, weights);
            search_weighted(engine, batch.x, weights, &mut scales);
        } else {
            search_plain(engine, batch.x, &mut scales);
        }
        let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(BLOCK_BYTES));
        for (index, ((x, out), scales)) in blocks.zip(&scales).enumerate() {
            write_block(engine, x, scales, out, |sub, x| {
                let first = index * SUPER_BLOCK + sub * SUB;
                let mut codes = [0; SUB];
                if weights.is_empty() {
                    symmetric::fit_by_descent(HALF, x, &mut codes);
                } else {
                    codes = symmetric_one(HALF, x, Weighting::Given(&weights[first..first + SUB])).1;
                }
                codes
            });
        }
    });
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
                let level = i32::from(nearest_int(inverse * fit) as i8);
                *scale = (level.clamp(-SCALE_HALF, SCALE_HALF - 1) + SCALE_HALF) as u8;
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
    for ((scales, &scale), &d) in out.iter_mut().zip(codes.as_chunks().0).zip(&units[..supers]) {
        *scales = Scales { d, scale };
    }
}

/// Chooses the final codes and packs. `search_codes` gives the codes of a sub-block whose stored scale is zero: no
/// better codes exist, so the reference encoder leaves those of its search.
#[inline(always)]
fn write_block<E: Engine>(
    engine: E,
    x: &[f32],
    scales: &Scales,
    out: &mut [u8],
    search_codes: impl Fn(usize, &[f32]) -> [u8; SUB],
) {
    let d = half_bytes(scales.d);
    out[D].copy_from_slice(&d);
    pack_scales(scales, &mut out[SCALES]);
    let stored = unpack_scales(&out[SCALES]);
    let d = half_value(d);
    let steps = Steps { step: stored.map(|scale| d * f32::from(scale)), offset: [0.0; SUBS] };
    let mut codes = [0; SUPER_BLOCK];
    engine.requantize(Levels { low: -HALF, high: HALF - 1 }, x, &steps, &mut codes);
    for (sub, (x, codes)) in x.chunks_exact(SUB).zip(codes.chunks_exact_mut(SUB)).enumerate() {
        if steps.step[sub] == 0.0 {
            codes.copy_from_slice(&search_codes(sub, x));
        }
    }
    if let Some(high) = out[HIGH].first_chunk_mut() {
        pack_bit_planes::<2>(&codes, high);
    }
    let low = codes.map(|code| code & 3);
    pack_two_bits(&low, &mut out[LOW]);
}

/// Low nibbles of scales `j` and `j + 8` share byte `j`; the upper two bits of scales `j`, `j + 4`, `j + 8` and
/// `j + 12` share byte `8 + j`.
fn pack_scales(scales: &Scales, out: &mut [u8]) {
    // Before any scale was found ggml leaves the bytes zero, which reads as scales of -32 and is harmless with d = 0.
    out.fill(0);
    for (j, &scale) in scales.scale.iter().enumerate() {
        out[j % 8] |= (scale & 0xf) << (j / 8 * 4);
        out[8 + j % 4] |= (scale >> 4) << (j / 4 * 2);
    }
}

/// The scales as decoding uses them, from -32 to 31.
fn unpack_scales(packed: &[u8]) -> [i8; SUBS] {
    std::array::from_fn(|j| {
        let low = (packed[j % 8] >> (j / 8 * 4)) & 0xf;
        let high = (packed[8 + j % 4] >> (j / 4 * 2)) & 3;
        (low | (high << 4)) as i8 - SCALE_HALF as i8
    })
}

/// Decodes one block into 256 values.
#[inline(always)]
pub(in super::super) fn decode_block(block: &[u8], out: &mut [f32]) {
    let d = half_value([block[108], block[109]]);
    let scales = unpack_scales(&block[SCALES]);
    for (sub, out) in out.chunks_exact_mut(SUB).enumerate() {
        let step = d * f32::from(scales[sub]);
        let column = sub % 2 * 16;
        let low = &block[LOW][sub / 8 * 32 + column..][..SUB];
        let high = &block[HIGH][column..][..SUB];
        let shift = sub % 8 / 2 * 2;
        for ((value, &low), &high) in out.iter_mut().zip(low).zip(high) {
            let code = ((low >> shift) & 3) | (((high >> (sub / 2)) & 1) << 2);
            *value = step * f32::from(code as i8 - HALF as i8);
        }
    }
}
