//! Q4_K and Q5_K: 8 sub-blocks of 32 values, `value = d * scale * code - dmin * min` with 6-bit scales and mins.
//!
//! | bytes (Q4_K) | bytes (Q5_K) | what |
//! | --- | --- | --- |
//! | 0..2 | 0..2 | `d`, half precision |
//! | 2..4 | 2..4 | `dmin`, half precision |
//! | 4..16 | 4..16 | 8 scales and 8 mins of 6 bits |
//! | | 16..48 | the codes' fifth bits |
//! | 16..144 | 48..176 | the codes' low 4 bits |

use std::ops::Range;

use super::super::SUPER_BLOCK;
use super::super::batch::{BATCH, Batch, for_each_batch};
use super::super::engine::{Engine, Levels, Steps, affine_one};
use super::{largest, pack_bit_planes};
use crate::codec::arithmetic::nearest_int;
use crate::codec::float::{half_bytes, half_value};
use crate::codec::search::Weighting;
use crate::codec::search::affine::{AffineFit, AffineGrid};

const SUB: usize = 32;
const SUBS: usize = SUPER_BLOCK / SUB;
const D: Range<usize> = 0..2;
const DMIN: Range<usize> = 2..4;
const SCALES: Range<usize> = 4..16;
/// The largest 6-bit scale.
const MAX_SCALE: i32 = 63;

/// What tells the two types apart.
pub(in super::super) struct Format {
    plain: AffineGrid,
    weighted: AffineGrid,
    max_code: i32,
    /// With importance, what a 6-bit scale is cut to before it is packed: a wrapped negative scale spills over in
    /// Q4_K, and ggml lets it.
    max_packed: u8,
    block_bytes: usize,
    /// Where the fifth bits lie; empty in Q4_K.
    high: Range<usize>,
    low: Range<usize>,
}

pub(in super::super) const Q4: Format = Format {
    plain: AffineGrid { max_code: 15, first: -1.0, step: 0.1, steps: 20, absolute: false },
    weighted: AffineGrid::weighted(15),
    max_code: 15,
    max_packed: u8::MAX,
    block_bytes: 144,
    high: 16..16,
    low: 16..144,
};

pub(in super::super) const Q5: Format = Format {
    plain: AffineGrid { max_code: 31, first: -0.5, step: 0.1, steps: 15, absolute: false },
    weighted: AffineGrid::weighted(31),
    max_code: 31,
    max_packed: MAX_SCALE as u8,
    block_bytes: 176,
    high: 16..48,
    low: 48..176,
};

/// Quantized scales and mins of one super-block.
#[derive(Clone, Copy, Default)]
struct Scales {
    d: f32,
    dmin: f32,
    scale: [u8; SUBS],
    min: [u8; SUBS],
}

pub(in super::super) fn encode<E: Engine>(
    engine: E,
    format: &Format,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let mut weights = vec![0.0; if importance.is_some() { BATCH * SUPER_BLOCK } else { 0 }];
    for_each_batch(values, importance, format.block_bytes, out, |batch| {
        let mut fits = [AffineFit::default(); BATCH * SUBS];
        let fits = &mut fits[..batch.len() * SUBS];
        let mut scales = [Scales::default(); BATCH];
        let (grid, weighting) = match batch.importance {
            None => (&format.plain, Weighting::SpreadPlusMagnitude),
            Some(importance) => {
                let weights = &mut weights[..batch.x.len()];
                engine.importance_weights(2.0, batch.x, importance, weights);
                (&format.weighted, Weighting::Given(weights))
            }
        };
        engine.affine::<SUB>(grid, batch.x, weighting, fits);
        if batch.importance.is_some() {
            quantize_scales_weighted(engine, format, fits, &mut scales);
        } else {
            fits.chunks_exact(SUBS)
                .zip(&mut scales)
                .for_each(|(fits, scales)| *scales = quantize_scales(fits));
        }
        write_blocks(engine, format, batch, &scales, |index, x, codes| {
            let weighting = weighting.slice(index * SUB..(index + 1) * SUB);
            codes.copy_from_slice(&affine_one::<SUB>(grid, x, weighting).1);
        });
    });
}

/// The plain way: relative to the largest.
fn quantize_scales(fits: &[AffineFit]) -> Scales {
    let max_scale = largest(fits.iter().map(|fit| fit.scale));
    let max_min = largest(fits.iter().map(|fit| fit.offset));
    let inverse = |max: f32| if max > 0.0 { MAX_SCALE as f32 / max } else { 0.0 };
    let (inverse_scale, inverse_min) = (inverse(max_scale), inverse(max_min));
    let code = |value: f32| (nearest_int(value) as u8).min(MAX_SCALE as u8);
    let mut scales = Scales { d: max_scale / 63.0, dmin: max_min / 63.0, ..Scales::default() };
    for (index, fit) in fits.iter().enumerate() {
        scales.scale[index] = code(inverse_scale * fit.scale);
        scales.min[index] = code(inverse_min * fit.offset);
    }
    scales
}

