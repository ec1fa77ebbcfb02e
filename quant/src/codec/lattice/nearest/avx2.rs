//! Eight candidates at once.

use std::arch::x86_64::*;

use super::{Levels, Nearest};
use crate::codec::lattice::grid::Candidates;
use crate::simd::Avx2;

/// Vectors of the CPU whose AVX2 the token proves.
#[derive(Clone, Copy)]
pub(in crate::codec::lattice) struct Avx2Nearest(pub(in crate::codec::lattice) Avx2);

impl Nearest for Avx2Nearest {
    #[inline(always)]
    fn nearest<const N: usize>(
        self,
        levels: &Levels,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        candidates: Candidates<'_>,
    ) -> u16 {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe {
            match (x.as_slice().try_into(), w.as_slice().try_into()) {
                (Ok(x), Ok(w)) => best(candidates, &of_eight(levels, x, w, scale)),
                _ => best(candidates, &of_four(levels, x, w, scale)),
            }
        }
    }
}

/// What each code costs at each value, for looking up by a lane's code.
struct Errors<const N: usize> {
    of: [__m256; N],
}

/// `(w·d)·d`, where `d` is `scale·level − x`.
#[inline]
#[target_feature(enable = "avx2")]
fn error(scaled: __m256, x: __m256, w: __m256) -> __m256 {
    let difference = _mm256_sub_ps(scaled, x);
    _mm256_mul_ps(_mm256_mul_ps(w, difference), difference)
}

/// Four codes a value: each half of a register has them all.
#[inline]
#[target_feature(enable = "avx2")]
fn of_eight(levels: &Levels, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Errors<8> {
    // SAFETY: the arrays have the eight elements that are read; unaligned loads.
    let (levels, x, w) = unsafe {
        (_mm256_loadu_ps(levels.as_ptr()), _mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(w.as_ptr()))
    };
    let scaled = _mm256_mul_ps(_mm256_set1_ps(scale), _mm256_permute2f128_ps::<0x00>(levels, levels));
    let mut errors = [scaled; 8];
    for pair in 0..4 {
        let first = _mm256_set1_epi32(2 * pair as i32);
        let places = _mm256_add_epi32(first, _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
        let (x, w) = (_mm256_permutevar8x32_ps(x, places), _mm256_permutevar8x32_ps(w, places));
        let both = error(scaled, x, w);
        errors[2 * pair] = _mm256_permute2f128_ps::<0x00>(both, both);
        errors[2 * pair + 1] = _mm256_permute2f128_ps::<0x11>(both, both);
    }
    Errors { of: errors }
}

/// Eight codes a value: a register has them.
#[inline]
#[target_feature(enable = "avx2")]
fn of_four(levels: &Levels, x: &[f32], w: &[f32], scale: f32) -> Errors<4> {
    // SAFETY: the array has the eight elements that are read; unaligned load.
    let levels = unsafe { _mm256_loadu_ps(levels.as_ptr()) };
    let scaled = _mm256_mul_ps(_mm256_set1_ps(scale), levels);
    let of = |i: usize| error(scaled, _mm256_set1_ps(x[i]), _mm256_set1_ps(w[i]));
    Errors { of: [of(0), of(1), of(2), of(3)] }
}

/// The errors of eight candidates, no larger than the largest finite number.
#[inline]
#[target_feature(enable = "avx2")]
fn sums<const N: usize>(candidates: &[u16; 8], errors: &Errors<N>) -> __m256 {
    // SAFETY: the array has the eight elements that are read; unaligned load.
    let mut codes = _mm256_cvtepu16_epi32(unsafe { _mm_loadu_si128(candidates.as_ptr().cast()) });
    let look_up = |codes, errors| match N {
        8 => _mm256_permutevar_ps(errors, codes),
        _ => _mm256_permutevar8x32_ps(errors, codes),
    };
    let mut sum = look_up(codes, errors.of[0]);
    for errors in &errors.of[1..] {
        codes = if N == 8 { _mm256_srli_epi32::<2>(codes) } else { _mm256_srli_epi32::<3>(codes) };
        sum = _mm256_add_ps(sum, look_up(codes, *errors));
    }
    // Of a NaN and a number the second operand is taken.
    _mm256_min_ps(sum, _mm256_set1_ps(f32::MAX))
}

#[inline]
#[target_feature(enable = "avx2")]
fn best<const N: usize>(candidates: Candidates<'_>, errors: &Errors<N>) -> u16 {
    let steps = candidates.padded.as_flattened().as_chunks::<8>().0;
    let steps = &steps[..candidates.count.div_ceil(8)];
    let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let infinity = _mm256_set1_ps(f32::INFINITY);
    let (mut least, mut at) = (infinity, lane);
    for (step, codes) in steps.iter().enumerate() {
        let here = _mm256_add_epi32(lane, _mm256_set1_epi32(8 * step as i32));
        let mut sum = sums(codes, errors);
        if step + 1 == steps.len() {
            // Some lanes may be padding.
            let in_use = _mm256_cmpgt_epi32(_mm256_set1_epi32(candidates.count as i32), here);
            sum = _mm256_blendv_ps(infinity, sum, _mm256_castsi256_ps(in_use));
        }
        let better = _mm256_cmp_ps::<_CMP_LT_OQ>(sum, least);
        least = _mm256_min_ps(sum, least);
        at = _mm256_blendv_epi8(at, here, _mm256_castps_si256(better));
    }
    let least_of_all = least_of_all(least);
    let equal = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_EQ_OQ>(least, least_of_all));
    // Each lane has its first of equals; the earliest of the lanes is the first of all.
    let first = earliest(_mm256_or_si256(at, _mm256_andnot_si256(equal, _mm256_set1_epi32(i32::MAX))));
    steps.as_flattened()[first as usize]
}

/// The least value, in every lane.
#[inline]
#[target_feature(enable = "avx2")]
fn least_of_all(values: __m256) -> __m256 {
    let values = _mm256_min_ps(values, _mm256_permute2f128_ps::<0x01>(values, values));
    let values = _mm256_min_ps(values, _mm256_permute_ps::<0x4e>(values));
    _mm256_min_ps(values, _mm256_permute_ps::<0xb1>(values))
}

/// The least of numbers that are not negative.
#[inline]
#[target_feature(enable = "avx2")]
fn earliest(at: __m256i) -> i32 {
    let at = _mm_min_epu32(_mm256_castsi256_si128(at), _mm256_extracti128_si256::<1>(at));
    let at = _mm_min_epu32(at, _mm_shuffle_epi32::<0x4e>(at));
    _mm_cvtsi128_si32(_mm_min_epu32(at, _mm_shuffle_epi32::<0xb1>(at)))
}
