//! The kernel of AVX2 and F16C: 32 values are four registers.

use std::arch::x86_64::*;

use super::{Kernel, STEP};
use crate::codec::arithmetic;

/// A kernel whose methods may only run where AVX2 and F16C are enabled; making one is the promise.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Avx2Kernel(());

impl Avx2Kernel {
    /// # Safety
    /// The CPU has AVX2 and F16C. To be fast, the value must be made and used inside a function that enables them.
    #[inline(always)]
    pub(in crate::codec) unsafe fn new() -> Avx2Kernel {
        Avx2Kernel(())
    }
}

type Values = [__m256; 4];

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load(x: &[f32; STEP]) -> Values {
    let p = x.as_ptr();
    // SAFETY: four times eight floats are the 32 of the array; unaligned loads.
    unsafe {
        [
            _mm256_loadu_ps(p),
            _mm256_loadu_ps(p.add(8)),
            _mm256_loadu_ps(p.add(16)),
            _mm256_loadu_ps(p.add(24)),
        ]
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn magnitudes(v: Values) -> Values {
    v.map(|v| _mm256_andnot_ps(_mm256_set1_ps(-0.0), v))
}

/// Folds eight lanes into one.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn fold(v: __m256, op: impl Fn(__m128, __m128) -> __m128) -> f32 {
    let v = op(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = op(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(op(v, _mm_shuffle_ps::<1>(v, v)))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn largest([a, b, c, d]: Values) -> f32 {
    let v = _mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d));
    fold(v, |a, b| _mm_max_ps(a, b))
}

/// Bit `j` is set where value `j` equals `wanted`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn positions(v: Values, wanted: f32) -> u32 {
    let wanted = _mm256_set1_ps(wanted);
    let [a, b, c, d] = v.map(|v| _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(v, wanted)) as u32);
    a | b << 8 | c << 16 | d << 24
}