/// With importance: a search of its own, in which a sub-block counts as its weights' sum.
fn quantize_scales_weighted<E: Engine>(
    engine: E,
    format: &Format,
    fits: &[AffineFit],
    out: &mut [Scales; BATCH],
) {
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
        engine.positive::<SUBS>(MAX_SCALE, &values[..subs], &weights[..subs], codes, &mut units[..supers]);
        for ((scales, codes), &unit) in out.iter_mut().zip(codes.as_chunks().0).zip(&units[..supers]) {
            store(scales, unit, codes.map(|code| code.min(format.max_packed)));
        }
    };
    search(|fit| fit.scale, |scales, unit, codes| (scales.d, scales.scale) = (unit, codes));
    search(|fit| fit.offset, |scales, unit, codes| (scales.dmin, scales.min) = (unit, codes));
}

/// Chooses the final codes and packs. `search_codes` gives the codes of a sub-block (by its index in the batch)
/// whose stored scale is zero: no better codes exist, so the reference encoder leaves those of its search.
#[inline(always)]
fn write_blocks<E: Engine>(
    engine: E,
    format: &Format,
    batch: Batch<'_>,
    scales: &[Scales; BATCH],
    search_codes: impl Fn(usize, &[f32], &mut [u8]),
) {
    let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(format.block_bytes));
    for (index, ((x, out), scales)) in blocks.zip(scales).enumerate() {
        let (d, dmin) = (half_bytes(scales.d), half_bytes(scales.dmin));
        out[D].copy_from_slice(&d);
        out[DMIN].copy_from_slice(&dmin);
        pack_scales(scales, &mut out[SCALES]);
        let (d, dmin) = (half_value(d), half_value(dmin));
        let (scale, min) = unpack_scales(&out[SCALES]);
        let steps = Steps {
            step: scale.map(|scale| d * f32::from(scale)),
            offset: min.map(|min| dmin * f32::from(min)),
        };
        let mut codes = [0; SUPER_BLOCK];
        engine.requantize(Levels { low: 0, high: format.max_code }, x, &steps, &mut codes);
        let subs = x.chunks_exact(SUB).zip(codes.chunks_exact_mut(SUB)).zip(steps.step).enumerate();
        for (sub, ((x, codes), _)) in subs.filter(|(_, (_, step))| *step == 0.0) {
            search_codes(index * SUBS + sub, x, codes);
        }
        pack_codes(&codes, format, out);
    }
}

/// Scales and mins 0 to 3 take the low 6 bits of a byte each; 4 to 7 share nibbles, their upper two bits go on top
/// of the first eight bytes.
fn pack_scales(scales: &Scales, out: &mut [u8]) {
    for (j, (&scale, &min)) in scales.scale.iter().zip(&scales.min).enumerate() {
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

fn unpack_scales(packed: &[u8]) -> ([u8; SUBS], [u8; SUBS]) {
    let (mut scale, mut min) = ([0; SUBS], [0; SUBS]);
    for j in 0..4 {
        scale[j] = packed[j] & 63;
        min[j] = packed[j + 4] & 63;
        scale[j + 4] = (packed[j + 8] & 0xf) | ((packed[j] >> 6) << 4);
        min[j + 4] = (packed[j + 8] >> 4) | ((packed[j + 4] >> 6) << 4);
    }
    (scale, min)
}

/// Byte `l` of each 32 holds the codes at `l` and `l + 32` of 64 values; bit `n` of high byte `l` is the fifth bit
/// of value `32 * n + l`.
#[inline(always)]
fn pack_codes(codes: &[u8; SUPER_BLOCK], format: &Format, out: &mut [u8]) {
    let (pairs, _) = codes.as_chunks::<64>();
    let (low, _) = out[format.low.clone()].as_chunks_mut::<32>();
    for (pair, low) in pairs.iter().zip(low) {
        for (l, byte) in low.iter_mut().enumerate() {
            *byte = (pair[l] & 0xf) | (pair[l + 32] << 4);
        }
    }
    if let Some(high) = out[format.high.clone()].first_chunk_mut() {
        pack_bit_planes::<4>(codes, high);
    }
}

/// Decodes one block of Q4_K (144 bytes) or Q5_K (176) into 256 values.
#[inline(always)]
pub(in super::super) fn decode_block(format: &Format, block: &[u8], out: &mut [f32]) {
    let d = half_value([block[0], block[1]]);
    let dmin = half_value([block[2], block[3]]);
    let (scale, min) = unpack_scales(&block[SCALES]);
    let (high, low) = (&block[format.high.clone()], &block[format.low.clone()]);
    for (n, out) in out.chunks_exact_mut(SUB).enumerate() {
        let (step, offset) = (d * f32::from(scale[n]), dmin * f32::from(min[n]));
        let low = &low[n / 2 * 32..][..32];
        let shift = n % 2 * 4;
        if high.is_empty() {
            for (value, &low) in out.iter_mut().zip(low) {
                *value = step * f32::from((low >> shift) & 0xf) - offset;
            }
        } else {
            for ((value, &low), &high) in out.iter_mut().zip(low).zip(high) {
                *value = step * f32::from(((low >> shift) & 0xf) | (((high >> n) & 1) << 4)) - offset;
            }
        }
    }
}
