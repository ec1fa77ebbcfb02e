//! Sixteen lanes as two 256-bit registers: the second hides the latency of the first.

use std::arch::x86_64::*;

use super::{LANES, Lanes};
use crate::simd::Avx2;

/// Vectors of the CPU whose AVX2 the token proves.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Avx2Lanes(pub(in crate::codec) Avx2);

/// Methods that apply one intrinsic to each half.
macro_rules! halves {
    ($($name:ident($($arg:ident: $from:ty),+) -> $to:ty = $op:expr;)+) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $from),+) -> $to {
            // SAFETY: a value of this type exists only where the CPU has AVX2.
            unsafe { [$op($($arg[0]),+), $op($($arg[1]),+)] }
        })+
    };
}

impl Lanes for Avx2Lanes {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type M = [__m256; 2];

    halves! {
        add(a: Self::F, b: Self::F) -> Self::F = _mm256_add_ps;
        sub(a: Self::F, b: Self::F) -> Self::F = _mm256_sub_ps;
        mul(a: Self::F, b: Self::F) -> Self::F = _mm256_mul_ps;
        div(a: Self::F, b: Self::F) -> Self::F = _mm256_div_ps;
        sqrt(a: Self::F) -> Self::F = _mm256_sqrt_ps;
        min(a: Self::F, b: Self::F) -> Self::F = _mm256_min_ps;
        max(a: Self::F, b: Self::F) -> Self::F = _mm256_max_ps;
        round(a: Self::F) -> Self::F = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>;
        less(a: Self::F, b: Self::F) -> Self::M = _mm256_cmp_ps::<_CMP_LT_OQ>;
        equal(a: Self::F, b: Self::F) -> Self::M = _mm256_cmp_ps::<_CMP_EQ_OQ>;
        and(a: Self::M, b: Self::M) -> Self::M = _mm256_and_ps;
        to_float(a: Self::I) -> Self::F = _mm256_cvtepi32_ps;
        min_int(a: Self::I, b: Self::I) -> Self::I = _mm256_min_epi32;
        max_int(a: Self::I, b: Self::I) -> Self::I = _mm256_max_epi32;
        and_int(a: Self::I, b: Self::I) -> Self::I = _mm256_and_si256;
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(sign, a[0]), _mm256_andnot_ps(sign, a[1])]
        }
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { [_mm256_blendv_ps(b[0], a[0], m[0]), _mm256_blendv_ps(b[1], a[1], m[1])] }
    }
    #[inline(always)]
    fn and_not(self, a: Self::M, b: Self::M) -> Self::M {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { [_mm256_andnot_ps(b[0], a[0]), _mm256_andnot_ps(b[1], a[1])] }
    }
    #[inline(always)]
    fn bits(self, m: Self::M) -> u32 {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { _mm256_movemask_ps(m[0]) as u32 | (_mm256_movemask_ps(m[1]) as u32) << 8 }
    }
    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { [_mm256_set1_epi32(value); 2] }
    }
    #[inline(always)]
    fn nearest_int(self, a: Self::F) -> Self::I {
        let magic = self.splat(crate::codec::arithmetic::ROUNDING_MAGIC);
        let sum = self.add(a, magic);
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe {
            let (mask, middle) = (_mm256_set1_epi32(0x007f_ffff), _mm256_set1_epi32(0x0040_0000));
            [
                _mm256_sub_epi32(_mm256_and_si256(_mm256_castps_si256(sum[0]), mask), middle),
                _mm256_sub_epi32(_mm256_and_si256(_mm256_castps_si256(sum[1]), mask), middle),
            ]
        }
    }
    #[inline(always)]
    fn equal_int(self, a: Self::I, b: Self::I) -> Self::M {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe {
            [
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(a[0], b[0])),
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    fn select_int(self, m: Self::M, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe {
            [
                _mm256_blendv_epi8(b[0], a[0], _mm256_castps_si256(m[0])),
                _mm256_blendv_epi8(b[1], a[1], _mm256_castps_si256(m[1])),
            ]
        }
    }
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: AVX2 as above; the two stores fill the sixteen places exactly.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), a[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), a[1]);
        }
        out
    }
    #[inline(always)]
    fn int_to_array(self, a: Self::I) -> [i32; LANES] {
        let mut out = [0; LANES];
        // SAFETY: AVX2 as above; the two stores fill the sixteen places exactly.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), a[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), a[1]);
        }
        out
    }
    #[inline(always)]
    fn columns(self, x: &[f32], stride: usize) -> [Self::F; 8] {
        let mut out = [self.splat(0.0); 8];
        for half in 0..2 {
            let mut rows = [self.splat(0.0)[0]; 8];
            for (row, register) in rows.iter_mut().enumerate() {
                let values: &[f32] = &x[(half * 8 + row) * stride..][..8];
                // SAFETY: AVX2 as above; `values` has the eight elements that are read.
                *register = unsafe { _mm256_loadu_ps(values.as_ptr()) };
            }
            // SAFETY: a value of this type exists only where the CPU has AVX2.
            let columns = unsafe { transpose_8x8(rows) };
            out.iter_mut().zip(columns).for_each(|(out, column)| out[half] = column);
        }
        out
    }
}

/// Rows to columns, by pairs, by fours, then across the halves of the registers.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose_8x8(rows: [__m256; 8]) -> [__m256; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let (ab, ab_high) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
    let (cd, cd_high) = (_mm256_unpacklo_ps(c, d), _mm256_unpackhi_ps(c, d));
    let (ef, ef_high) = (_mm256_unpacklo_ps(e, f), _mm256_unpackhi_ps(e, f));
    let (gh, gh_high) = (_mm256_unpacklo_ps(g, h), _mm256_unpackhi_ps(g, h));
    let fours = [(ab, cd, ef, gh), (ab_high, cd_high, ef_high, gh_high)].map(|(ab, cd, ef, gh)| {
        [
            (_mm256_shuffle_ps::<0x44>(ab, cd), _mm256_shuffle_ps::<0x44>(ef, gh)),
            (_mm256_shuffle_ps::<0xee>(ab, cd), _mm256_shuffle_ps::<0xee>(ef, gh)),
        ]
    });
    let low = |(a, b)| _mm256_permute2f128_ps::<0x20>(a, b);
    let high = |(a, b)| _mm256_permute2f128_ps::<0x31>(a, b);
    [
        low(fours[0][0]),
        low(fours[0][1]),
        low(fours[1][0]),
        low(fours[1][1]),
        high(fours[0][0]),
        high(fours[0][1]),
        high(fours[1][0]),
        high(fours[1][1]),
    ]
}
