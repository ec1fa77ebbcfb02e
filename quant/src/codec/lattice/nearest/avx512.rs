//! Sixteen candidates at once.

use std::arch::x86_64::*;

use super::{Levels, Nearest};
use crate::codec::lattice::grid::{CANDIDATES_STEP, Candidates};
use crate::simd::Avx512;

/// Vectors of the CPU whose AVX-512 the token proves.
#[derive(Clone, Copy)]
pub(in crate::codec::lattice) struct Avx512Nearest(pub(in crate::codec::lattice) Avx512);

impl Nearest for Avx512Nearest {
    #[inline(always)]
    fn nearest<const N: usize>(
        self,
        levels: &Levels,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        candidates: Candidates<'_>,
    ) -> u16 {
        // SAFETY: a value of this type exists only where the CPU has AVX-512 F, BW, DQ and VL.
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
    of: [__m512; N],
}

/// `(w·d)·d`, where `d` is `scale·level − x`.
#[inline]
#[target_feature(enable = "avx512f")]
fn error(scaled: __m512, x: __m512, w: __m512) -> __m512 {
    let difference = _mm512_sub_ps(scaled, x);
    _mm512_mul_ps(_mm512_mul_ps(w, difference), difference)
}

/// Four codes a value: each quarter of a register has them all.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn of_eight(levels: &Levels, x: &[f32; 8], w: &[f32; 8], scale: f32) -> Errors<8> {
    // SAFETY: the arrays have the eight elements that are read; unaligned loads.
    let [levels, x, w] =
        unsafe { [levels, x, w].map(|values| _mm512_broadcast_f32x8(_mm256_loadu_ps(values.as_ptr()))) };
    let scaled = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_shuffle_f32x4::<0>(levels, levels));
    let first = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    let last = _mm512_add_epi32(first, _mm512_set1_epi32(4));
    let of = |places| error(scaled, _mm512_permutexvar_ps(places, x), _mm512_permutexvar_ps(places, w));
    let (a, b) = (of(first), of(last));
    Errors {
        of: [
            _mm512_shuffle_f32x4::<0x00>(a, a),
            _mm512_shuffle_f32x4::<0x55>(a, a),
            _mm512_shuffle_f32x4::<0xaa>(a, a),
            _mm512_shuffle_f32x4::<0xff>(a, a),
            _mm512_shuffle_f32x4::<0x00>(b, b),
            _mm512_shuffle_f32x4::<0x55>(b, b),
            _mm512_shuffle_f32x4::<0xaa>(b, b),
            _mm512_shuffle_f32x4::<0xff>(b, b),
        ],
    }
}

/// Eight codes a value: each half of a register has them all.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn of_four(levels: &Levels, x: &[f32], w: &[f32], scale: f32) -> Errors<4> {
    // SAFETY: the array has the eight elements that are read; unaligned load.
    let levels = unsafe { _mm512_broadcast_f32x8(_mm256_loadu_ps(levels.as_ptr())) };
    let scaled = _mm512_mul_ps(_mm512_set1_ps(scale), levels);
    let of = |i: usize| error(scaled, _mm512_set1_ps(x[i]), _mm512_set1_ps(w[i]));
    Errors { of: [of(0), of(1), of(2), of(3)] }
}

/// The errors of sixteen candidates, no larger than the largest finite number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sums<const N: usize>(candidates: &[u16; CANDIDATES_STEP], errors: &Errors<N>) -> __m512 {
    // SAFETY: the array has the sixteen elements that are read; unaligned load.
    let mut codes = _mm512_cvtepu16_epi32(unsafe { _mm256_loadu_si256(candidates.as_ptr().cast()) });
    let look_up = |codes, errors| match N {
        8 => _mm512_permutevar_ps(errors, codes),
        _ => _mm512_permutexvar_ps(codes, errors),
    };
    let mut sum = look_up(codes, errors.of[0]);
    for errors in &errors.of[1..] {
        codes = if N == 8 { _mm512_srli_epi32::<2>(codes) } else { _mm512_srli_epi32::<3>(codes) };
        sum = _mm512_add_ps(sum, look_up(codes, *errors));
    }
    // Of a NaN and a number the second operand is taken.
    _mm512_min_ps(sum, _mm512_set1_ps(f32::MAX))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn best<const N: usize>(candidates: Candidates<'_>, errors: &Errors<N>) -> u16 {
    // Of the last step some lanes may be padding.
    let in_use = u16::MAX >> (CANDIDATES_STEP * candidates.padded.len() - candidates.count);
    let [codes] = candidates.padded else { return best_of_many(candidates.padded, in_use, errors) };
    let sum = _mm512_mask_mov_ps(_mm512_set1_ps(f32::INFINITY), in_use, sums(codes, errors));
    let least = _mm512_reduce_min_ps(sum);
    let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(sum, _mm512_set1_ps(least));
    // No lane in use is a NaN, so one of sixteen is equal.
    codes[(equal.trailing_zeros() & 15) as usize]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn best_of_many<const N: usize>(
    candidates: &[[u16; CANDIDATES_STEP]],
    in_use: u16,
    errors: &Errors<N>,
) -> u16 {
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    // The best of each lane and where in the list it is; later ones count only if less.
    let (mut least, mut at) = (infinity, lane);
    let mut here = lane;
    for (step, codes) in candidates.iter().enumerate() {
        let mut sum = sums(codes, errors);
        if step + 1 == candidates.len() {
            sum = _mm512_mask_mov_ps(infinity, in_use, sum);
        }
        let better = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(sum, least);
        least = _mm512_min_ps(sum, least);
        at = _mm512_mask_mov_epi32(at, better, here);
        here = _mm512_add_epi32(here, _mm512_set1_epi32(CANDIDATES_STEP as i32));
    }
    let least_of_all = _mm512_reduce_min_ps(least);
    let equal = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(least, _mm512_set1_ps(least_of_all));
    // Each lane has its first of equals; the earliest of the lanes is the first of all.
    let first = _mm512_mask_reduce_min_epu32(equal, at) as usize;
    candidates.as_flattened()[first]
}
