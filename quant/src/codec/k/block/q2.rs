//! Q2_K: 16 sub-blocks of 16 values, `value = d * scale * code - dmin * min` with 4-bit scales and mins.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..16 | per sub-block: scale in the low, min in the high nibble |
//! | 16..80 | the 2-bit codes |
//! | 80..82 | `d`, half precision |
//! | 82..84 | `dmin`, half precision |

use std::ops::Range;

use super::super::SUPER_BLOCK;
use super::super::batch::{BATCH, for_each_batch};
use super::super::engine::{Engine, Levels, Steps, affine_one};
use super::{largest, pack_two_bits};
use crate::codec::arithmetic::nearest_int;
use crate::codec::float::{half_bytes, half_value};
use crate::codec::search::Weighting;
use crate::codec::search::affine::{AffineFit, AffineGrid};

const SUB: usize = 16;
const SUBS: usize = SUPER_BLOCK / SUB;
const SCALES: Range<usize> = 0..16;
const CODES: Range<usize> = 16..80;
const D: Range<usize> = 80..82;
const DMIN: Range<usize> = 82..84;
pub(in super::super) const BLOCK_BYTES: usize = DMIN.end;

const PLAIN: AffineGrid = AffineGrid { max_code: 3, first: -0.5, step: 0.1, steps: 15, absolute: true };
const WEIGHTED: AffineGrid = AffineGrid::weighted(3);

/// Quantized scales (low nibble) and mins (high nibble) of one super-block.
#[derive(Clone, Copy, Default)]
struct Scales {
    d: f32,
    dmin: f32,
    packed: [u8; SUBS],
}

pub(in super::super) fn encode<E: Engine>(
    engine: E,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let mut weights = vec![0.0; if importance.is_some() { BATCH * SUPER_BLOCK } else { 0 }];
    for_each_batch(values, importance, BLOCK_BYTES, out, |batch| {
        let mut fits = [AffineFit::default(); BATCH * SUBS];
        let fits = &mut fits[..batch.len() * SUBS];
        let mut scales = [Scales::default(); BATCH];
        let (grid, weighting) = match batch.importance {
            None => (&PLAIN, Weighting::Magnitude),
            Some(importance) => {
                let weights = &mut weights[..batch.x.len()];
                engine.importance_weights(1.0, batch.x, importance, weights);
                (&WEIGHTED, Weighting::Given(weights))
            }
        };
        engine.affine::<SUB>(grid, batch.x, weighting, fits);
        if batch.importance.is_some() {
            quantize_scales_weighted(engine, fits, &mut scales);
        } else {
            fits.chunks_exact(SUBS)
                .zip(&mut scales)
                .for_each(|(fits, scales)| *scales = quantize_scales(fits));
        }
        let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(BLOCK_BYTES));
        for (index, ((x, out), scales)) in blocks.zip(&scales).enumerate() {
            write_block(engine, x, scales, out, |sub, x| {
                let first = index * SUPER_BLOCK + sub * SUB;
                affine_one(grid, x, weighting.slice(first..first + SUB)).1
            });
        }
    });
}

/// The plain way: relative to the largest.
fn quantize_scales(fits: &[AffineFit]) -> Scales {
    let max_scale = largest(fits.iter().map(|fit| fit.scale));
    let max_min = largest(fits.iter().map(|fit| fit.offset));
    let mut scales = Scales::default();
    if max_scale > 0.0 {
        let inverse = 15.0 / max_scale;
        scales.d = max_scale / 15.0;
        for (packed, fit) in scales.packed.iter_mut().zip(fits) {
            *packed = nearest_int(inverse * fit.scale) as u8;
        }
    }
    if max_min > 0.0 {
        let inverse = 15.0 / max_min;
        scales.dmin = max_min / 15.0;
        for (packed, fit) in scales.packed.iter_mut().zip(fits) {
            *packed |= (nearest_int(inverse * fit.offset) << 4) as u8;
        }
    }
    scales
}

/// With importance: a search of its own, in which a sub-block counts as its weights' sum.
fn quantize_scales_weighted<E: Engine>(engine: E, fits: &[AffineFit], out: &mut [Scales; BATCH]) {
    let mut codes = [0; BATCH * SUBS];
    let mut units = [0.0; BATCH];
    let mut values = [0.0; BATCH * SUBS];
    let mut weights = [0.0; BATCH * SUBS];
    let (subs, supers) = (fits.len(), fits.len() / SUBS);
    let mut search = |value: fn(&AffineFit) -> f32, store: fn(&mut Scales, f32, [u8; SUBS])| {
        for (index, fit) in fits.iter().enumerate() {
            values[index] = value(fit);
            weights[index] = fit.weight;
        }
        let codes = &mut codes[..subs];
        engine.positive::<SUBS>(15, &values[..subs], &weights[..subs], codes, &mut units[..supers]);
        for ((scales, &codes), &unit) in out.iter_mut().zip(codes.as_chunks().0).zip(&units[..supers]) {
            store(scales, unit, codes);
        }
    };
    search(|fit| fit.scale, |scales, unit, codes| (scales.d, scales.packed) = (unit, codes));
    search(
        |fit| fit.offset,
        |scales, unit, codes| {
            scales.dmin = unit;
            scales.packed.iter_mut().zip(codes).for_each(|(packed, code)| *packed |= code << 4);
        },
    );
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
    let (d, dmin) = (half_bytes(scales.d), half_bytes(scales.dmin));
    out[SCALES].copy_from_slice(&scales.packed);
    out[D].copy_from_slice(&d);
    out[DMIN].copy_from_slice(&dmin);
    let (d, dmin) = (half_value(d), half_value(dmin));
    let steps = Steps {
        step: scales.packed.map(|packed| d * f32::from(packed & 0xf)),
        offset: scales.packed.map(|packed| dmin * f32::from(packed >> 4)),
    };
    let mut codes = [0; SUPER_BLOCK];
    engine.requantize(Levels { low: 0, high: 3 }, x, &steps, &mut codes);
    for (sub, (x, codes)) in x.chunks_exact(SUB).zip(codes.chunks_exact_mut(SUB)).enumerate() {
        if steps.step[sub] == 0.0 {
            codes.copy_from_slice(&search_codes(sub, x));
        }
    }
    pack_two_bits(&codes, &mut out[CODES]);
}

/// Decodes one block into 256 values.
#[inline(always)]
pub(in super::super) fn decode_block(block: &[u8], out: &mut [f32]) {
    let d = half_value([block[80], block[81]]);
    let dmin = half_value([block[82], block[83]]);
    for (sub, out) in out.chunks_exact_mut(SUB).enumerate() {
        let packed = block[SCALES.start + sub];
        let (step, offset) = (d * f32::from(packed & 0xf), dmin * f32::from(packed >> 4));
        // Sub-blocks 2n and 2n + 1 share the bit pair n of a half's 32 bytes.
        let codes = &block[CODES][sub / 8 * 32 + sub % 2 * 16..][..SUB];
        let shift = sub % 8 / 2 * 2;
        for (value, &codes) in out.iter_mut().zip(codes) {
            *value = step * f32::from((codes >> shift) & 3) - offset;
        }
    }
}
