//! Sixteen lanes as one 512-bit register.

use std::arch::x86_64::*;

use super::{LANES, Lanes};
use crate::simd::Avx512;

/// Vectors of the CPU whose AVX-512 the token proves.
#[derive(Clone, Copy)]
pub(in crate::codec) struct Avx512Lanes(pub(in crate::codec) Avx512);

/// Methods that are one intrinsic.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $from:ty),+) -> $to:ty = $op:expr;)+) => {
        $(#[inline(always)]
        fn $name(self, $($arg: $from),+) -> $to {
            // SAFETY: a value of this type exists only where the CPU has AVX-512 F, BW, DQ and VL.
            unsafe { $op($($arg),+) }
        })+
    };
}

impl Lanes for Avx512Lanes {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;

    intrinsics! {
        splat(value: f32) -> Self::F = _mm512_set1_ps;
        add(a: Self::F, b: Self::F) -> Self::F = _mm512_add_ps;
        sub(a: Self::F, b: Self::F) -> Self::F = _mm512_sub_ps;
        mul(a: Self::F, b: Self::F) -> Self::F = _mm512_mul_ps;
        div(a: Self::F, b: Self::F) -> Self::F = _mm512_div_ps;
        sqrt(a: Self::F) -> Self::F = _mm512_sqrt_ps;
        abs(a: Self::F) -> Self::F = _mm512_abs_ps;
        min(a: Self::F, b: Self::F) -> Self::F = _mm512_min_ps;
        max(a: Self::F, b: Self::F) -> Self::F = _mm512_max_ps;
        round(a: Self::F) -> Self::F =
            _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>;
        less(a: Self::F, b: Self::F) -> Self::M = _mm512_cmp_ps_mask::<_CMP_LT_OQ>;
        equal(a: Self::F, b: Self::F) -> Self::M = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>;
        splat_int(value: i32) -> Self::I = _mm512_set1_epi32;
        to_float(a: Self::I) -> Self::F = _mm512_cvtepi32_ps;
        min_int(a: Self::I, b: Self::I) -> Self::I = _mm512_min_epi32;
        max_int(a: Self::I, b: Self::I) -> Self::I = _mm512_max_epi32;
        and_int(a: Self::I, b: Self::I) -> Self::I = _mm512_and_si512;
        equal_int(a: Self::I, b: Self::I) -> Self::M = _mm512_cmpeq_epi32_mask;
    }

    #[inline(always)]
    fn and(self, a: Self::M, b: Self::M) -> Self::M {
        a & b
    }
    #[inline(always)]
    fn and_not(self, a: Self::M, b: Self::M) -> Self::M {
        a & !b
    }
    #[inline(always)]
    fn bits(self, m: Self::M) -> u32 {
        m.into()
    }
    #[inline(always)]
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F {
        // SAFETY: a value of this type exists only where the CPU has AVX-512 F.
        unsafe { _mm512_mask_blend_ps(m, b, a) }
    }
    #[inline(always)]
    fn select_int(self, m: Self::M, a: Self::I, b: Self::I) -> Self::I {
        // SAFETY: a value of this type exists only where the CPU has AVX-512 F.
        unsafe { _mm512_mask_blend_epi32(m, b, a) }
    }
    #[inline(always)]
    fn nearest_int(self, a: Self::F) -> Self::I {
        let sum = self.add(a, self.splat(crate::codec::arithmetic::ROUNDING_MAGIC));
        // SAFETY: a value of this type exists only where the CPU has AVX-512 F.
        unsafe {
            let mantissa = _mm512_and_si512(_mm512_castps_si512(sum), _mm512_set1_epi32(0x007f_ffff));
            _mm512_sub_epi32(mantissa, _mm512_set1_epi32(0x0040_0000))
        }
    }
    #[inline(always)]
    fn to_array(self, a: Self::F) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: AVX-512 as above; the store fills the sixteen places exactly.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) };
        out
    }
    #[inline(always)]
    fn int_to_array(self, a: Self::I) -> [i32; LANES] {
        let mut out = [0; LANES];
        // SAFETY: AVX-512 as above; the store fills the sixteen places exactly.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), a) };
        out
    }
    #[inline(always)]
    fn columns(self, x: &[f32], stride: usize) -> [Self::F; 8] {
        let mut rows = [self.splat(0.0); 8];
        for (row, register) in rows.iter_mut().enumerate() {
            let low: &[f32] = &x[row * stride..][..8];
            let high: &[f32] = &x[(row + 8) * stride..][..8];
            // SAFETY: AVX-512 F and DQ as above; both slices have the eight elements that are read.
            *register = unsafe {
                let low = _mm512_castps256_ps512(_mm256_loadu_ps(low.as_ptr()));
                _mm512_insertf32x8::<1>(low, _mm256_loadu_ps(high.as_ptr()))
            };
        }
        // SAFETY: a value of this type exists only where the CPU has AVX-512 F.
        unsafe { transpose_halves(rows) }
    }
}

/// Two 8x8 transpositions at once, one in each half of the registers: by pairs, by fours, then across quarters.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose_halves(rows: [__m512; 8]) -> [__m512; 8] {
    let [a, b, c, d, e, f, g, h] = rows;
    let (ab, ab_high) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
    let (cd, cd_high) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
    let (ef, ef_high) = (_mm512_unpacklo_ps(e, f), _mm512_unpackhi_ps(e, f));
    let (gh, gh_high) = (_mm512_unpacklo_ps(g, h), _mm512_unpackhi_ps(g, h));
    let fours = [(ab, cd, ef, gh), (ab_high, cd_high, ef_high, gh_high)].map(|(ab, cd, ef, gh)| {
        [
            (_mm512_shuffle_ps::<0x44>(ab, cd), _mm512_shuffle_ps::<0x44>(ef, gh)),
            (_mm512_shuffle_ps::<0xee>(ab, cd), _mm512_shuffle_ps::<0xee>(ef, gh)),
        ]
    });
    // Quarters 0 and 2 of both, and quarters 1 and 3 of both, interleaved.
    let even = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
    let odd = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
    let pick = |index, (a, b)| {
        _mm512_castpd_ps(_mm512_permutex2var_pd(_mm512_castps_pd(a), index, _mm512_castps_pd(b)))
    };
    [
        pick(even, fours[0][0]),
        pick(even, fours[0][1]),
        pick(even, fours[1][0]),
        pick(even, fours[1][1]),
        pick(odd, fours[0][0]),
        pick(odd, fours[0][1]),
        pick(odd, fours[1][0]),
        pick(odd, fours[1][1]),
    ]
}
