//! The sixteen-value table in vector registers: the nearest entry by bisection with table look-ups instead of
//! branches. A comparison is `!(a < bound)`, so that a NaN goes all the way up as it does in the plain code.

use std::arch::x86_64::*;

use super::{BOUNDS, VALUES};
use crate::codec::k::lanes::{Avx2Lanes, Avx512Lanes, LANES, Lanes};

/// What the search needs beside arithmetic.
pub(super) trait TableLanes: Lanes {
    fn load(self, a: [f32; LANES]) -> Self::F;

    /// The table's value nearest to each.
    fn nearest_value(self, a: Self::F) -> Self::F;

    /// The index of the value nearest to `low`, and of that nearest to `high` in the upper four bits.
    fn nearest_codes(self, low: Self::F, high: Self::F) -> [u8; LANES];
}

/// `BOUNDS[i + step - 1]` at `i`: what to compare with at index `i` to decide on going `step` further.
const fn bounds_ahead(step: usize) -> [f32; LANES] {
    let mut ahead = [f32::INFINITY; LANES];
    let mut i = 0;
    while i + step <= BOUNDS.len() {
        ahead[i] = BOUNDS[i + step - 1];
        i += 1;
    }
    ahead
}

const AHEAD_8: [f32; LANES] = bounds_ahead(8);
const AHEAD_4: [f32; LANES] = bounds_ahead(4);
const AHEAD_2: [f32; LANES] = bounds_ahead(2);
const AHEAD_1: [f32; LANES] = bounds_ahead(1);

const FLOAT_VALUES: [f32; LANES] = {
    let mut values = [0.0; LANES];
    let mut i = 0;
    while i < LANES {
        values[i] = VALUES[i] as f32;
        i += 1;
    }
    values
};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn load_512(a: &[f32; LANES]) -> __m512 {
    // SAFETY: the array has the sixteen elements that are read; unaligned load.
    unsafe { _mm512_loadu_ps(a.as_ptr()) }
}

/// The index of the table value nearest to each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn nearest_index_512(a: __m512) -> __m512i {
    let beyond = |bound| _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(a, bound);
    let step = |index, mask, step| _mm512_mask_add_epi32(index, mask, index, _mm512_set1_epi32(step));
    let index = _mm512_maskz_set1_epi32(beyond(_mm512_set1_ps(AHEAD_8[0])), 8);
    let index = step(index, beyond(_mm512_permutexvar_ps(index, load_512(&AHEAD_4))), 4);
    let index = step(index, beyond(_mm512_permutexvar_ps(index, load_512(&AHEAD_2))), 2);
    step(index, beyond(_mm512_permutexvar_ps(index, load_512(&AHEAD_1))), 1)
}

impl TableLanes for Avx512Lanes {
    #[inline(always)]
    fn load(self, a: [f32; LANES]) -> Self::F {
        // SAFETY: a value of this type exists only where the CPU has AVX-512 F, BW, DQ and VL.
        unsafe { load_512(&a) }
    }

    #[inline(always)]
    fn nearest_value(self, a: Self::F) -> Self::F {
        // SAFETY: as above.
        unsafe { _mm512_permutexvar_ps(nearest_index_512(a), load_512(&FLOAT_VALUES)) }
    }

    #[inline(always)]
    fn nearest_codes(self, low: Self::F, high: Self::F) -> [u8; LANES] {
        let mut codes = [0; LANES];
        // SAFETY: AVX-512 as above; the store fills the sixteen places exactly.
        unsafe {
            let high = _mm512_slli_epi32::<4>(nearest_index_512(high));
            let both = _mm512_or_si512(nearest_index_512(low), high);
            _mm_storeu_si128(codes.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(both));
        }
        codes
    }
}

/// Every second bound from `first` on, where an index into eight entries counts downwards: entry `-k mod 8` is for
/// the k-th. Masks are all ones, minus one as a number, so that an index is a sum of masks.
const fn downward(first: usize, stride: usize) -> [f32; 8] {
    let mut table = [f32::INFINITY; 8];
    let mut k = 0;
    while first + k * stride < BOUNDS.len() {
        table[(8 - k) % 8] = BOUNDS[first + k * stride];
        k += 1;
    }
    table
}

/// The even or the odd table values, downward as in [`downward`].
const fn downward_values(first: usize) -> [f32; 8] {
    let mut table = [0.0; 8];
    let mut k = 0;
    while k < 8 {
        table[(8 - k) % 8] = FLOAT_VALUES[first + 2 * k];
        k += 1;
    }
    table
}

const FOURTHS: [f32; 8] = downward(1, 4);
const SECONDS: [f32; 8] = downward(0, 2);
const EVEN_VALUES: [f32; 8] = downward_values(0);
const ODD_VALUES: [f32; 8] = downward_values(1);