/// The low bytes of 32 integers, in order.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn low_bytes(v: [__m256i; 4]) -> [u8; STEP] {
    // Masked first: the packing instructions saturate.
    let [a, b, c, d] = v.map(|v| _mm256_and_si256(v, _mm256_set1_epi32(0xff)));
    let packed = _mm256_packus_epi16(_mm256_packus_epi32(a, b), _mm256_packus_epi32(c, d));
    // Packing works within each half of the register: the halves' groups of four bytes alternate.
    let ordered = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let mut bytes = [0; STEP];
    // SAFETY: the array has the 32 bytes of the register; unaligned store.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), ordered) };
    bytes
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn largest_magnitude(x: &[f32; STEP]) -> f32 {
    largest(magnitudes(load(x)))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn signed_max(x: &[f32; STEP]) -> f32 {
    let magnitudes = magnitudes(load(x));
    let largest = largest(magnitudes);
    if largest == 0.0 {
        return 0.0;
    }
    // No position only for NaN, which nothing equals.
    let first = positions(magnitudes, largest).trailing_zeros() as usize;
    x[first % STEP]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn range(x: &[f32; STEP]) -> (f32, f32) {
    let [a, b, c, d] = load(x);
    let min = fold(_mm256_min_ps(_mm256_min_ps(a, b), _mm256_min_ps(c, d)), |a, b| _mm_min_ps(a, b));
    let max = fold(_mm256_max_ps(_mm256_max_ps(a, b), _mm256_max_ps(c, d)), |a, b| _mm_max_ps(a, b));
    // The instructions do not say which of two zeros they return.
    if min == 0.0 || max == 0.0 { arithmetic::range(x) } else { (min, max) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn truncated(x: &[f32; STEP], min: f32, inverse: f32, offset: f32) -> [u8; STEP] {
    let (min, inverse, offset) = (_mm256_set1_ps(min), _mm256_set1_ps(inverse), _mm256_set1_ps(offset));
    low_bytes(load(x).map(|v| {
        let scaled = _mm256_mul_ps(_mm256_sub_ps(v, min), inverse);
        _mm256_cvttps_epi32(_mm256_add_ps(scaled, offset))
    }))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn rounded(x: &[f32; STEP], inverse: f32) -> [u8; STEP] {
    let inverse = _mm256_set1_ps(inverse);
    let (sign, below_half) = (_mm256_set1_ps(-0.0), _mm256_set1_ps(arithmetic::BELOW_HALF));
    low_bytes(load(x).map(|v| {
        let scaled = _mm256_mul_ps(v, inverse);
        let half = _mm256_or_ps(_mm256_and_ps(scaled, sign), below_half);
        _mm256_cvttps_epi32(_mm256_add_ps(scaled, half))
    }))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_bytes(bytes: &[u8; STEP]) -> __m256i {
    // SAFETY: the array has the 32 bytes of a register; unaligned load.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn nibbles(codes: &[u8; STEP]) -> [u8; STEP / 2] {
    let codes = load_bytes(codes);
    let low = _mm256_castsi256_si128(codes);
    // There is no shift of bytes: shift pairs and drop what came over from the neighbour.
    let high = _mm_slli_epi16::<4>(_mm256_extracti128_si256::<1>(codes));
    let packed = _mm_or_si128(low, _mm_and_si128(high, _mm_set1_epi8(0xf0_u8 as i8)));
    let mut bytes = [0; STEP / 2];
    // SAFETY: the array has the 16 bytes of the register; unaligned store.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), packed) };
    bytes
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn fifth_bits(codes: &[u8; STEP]) -> u32 {
    // Bit 4 of each byte to its top, which the mask collects.
    _mm256_movemask_epi8(_mm256_slli_epi16::<3>(load_bytes(codes))) as u32
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn f16_bits(x: &[f32; STEP]) -> [u16; STEP] {
    let mut bits = [0; STEP];
    let halves = load(x).map(|v| _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v));
    for (half, bits) in halves.iter().zip(bits.as_chunks_mut::<8>().0) {
        // SAFETY: eight halves are 16 bytes; unaligned store.
        unsafe { _mm_storeu_si128(bits.as_mut_ptr().cast(), *half) };
    }
    bits
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn f16_values(bits: &[u16; STEP]) -> [f32; STEP] {
    let mut x = [0.0; STEP];
    for (bits, x) in bits.as_chunks::<8>().0.iter().zip(x.as_chunks_mut::<8>().0) {
        // SAFETY: eight halves are 16 bytes and eight floats 32; unaligned load and store.
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(bits.as_ptr().cast()))) };
    }
    x
}

impl Kernel for Avx2Kernel {
    #[inline(always)]
    fn largest_magnitude(self, x: &[f32; STEP]) -> f32 {
        // SAFETY: a value of this type is the promise that the CPU has the instructions.
        unsafe { largest_magnitude(x) }
    }

    #[inline(always)]
    fn signed_max(self, x: &[f32; STEP]) -> f32 {
        // SAFETY: as above.
        unsafe { signed_max(x) }
    }

    #[inline(always)]
    fn range(self, x: &[f32; STEP]) -> (f32, f32) {
        // SAFETY: as above.
        unsafe { range(x) }
    }

    #[inline(always)]
    fn truncated(self, x: &[f32; STEP], min: f32, inverse: f32, offset: f32) -> [u8; STEP] {
        // SAFETY: as above.
        unsafe { truncated(x, min, inverse, offset) }
    }

    #[inline(always)]
    fn rounded(self, x: &[f32; STEP], inverse: f32) -> [u8; STEP] {
        // SAFETY: as above.
        unsafe { rounded(x, inverse) }
    }

    #[inline(always)]
    fn nibbles(self, codes: &[u8; STEP]) -> [u8; STEP / 2] {
        // SAFETY: as above.
        unsafe { nibbles(codes) }
    }

    #[inline(always)]
    fn fifth_bits(self, codes: &[u8; STEP]) -> u32 {
        // SAFETY: as above.
        unsafe { fifth_bits(codes) }
    }

    #[inline(always)]
    fn f16_bits(self, x: &[f32; STEP]) -> [u16; STEP] {
        // SAFETY: as above.
        unsafe { f16_bits(x) }
    }

    #[inline(always)]
    fn f16_values(self, bits: &[u16; STEP]) -> [f32; STEP] {
        // SAFETY: as above.
        unsafe { f16_values(bits) }
    }
}
