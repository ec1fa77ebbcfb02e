//! Four-bit codes into a table of unevenly spaced values: IQ4_NL (blocks of 32) and IQ4_XS (super-blocks of 256).
//!
//! Bytes, little endian: IQ4_NL is `d: f16`, `qs: [u8; 16]`. IQ4_XS is `d: f16`, `scales_h: u16` (upper two bits
//! of each of eight six-bit scales), `scales_l: [u8; 4]` (lower four bits), `qs: [u8; 128]` (16 bytes per 32
//! values). Byte `j` of `qs` holds the code of value `j` in its low half and of value `j + 16` in its high half.
//!
//! Algorithm: `quantize_row_iq4_nl_impl` in ggml-quants.c with seven tries to each side.

#[cfg(target_arch = "x86_64")]
mod lanes;
#[cfg(target_arch = "x86_64")]
mod table;

use plmconv_formats::DType;

use super::arithmetic::{inverse_or_zero, nearest_int, signed_max, sum_of_squares};
use super::float::{f16_bits, f16_value};
use super::search::ZERO_BELOW;
use crate::simd::Level;

const BLOCK: usize = 32;
const SUPER_BLOCK: usize = 256;
/// Bytes of an IQ4_XS block before its codes.
const XS_HEAD: usize = 8;
const TRIES: i32 = 7;

/// The table of IQ4_NL and IQ4_XS.
pub(crate) const VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// `BOUNDS[i]` lies halfway between entries `i` and `i + 1` of [`VALUES`].
pub(crate) const BOUNDS: [f32; 15] = {
    let mut bounds = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        bounds[i] = (VALUES[i] as f32 + VALUES[i + 1] as f32) / 2.0;
        i += 1;
    }
    bounds
};

/// The index of the table value nearest to `x`, the upper of two equally near.
///
/// ggml finds the two neighbours by bisection and compares the distances; counting the bounds at or below `x` is
/// the same (the distances near a bound are exact in f32) and has no branches. A NaN counts all of them, as there.
#[inline(always)]
fn nearest_index(x: f32) -> usize {
    // Bisection over the fifteen bounds: four comparisons.
    let mut index = 0;
    for step in [8, 4, 2, 1] {
        let below = x < BOUNDS[index + step - 1];
        index += if below { 0 } else { step };
    }
    index
}

/// The scale that fits 32 values best under the weights `w`; 0 for a block of zeros.
fn best_scale(x: &[f32], w: &[f32; BLOCK]) -> f32 {
    let max = signed_max(x);
    if max.abs() < ZERO_BELOW {
        return 0.0;
    }
    let fit = |inverse: f32| {
        let (mut sum_qx, mut sum_q2) = (0.0_f32, 0.0_f32);
        for (&v, &w) in x.iter().zip(w) {
            let q = f32::from(VALUES[nearest_index(inverse * v)]);
            sum_qx += w * q * v;
            sum_q2 += w * q * q;
        }
        (sum_qx, sum_q2)
    };
    let lowest = i32::from(VALUES[0]);
    let (sum_qx, sum_q2) = fit(1.0 / (-max / lowest as f32));
    let mut scale = if sum_q2 > 0.0 { sum_qx / sum_q2 } else { 0.0 };
    let mut best = scale * sum_qx;
    for step in -TRIES..=TRIES {
        let (sum_qx, sum_q2) = fit((step + lowest) as f32 / max);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
        }
    }
    scale
}

/// Weights of 32 values: their squares, or with an importance that times the root of the square plus twice the
/// mean square of the (super-)block.
fn weights(x: &[f32], importance: Option<&[f32]>, twice_mean_square: f32) -> [f32; BLOCK] {
    match importance {
        Some(q) => std::array::from_fn(|j| q[j] * (twice_mean_square + x[j] * x[j]).sqrt()),
        None => std::array::from_fn(|j| x[j] * x[j]),
    }
}

/// Packs the codes nearest to `inverse * x`: 32 values into 16 bytes.
#[inline(always)]
fn pack_nearest(x: &[f32], inverse: f32, qs: &mut [u8]) {
    for (j, byte) in qs.iter_mut().enumerate() {
        let low = nearest_index(inverse * x[j]) as u8;
        let high = nearest_index(inverse * x[j + BLOCK / 2]) as u8;
        *byte = low | (high << 4);
    }
}

/// The importance of the values from `start` on, for a flat index into rows of `importance.len()` values.
fn importance_at(importance: Option<&[f32]>, start: usize) -> Option<&[f32]> {
    importance.map(|all| &all[start % all.len()..])
}

/// Encodes whole rows as IQ4_NL or IQ4_XS; `importance` is `[cols]`. Every level gives the same bytes.
pub(super) fn encode(level: Level, dtype: DType, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => lanes::encode_avx2(token, dtype, values, importance, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => lanes::encode_avx512(token, dtype, values, importance, out),
        _ if dtype == DType::Iq4Nl => encode_iq4_nl(values, importance, out),
        _ => encode_iq4_xs(values, importance, out),
    }
}