#[inline]
#[target_feature(enable = "avx2")]
fn load_256(a: &[f32; 8]) -> __m256 {
    // SAFETY: the array has the eight elements that are read; unaligned load.
    unsafe { _mm256_loadu_ps(a.as_ptr()) }
}

/// Half the index of the nearest table value, negated; and as a mask whether the index is odd.
#[inline]
#[target_feature(enable = "avx2")]
fn bisect_256(a: __m256) -> (__m256i, __m256) {
    let beyond = |bound| _mm256_cmp_ps::<_CMP_NLT_UQ>(a, bound);
    let append = |index, mask| _mm256_add_epi32(_mm256_add_epi32(index, index), _mm256_castps_si256(mask));
    let upper = beyond(_mm256_set1_ps(BOUNDS[7]));
    let middle = _mm256_blendv_ps(_mm256_set1_ps(BOUNDS[3]), _mm256_set1_ps(BOUNDS[11]), upper);
    let index = append(_mm256_castps_si256(upper), beyond(middle));
    let index = append(index, beyond(_mm256_permutevar8x32_ps(load_256(&FOURTHS), index)));
    (index, beyond(_mm256_permutevar8x32_ps(load_256(&SECONDS), index)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn nearest_value_256(a: __m256) -> __m256 {
    let (index, odd) = bisect_256(a);
    let even_value = _mm256_permutevar8x32_ps(load_256(&EVEN_VALUES), index);
    let odd_value = _mm256_permutevar8x32_ps(load_256(&ODD_VALUES), index);
    _mm256_blendv_ps(even_value, odd_value, odd)
}

/// The index of the table value nearest to each.
#[inline]
#[target_feature(enable = "avx2")]
fn nearest_index_256(a: __m256) -> __m256i {
    let (index, odd) = bisect_256(a);
    let negated = _mm256_add_epi32(_mm256_add_epi32(index, index), _mm256_castps_si256(odd));
    _mm256_sub_epi32(_mm256_setzero_si256(), negated)
}

impl TableLanes for Avx2Lanes {
    #[inline(always)]
    fn load(self, a: [f32; LANES]) -> Self::F {
        // SAFETY: AVX2, which a value of this type proves; both loads are within the sixteen elements.
        unsafe { [_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(a.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn nearest_value(self, a: Self::F) -> Self::F {
        // SAFETY: a value of this type exists only where the CPU has AVX2.
        unsafe { [nearest_value_256(a[0]), nearest_value_256(a[1])] }
    }

    #[inline(always)]
    fn nearest_codes(self, low: Self::F, high: Self::F) -> [u8; LANES] {
        let mut codes = [0; LANES];
        for half in 0..2 {
            let mut both = [0_u32; 8];
            // SAFETY: AVX2 as above; the store fills the eight places exactly.
            unsafe {
                let high = _mm256_slli_epi32::<4>(nearest_index_256(high[half]));
                let sum = _mm256_or_si256(nearest_index_256(low[half]), high);
                _mm256_storeu_si256(both.as_mut_ptr().cast(), sum);
            }
            for (code, both) in codes[half * 8..].iter_mut().zip(both) {
                *code = both as u8;
            }
        }
        codes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::iq4::nearest_index;
    use crate::simd::{Avx2, Avx512};

    fn check(lanes: impl TableLanes, points: [f32; LANES]) {
        let values = lanes.to_array(lanes.nearest_value(lanes.load(points)));
        let mut reversed = points;
        reversed.reverse();
        let codes = lanes.nearest_codes(lanes.load(points), lanes.load(reversed));
        for lane in 0..LANES {
            let (low, high) = (nearest_index(points[lane]), nearest_index(reversed[lane]));
            assert_eq!(values[lane], FLOAT_VALUES[low], "{:e}", points[lane]);
            assert_eq!(usize::from(codes[lane]), low | high << 4, "{:e}", points[lane]);
        }
    }

    #[test]
    fn registers_find_what_plain_code_finds() {
        let mut points: Vec<f32> = (-1400..1400).map(|i| i as f32 * 0.1).collect();
        points.extend([0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-30, -1e-30, 1e9]);
        for edge in BOUNDS.into_iter().chain(FLOAT_VALUES) {
            points.extend((-8..=8).map(|ulp| f32::from_bits(edge.to_bits().wrapping_add_signed(ulp))));
        }
        for points in points.as_chunks::<LANES>().0 {
            if let Some(token) = Avx2::detect() {
                check(Avx2Lanes(token), *points);
            }
            if let Some(token) = Avx512::detect() {
                check(Avx512Lanes(token), *points);
            }
        }
    }
}
