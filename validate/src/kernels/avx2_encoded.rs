//! Products with encoded rows on AVX2. Bytes are taken apart as pairs: the low byte of every 16-bit lane holds an
//! even column, the high byte an odd one, and nothing has to be moved between lanes.

use std::arch::x86_64::*;

use half::f16;

use super::encoded::{
    BLOCK, Encoding, IntRow, LANES, Q6_OFFSET, Q8_BYTES, SUB, SUBS, add_lanes, affine_scales,
};

#[target_feature(enable = "avx2")]
pub(super) fn dot(encoding: Encoding, bytes: &[u8], row: &IntRow) -> f32 {
    let total = match encoding {
        Encoding::Q4K => affine::<false>(bytes, row),
        Encoding::Q5K => affine::<true>(bytes, row),
        Encoding::Q6K => q6(bytes, row),
        Encoding::Q8_0 => q8(bytes, row),
    };
    let mut lanes = [0.0f32; LANES];
    // SAFETY: eight values are a vector.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
    add_lanes(lanes)
}

/// 32 bytes.
#[target_feature(enable = "avx2")]
#[inline]
fn load(bytes: &[u8]) -> __m256i {
    let bytes: &[u8; SUB] = bytes.first_chunk().expect("callers cut 32 bytes");
    // SAFETY: 32 bytes are a vector.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

/// Even and odd columns of 32 activations.
#[target_feature(enable = "avx2")]
#[inline]
fn activations(values: &[i16]) -> (__m256i, __m256i) {
    let values: &[i16; SUB] = values.first_chunk().expect("callers cut 32 values");
    // SAFETY: 32 values are two vectors.
    unsafe {
        (_mm256_loadu_si256(values.as_ptr().cast()), _mm256_loadu_si256(values.as_ptr().add(16).cast()))
    }
}

#[target_feature(enable = "avx2")]
#[inline]
fn shift(values: __m256i, count: usize) -> __m256i {
    _mm256_srl_epi16(values, _mm_cvtsi32_si128(count as i32))
}

/// Sums of products of 32 columns, as floats.
#[target_feature(enable = "avx2")]
#[inline]
fn products(even: __m256i, odd: __m256i, values: &[i16]) -> __m256 {
    let (a_even, a_odd) = activations(values);
    _mm256_cvtepi32_ps(_mm256_add_epi32(_mm256_madd_epi16(even, a_even), _mm256_madd_epi16(odd, a_odd)))
}

#[target_feature(enable = "avx2")]
#[inline]
fn add_scaled(sums: __m256, products: __m256, scale: __m256) -> __m256 {
    _mm256_add_ps(sums, _mm256_mul_ps(products, scale))
}

/// Q4_K, and Q5_K with the codes' fifth bits.
#[target_feature(enable = "avx2")]
fn affine<const FIFTH: bool>(bytes: &[u8], row: &IntRow) -> __m256 {
    let encoding = if FIFTH { Encoding::Q5K } else { Encoding::Q4K };
    let low_bits = _mm256_set1_epi16(0xf);
    let fifth_bit = _mm256_set1_epi16(0x10);
    let mut total = _mm256_setzero_ps();
    for (b, block) in bytes.chunks_exact(encoding.block_bytes()).enumerate() {
        let (d, dmin, scales, mins) = affine_scales(&block[..16], row.scales[b]);
        let (high, low) = if FIFTH { (load(&block[16..]), &block[48..]) } else { (low_bits, &block[16..]) };
        let values = &row.values[b * BLOCK..][..BLOCK];
        let mut sums = _mm256_setzero_ps();
        for (pair, low) in low.chunks_exact(SUB).enumerate() {
            let codes = load(low);
            unroll!(part in [0 1] {
                let sub = 2 * pair + part;
                let mut even = _mm256_and_si256(shift(codes, 4 * part), low_bits);
                let mut odd = _mm256_and_si256(shift(codes, 8 + 4 * part), low_bits);
                if FIFTH {
                    even = _mm256_or_si256(even, _mm256_and_si256(_mm256_slli_epi16::<4>(shift(high, sub)), fifth_bit));
                    odd = _mm256_or_si256(odd, _mm256_and_si256(_mm256_slli_epi16::<4>(shift(high, 8 + sub)), fifth_bit));
                }
                let scale = _mm256_set1_ps(f32::from(scales[sub]));
                sums = add_scaled(sums, products(even, odd, &values[sub * SUB..]), scale);
            });
        }
        let mins = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(mins))));
        // SAFETY: a block has SUBS = 8 sums, a vector.
        let column_sums = unsafe { _mm256_loadu_ps(row.sums[b].as_ptr()) };
        total = add_scaled(total, sums, _mm256_set1_ps(d));
        total = _mm256_sub_ps(total, _mm256_mul_ps(_mm256_set1_ps(dmin), _mm256_mul_ps(mins, column_sums)));
    }
    total
}

const _: () = assert!(SUBS == LANES);

#[target_feature(enable = "avx2")]
fn q6(bytes: &[u8], row: &IntRow) -> __m256 {
    let low_bits = _mm256_set1_epi16(0xf);
    let high_bits = _mm256_set1_epi16(0x30);
    let offset = _mm256_set1_epi16(Q6_OFFSET as i16);
    let mut total = _mm256_setzero_ps();
    for (b, block) in bytes.chunks_exact(Encoding::Q6K.block_bytes()).enumerate() {
        let d = f16::from_le_bytes([block[208], block[209]]).to_f32() * row.scales[b];
        let values = &row.values[b * BLOCK..][..BLOCK];
        let mut sums = _mm256_setzero_ps();
        for half in 0..2 {
            let low = [load(&block[half * 64..]), load(&block[half * 64 + SUB..])];
            let high = load(&block[128 + half * SUB..]);
            unroll!(part in [0 1 2 3] {
                let sub = 4 * half + part;
                let code = |place: usize| {
                    let low = _mm256_and_si256(shift(low[part % 2], place + part / 2 * 4), low_bits);
                    let high = _mm256_slli_epi16::<4>(shift(high, place + 2 * part));
                    _mm256_sub_epi16(_mm256_or_si256(low, _mm256_and_si256(high, high_bits)), offset)
                };
                let scale = |i: usize| _mm_set1_ps(f32::from(block[192 + 2 * sub + i] as i8));
                let scales = _mm256_set_m128(scale(1), scale(0));
                sums = add_scaled(sums, products(code(0), code(8), &values[sub * SUB..]), scales);
            });
        }
        total = add_scaled(total, sums, _mm256_set1_ps(d));
    }
    total
}

#[target_feature(enable = "avx2")]
fn q8(bytes: &[u8], row: &IntRow) -> __m256 {
    let mut total = _mm256_setzero_ps();
    for (sub, block) in bytes.chunks_exact(Q8_BYTES).enumerate() {
        let d = f16::from_le_bytes([block[0], block[1]]).to_f32() * row.scales[sub / SUBS];
        let codes = load(&block[2..]);
        let (even, odd) =
            (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes)), _mm256_srai_epi16::<8>(codes));
        total = add_scaled(total, products(even, odd, &row.values[sub * SUB..]), _mm256_set1_ps(d));
    }
    total
}
