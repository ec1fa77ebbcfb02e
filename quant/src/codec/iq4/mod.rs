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

use super::arithmetic::{inverse_or_zero, nearest_int, signed_max, sum_of_squares};
use super::float::{half_bytes, half_value};
use super::kernel::{self, Decode, Kernel};
use super::registry::{Codec, Guided, ScaleFields};
use super::scalar::{self, Grid};
use super::search::ZERO_BELOW;
use crate::simd::Level;

/// Values that share a scale.
const SUB: usize = 32;
/// Half a six-bit scale's range, which is stored with it added.
const SCALE_HALF: i32 = 32;
const TRIES: i32 = 7;

pub(super) static IQ4_NL: Codec = Type::<1>::CODEC;
pub(super) static IQ4_XS: Codec = Type::<8>::CODEC;

/// One scale in a block, or several in a super-block.
struct Type<const SUBS: usize>;

impl<const SUBS: usize> Type<SUBS> {
    /// Whether scales are integers under that of the super-block.
    const SUPER: bool = SUBS > 1;
    const LEN: usize = SUBS * SUB;
    /// Bytes before the codes.
    const HEAD: usize = if Self::SUPER { 8 } else { 2 };
    const BYTES: usize = Self::HEAD + Self::LEN / 2;

    const GRID: Grid = if Self::SUPER {
        Grid::super_block(SUB, (0, 15), (-SCALE_HALF, SCALE_HALF - 1), None).with_table()
    } else {
        Grid::block(0, 15, false).with_table()
    };
    const CODEC: Codec = Codec {
        scales: ScaleFields::Halves([0, 0]),
        encode: Self::encode,
        decode: kernel::decode::<Self>,
        guided: Guided::Scalar { grid: &Self::GRID, pack: Self::pack },
    };

    /// Writes all but the codes; `scales` are those of a super-block, from -32 to 31.
    #[inline(always)]
    fn put_head(d: f32, scales: [i32; SUBS], head: &mut [u8]) {
        head[..2].copy_from_slice(&half_bytes(d));
        if Self::SUPER {
            let mut high = 0_u16;
            head[4..].fill(0);
            for (sub, scale) in scales.into_iter().enumerate() {
                let code = (scale + SCALE_HALF) as u8;
                head[4 + sub / 2] |= (code & 15) << (4 * (sub % 2));
                high |= u16::from(code >> 4) << (2 * sub);
            }
            head[2..4].copy_from_slice(&high.to_le_bytes());
        }
    }

    /// The scales of a block.
    #[inline(always)]
    fn scales(head: &[u8]) -> [f32; SUBS] {
        let d = half_value([head[0], head[1]]);
        if !Self::SUPER {
            return [d; SUBS];
        }
        let high = u16::from_le_bytes([head[2], head[3]]);
        std::array::from_fn(|sub| {
            let low = (head[4 + sub / 2] >> (4 * (sub % 2))) & 15;
            let code = i32::from(low) | i32::from((high >> (2 * sub)) & 3) << 4;
            d * (code - SCALE_HALF) as f32
        })
    }

    /// Writes all of a block but its codes; returns the inverse of each scale as it will be decoded (but with `d` not yet
    /// rounded to half precision). A super-block's scales become integers of six bits.
    #[inline(always)]
    fn quantize_scales(scales: &[f32; SUBS], head: &mut [u8]) -> [f32; SUBS] {
        if !Self::SUPER {
            Self::put_head(scales[0], [0; SUBS], head);
            return scales.map(inverse_or_zero);
        }
        let d = -signed_max(scales) / SCALE_HALF as f32;
        let inverse = inverse_or_zero(d);
        let levels = scales.map(|scale| nearest_int(inverse * scale).clamp(-SCALE_HALF, SCALE_HALF - 1));
        Self::put_head(d, levels, head);
        levels.map(|level| inverse_or_zero(d * level as f32))
    }

    /// Encodes whole rows. Every level gives the same bytes.
    fn encode(level: Level, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => lanes::encode_avx2::<SUBS>(token, values, importance, out),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(token) => lanes::encode_avx512::<SUBS>(token, values, importance, out),
            _ => Self::encode_plain(values, importance, out),
        }
    }

    fn encode_plain(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let blocks = values.chunks_exact(Self::LEN).zip(out.chunks_exact_mut(Self::BYTES));
        for (index, (x, block)) in blocks.enumerate() {
            let importance = importance.map(|all| &all[index * Self::LEN % all.len()..]);
            let twice_mean_square = sum_of_squares(x) * (2.0 / Self::LEN as f32);
            let scales = std::array::from_fn(|sub| {
                let importance = importance.map(|all| &all[sub * SUB..]);
                let x = &x[sub * SUB..][..SUB];
                best_scale(x, &weights(x, importance, twice_mean_square))
            });
            let (head, qs) = block.split_at_mut(Self::HEAD);
            let inverses = Self::quantize_scales(&scales, head);
            let subs = x.chunks_exact(SUB).zip(qs.chunks_exact_mut(SUB / 2));
            for ((x, qs), inverse) in subs.zip(inverses) {
                put_codes(|j| nearest_index(inverse * x[j]) as u8, qs);
            }
        }
    }

    /// Writes a block that was chosen elsewhere.
    fn pack(block: &scalar::Block, out: &mut [u8]) {
        let (head, qs) = out.split_at_mut(Self::HEAD);
        let scale = |sub: usize| if Self::SUPER { block.scales[sub] } else { 0 };
        Self::put_head(block.d, std::array::from_fn(scale), head);
        for (codes, qs) in block.codes.chunks_exact(SUB).zip(qs.chunks_exact_mut(SUB / 2)) {
            put_codes(|j| codes[j] as u8, qs);
        }
    }
}

impl<const SUBS: usize> Decode for Type<SUBS> {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(Self::BYTES).zip(out.chunks_exact_mut(Self::LEN));
        for (block, out) in blocks {
            let (head, qs) = block.split_at(Self::HEAD);
            let subs = qs.as_chunks::<{ SUB / 2 }>().0.iter().zip(out.as_chunks_mut::<SUB>().0);
            for ((qs, x), scale) in subs.zip(Self::scales(head)) {
                look_up(qs, scale, x);
            }
        }
    }
}

/// 32 codes into 16 bytes.
#[inline(always)]
fn put_codes(code: impl Fn(usize) -> u8, qs: &mut [u8]) {
    for (j, byte) in qs.iter_mut().enumerate() {
        *byte = code(j) | code(j + SUB / 2) << 4;
    }
}

/// Writes `scale` times the table's value for 16 bytes of codes.
#[inline(always)]
fn look_up(qs: &[u8; SUB / 2], scale: f32, x: &mut [f32; SUB]) {
    let (low, high) = x.split_at_mut(SUB / 2);
    for ((byte, low), high) in qs.iter().zip(low).zip(high) {
        *low = scale * f32::from(VALUES[usize::from(byte & 15)]);
        *high = scale * f32::from(VALUES[usize::from(byte >> 4)]);
    }
}

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
fn best_scale(x: &[f32], w: &[f32; SUB]) -> f32 {
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
fn weights(x: &[f32], importance: Option<&[f32]>, twice_mean_square: f32) -> [f32; SUB] {
    match importance {
        Some(q) => std::array::from_fn(|j| q[j] * (twice_mean_square + x[j] * x[j]).sqrt()),
        None => std::array::from_fn(|j| x[j] * x[j]),
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
