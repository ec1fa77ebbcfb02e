//! Lanes of AVX2. Bytes are taken apart as pairs: the low byte of every 16-bit lane holds an even column, the high byte
//! an odd one, and nothing has to be moved between lanes.

use std::arch::x86_64::*;

use super::{LANES, Lanes};
use crate::codec::field::{Field, RUN};
use crate::simd::{Avx2, Avx512};

/// Vectors of a CPU whose AVX2 a token proved.
#[derive(Clone, Copy)]
pub(super) struct Avx2Lanes(());

impl Avx2Lanes {
    pub fn new(_: Avx2) -> Avx2Lanes {
        Avx2Lanes(())
    }

    /// AVX-512 F includes AVX2.
    pub fn within(_: Avx512) -> Avx2Lanes {
        Avx2Lanes(())
    }

    /// The even and the odd codes' bits of a field as 16-bit integers.
    #[inline(always)]
    fn field(self, field: Field, block: &[u8]) -> [__m256i; 2] {
        let bytes: &[u8; RUN] = block[field.at..].first_chunk().expect("a field lies in its block");
        // SAFETY: a value of this type exists only where the CPU has AVX2; 32 bytes are a vector.
        unsafe {
            let bytes = _mm256_loadu_si256(bytes.as_ptr().cast());
            let mask = _mm256_set1_epi16(i16::from(field.mask()));
            let place = _mm_cvtsi32_si128(field.place as i32);
            let even = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(field.shift as i32));
            let odd = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(8 + field.shift as i32));
            [
                _mm256_sll_epi16(_mm256_and_si256(even, mask), place),
                _mm256_sll_epi16(_mm256_and_si256(odd, mask), place),
            ]
        }
    }

    /// The even and the odd codes of a run.
    #[inline(always)]
    fn codes(self, [first, second]: [Field; 2], block: &[u8]) -> [__m256i; 2] {
        let codes = self.field(first, block);
        if second.bits == 0 {
            return codes;
        }
        let more = self.field(second, block);
        // SAFETY: AVX2 as above.
        unsafe { [_mm256_or_si256(codes[0], more[0]), _mm256_or_si256(codes[1], more[1])] }
    }

    /// Sums of products, as floats.
    #[inline(always)]
    fn multiply(self, [even, odd]: [__m256i; 2], values: &[i16; RUN]) -> __m256 {
        // SAFETY: AVX2 as above; 32 values are two vectors.
        unsafe {
            let values: *const __m256i = values.as_ptr().cast();
            let even = _mm256_madd_epi16(even, _mm256_loadu_si256(values));
            let odd = _mm256_madd_epi16(odd, _mm256_loadu_si256(values.add(1)));
            _mm256_cvtepi32_ps(_mm256_add_epi32(even, odd))
        }
    }
}

impl Lanes for Avx2Lanes {
    type F = __m256;

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { _mm256_set1_ps(value) }
    }
    #[inline(always)]
    fn halves(self, low: f32, high: f32) -> __m256 {
        // SAFETY: AVX2 as above.
        unsafe { _mm256_set_m128(_mm_set1_ps(high), _mm_set1_ps(low)) }
    }
    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m256 {
        // SAFETY: AVX2 as above; eight values are a vector.
        unsafe { _mm256_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn to_array(self, a: __m256) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: AVX2 as above; eight values are a vector.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), a) };
        out
    }
    #[inline(always)]
    fn floats(self, scales: &[i8; 2 * LANES]) -> [f32; 2 * LANES] {
        let mut out = [0.0; 2 * LANES];
        // SAFETY: AVX2 as above; sixteen bytes are read, and the two stores fill the sixteen places.
        unsafe {
            let scales = _mm_loadu_si128(scales.as_ptr().cast());
            let low = _mm256_cvtepi8_epi32(scales);
            let high = _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(scales));
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtepi32_ps(low));
            _mm256_storeu_ps(out.as_mut_ptr().add(LANES), _mm256_cvtepi32_ps(high));
        }
        out
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 as above.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 as above.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: AVX2 as above.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn products(self, fields: [Field; 2], zero: u8, block: &[u8], values: &[i16; RUN]) -> __m256 {
        let [even, odd] = self.codes(fields, block);
        if zero == 0 {
            return self.multiply([even, odd], values);
        }
        // SAFETY: AVX2 as above.
        let codes = unsafe {
            let zero = _mm256_set1_epi16(zero.into());
            [_mm256_sub_epi16(even, zero), _mm256_sub_epi16(odd, zero)]
        };
        self.multiply(codes, values)
    }
    #[inline(always)]
    fn signed_products(self, codes: &[u8; RUN], values: &[i16; RUN]) -> __m256 {
        // SAFETY: AVX2 as above; 32 bytes are a vector.
        let codes = unsafe {
            let codes = _mm256_loadu_si256(codes.as_ptr().cast());
            [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(codes)), _mm256_srai_epi16::<8>(codes)]
        };
        self.multiply(codes, values)
    }
}