fn encode_iq4_nl(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<18>().0);
    for (index, (x, block)) in blocks.enumerate() {
        let twice_mean_square = sum_of_squares(x) * (2.0 / BLOCK as f32);
        let w = weights(x, importance_at(importance, index * BLOCK), twice_mean_square);
        let scale = best_scale(x, &w);
        block[..2].copy_from_slice(&f16_bits(scale).to_le_bytes());
        pack_nearest(x, inverse_or_zero(scale), &mut block[2..]);
    }
}

fn encode_iq4_xs(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    let blocks = values.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<136>().0);
    for (index, (x, block)) in blocks.enumerate() {
        let importance = importance_at(importance, index * SUPER_BLOCK);
        let twice_mean_square = sum_of_squares(x) * (2.0 / SUPER_BLOCK as f32);
        let scales = std::array::from_fn(|sub| {
            let start = sub * BLOCK;
            let sub_block = &x[start..start + BLOCK];
            best_scale(sub_block, &weights(sub_block, importance_at(importance, start), twice_mean_square))
        });
        let (head, qs) = block.split_at_mut(XS_HEAD);
        let inverses = write_scales(&scales, head);
        for (sub, inverse) in inverses.into_iter().enumerate() {
            let sub_block = &x[sub * BLOCK..][..BLOCK];
            pack_nearest(sub_block, inverse, &mut qs[sub * BLOCK / 2..][..BLOCK / 2]);
        }
    }
}

/// Quantizes the scales of a super-block to six bits; writes all of the block but its codes and returns the inverse
/// of each scale as it will be decoded (but with the super-block's scale not yet rounded to half precision).
#[inline(always)]
fn write_scales(scales: &[f32; 8], head: &mut [u8]) -> [f32; 8] {
    let d = -signed_max(scales) / 32.0;
    let inverse = inverse_or_zero(d);
    let mut scales_high = 0_u16;
    head[..2].copy_from_slice(&f16_bits(d).to_le_bytes());
    head[4..].fill(0);
    let mut inverses = [0.0; 8];
    for (sub, scale) in scales.iter().enumerate() {
        let level = nearest_int(inverse * scale).clamp(-32, 31);
        inverses[sub] = inverse_or_zero(d * level as f32);
        let code = (level + 32) as u8;
        head[4 + sub / 2] |= (code & 15) << (4 * (sub % 2));
        scales_high |= u16::from(code >> 4) << (2 * sub);
    }
    head[2..4].copy_from_slice(&scales_high.to_le_bytes());
    inverses
}

/// Writes `scale` times the table's value for 16 bytes of codes.
#[inline(always)]
fn look_up(qs: &[u8], scale: f32, x: &mut [f32]) {
    let (low, high) = x.split_at_mut(BLOCK / 2);
    for ((byte, low), high) in qs.iter().zip(low).zip(high) {
        *low = scale * f32::from(VALUES[usize::from(byte & 15)]);
        *high = scale * f32::from(VALUES[usize::from(byte >> 4)]);
    }
}

#[inline(always)]
pub(super) fn decode_iq4_nl(bytes: &[u8], out: &mut [f32]) {
    for (block, x) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        look_up(&block[2..], f16_value(u16::from_le_bytes([block[0], block[1]])), x);
    }
}

#[inline(always)]
pub(super) fn decode_iq4_xs(bytes: &[u8], out: &mut [f32]) {
    for (block, x) in bytes.as_chunks::<136>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
        let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
        let high = u16::from_le_bytes([block[2], block[3]]);
        let (head, qs) = block.split_at(XS_HEAD);
        for (sub, (qs, x)) in qs.chunks_exact(BLOCK / 2).zip(x.chunks_exact_mut(BLOCK)).enumerate() {
            let low = (head[4 + sub / 2] >> (4 * (sub % 2))) & 15;
            let code = i32::from(low) | i32::from((high >> (2 * sub)) & 3) << 4;
            look_up(qs, d * (code - 32) as f32, x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ggml's `best_index_int8`, by its definition: bisect the values, then compare distances.
    fn bisected(x: f32) -> usize {
        let value = |i: usize| f32::from(VALUES[i]);
        if x <= value(0) {
            return 0;
        }
        if x >= value(15) {
            return 15;
        }
        let upper = (1..15).find(|&i| x < value(i)).unwrap_or(15);
        if x - value(upper - 1) < value(upper) - x { upper - 1 } else { upper }
    }

    #[test]
    fn bounds_find_what_bisection_finds() {
        let mut points: Vec<f32> = (-1400..1400).map(|i| i as f32 * 0.1).collect();
        points.extend([0.0, -0.0, 1e-30, -1e-30, f32::INFINITY, f32::NEG_INFINITY, 1e-7, -1e-7]);
        for edge in BOUNDS.iter().copied().chain(VALUES.iter().map(|&v| f32::from(v))) {
            points.extend((-40..=40).map(|ulp| f32::from_bits(edge.to_bits().wrapping_add_signed(ulp))));
        }
        for x in points {
            assert_eq!(nearest_index(x), bisected(x), "{x:e}");
        }
        assert_eq!(nearest_index(f32::NAN), 15);
    }
}
