//! Q6_K: 16 sub-blocks of 16 values, `value = d * scale * (code - 32)` with 8-bit scales.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..128 | the codes' low 4 bits |
//! | 128..192 | the codes' high 2 bits |
//! | 192..208 | the scales, signed |
//! | 208..210 | `d`, half precision |

use std::ops::Range;

use super::super::SUPER_BLOCK;
use super::super::batch::{BATCH, for_each_batch};
use super::super::engine::{Engine, Levels, Steps, SymmetricFit};
use crate::codec::arithmetic::{nearest_int, peak};
use crate::codec::float::{half_bytes, half_value};
use crate::codec::search::{Weighting, ZERO_BELOW};

const SUB: usize = 16;
const SUBS: usize = SUPER_BLOCK / SUB;
const LOW: Range<usize> = 0..128;
const HIGH: Range<usize> = 128..192;
const SCALES: Range<usize> = 192..208;
const D: Range<usize> = 208..210;
pub(in super::super) const BLOCK_BYTES: usize = D.end;
/// Codes are stored with this added.
const HALF: i32 = 32;

pub(in super::super) fn encode<E: Engine>(
    engine: E,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    for_each_batch(values, importance, BLOCK_BYTES, out, |batch| {
        let mut fits = [SymmetricFit::default(); BATCH * SUBS];
        let fits = &mut fits[..batch.len() * SUBS];
        // Unlike the smaller types, this one takes the importance as it is.
        let weighting = batch.importance.map_or(Weighting::Square, Weighting::Given);
        engine.symmetric(HALF, batch.x, weighting, fits);
        let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(BLOCK_BYTES));
        for (index, ((x, out), fits)) in blocks.zip(fits.chunks_exact(SUBS)).enumerate() {
            write_block(engine, x, fits, out, || {
                let first = index * SUPER_BLOCK;
                searched_codes(engine, x, weighting.slice(first..first + SUPER_BLOCK))
            });
        }
    });
}

/// The codes of the search itself, for one super-block.
fn searched_codes<E: Engine>(engine: E, x: &[f32], weighting: Weighting<'_>) -> [u8; SUPER_BLOCK] {
    let mut weights = [0.0; SUPER_BLOCK];
    let mut codes = [0; SUPER_BLOCK];
    weighting.fill(x, &mut weights);
    engine.symmetric_codes(HALF, x, &weights, &mut codes, &mut [0.0; SUBS]);
    codes
}

/// Quantizes the scales relative to the one of largest magnitude, chooses the final codes and packs.
/// `search_codes` gives the codes of the search: where a stored scale is zero no better codes exist, and the
/// reference encoder leaves those. One large value brings many such sub-blocks, so they are searched together.
#[inline(always)]
fn write_block<E: Engine>(
    engine: E,
    x: &[f32],
    fits: &[SymmetricFit],
    out: &mut [u8],
    search_codes: impl FnOnce() -> [u8; SUPER_BLOCK],
) {
    let peak = peak(fits.iter().map(|fit| fit.scale));
    if peak.abs() < ZERO_BELOW {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / peak;
    let d = half_bytes(1.0 / inverse);
    out[D].copy_from_slice(&d);
    let d = half_value(d);
    let mut steps = Steps { step: [0.0; SUBS], offset: [0.0; SUBS] };
    for (sub, fit) in fits.iter().enumerate() {
        let scale = nearest_int(inverse * fit.scale).min(127) as i8;
        out[SCALES.start + sub] = scale as u8;
        steps.step[sub] = d * f32::from(scale);
    }
    let mut codes = [0; SUPER_BLOCK];
    engine.requantize(Levels { low: -HALF, high: HALF - 1 }, x, &steps, &mut codes);
    if steps.step.contains(&0.0) {
        let searched = search_codes();
        let subs = codes.chunks_exact_mut(SUB).zip(searched.chunks_exact(SUB)).zip(&steps.step);
        subs.filter(|(_, step)| **step == 0.0)
            .for_each(|((code, searched), _)| code.copy_from_slice(searched));
    }
    pack_codes(&codes, out);
}

/// In each half of 128 values, low byte `l` holds the nibbles of `l` and `l + 64`, and high byte `l` the bit pairs
/// of `l`, `l + 32`, `l + 64` and `l + 96`.
#[inline(always)]
fn pack_codes(codes: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    let (low, rest) = out.split_at_mut(LOW.end);
    let halves = low.as_chunks_mut::<64>().0.iter_mut().zip(rest[..HIGH.len()].as_chunks_mut::<32>().0);
    for (codes, (low, high)) in codes.as_chunks::<128>().0.iter().zip(halves) {
        for (l, byte) in low.iter_mut().enumerate() {
            *byte = (codes[l] & 0xf) | (codes[l + 64] << 4);
        }
        for (l, byte) in high.iter_mut().enumerate() {
            *byte = (codes[l] >> 4)
                | ((codes[l + 32] >> 4) << 2)
                | ((codes[l + 64] >> 4) << 4)
                | ((codes[l + 96] >> 4) << 6);
        }
    }
}

/// Decodes one block into 256 values.
#[inline(always)]
pub(in super::super) fn decode_block(block: &[u8], out: &mut [f32]) {
    let d = half_value([block[208], block[209]]);
    for (sub, out) in out.chunks_exact_mut(SUB).enumerate() {
        let step = d * f32::from(block[SCALES.start + sub] as i8);
        let (half, within) = (sub / 8, sub % 8);
        let low = &block[LOW][half * 64 + within % 4 * SUB..][..SUB];
        let high = &block[HIGH][half * 32 + within % 2 * SUB..][..SUB];
        let (low_shift, high_shift) = (within / 4 * 4, within / 2 * 2);
        for ((value, &low), &high) in out.iter_mut().zip(low).zip(high) {
            let code = ((low >> low_shift) & 0xf) | (((high >> high_shift) & 3) << 4);
            *value = step * f32::from(code as i8 - HALF as i8);
        }
    }
}
