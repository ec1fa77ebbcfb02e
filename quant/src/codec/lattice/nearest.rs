//! The point of a list that comes nearest to a group's values under a scale: where the encoders spend their time.
//!
//! A value's error depends on its code alone, so a group's few different errors are computed once; a candidate's is
//! the sum of those that its codes pick. The sum runs from the first value to the last as it does in ggml, so that every
//! bit is the same.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use super::grid::{Candidates, code_bits};
#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2Nearest;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::Avx512Nearest;

/// What a code stands for; types of three codes leave the rest alone.
pub(super) type Levels = [f32; 8];

/// The odd numbers: magnitudes of two- and three-bit codes.
pub(super) static ODD: Levels = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

pub(super) trait Nearest: Copy {
    /// The first of the candidates with the least `Σ (w·d)·d`, where `d` is `scale` times a level less `x`; sums that are
    /// no finite numbers count as the largest one.
    fn nearest<const N: usize>(
        self,
        levels: &Levels,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        candidates: Candidates<'_>,
    ) -> u16;
}

/// Plain Rust: what the others are compared with.
#[derive(Clone, Copy)]
pub(super) struct Plain;

impl Nearest for Plain {
    #[inline(always)]
    fn nearest<const N: usize>(
        self,
        levels: &Levels,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        candidates: Candidates<'_>,
    ) -> u16 {
        let errors: [Levels; N] = std::array::from_fn(|i| {
            levels.map(|level| {
                let difference = scale * level - x[i];
                w[i] * difference * difference
            })
        });
        let candidates = &candidates.padded.as_flattened()[..candidates.count];
        let (mut best, mut least) = (candidates[0], f32::INFINITY);
        for &candidate in candidates {
            let code = |i: usize| usize::from(candidate >> (i * code_bits(N))) % (1 << code_bits(N));
            let sum = (0..N).fold(0.0, |sum, i| sum + errors[i][code(i)]);
            let sum = if sum < f32::MAX { sum } else { f32::MAX };
            if sum < least {
                (best, least) = (candidate, sum);
            }
        }
        best
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;
    use crate::codec::lattice::grid::{self, Grid};
    use crate::random::SplitMix64;
    use crate::simd::{Avx2, Avx512};

    fn check<const N: usize>(grid: &Grid<N>, levels: &Levels) {
        let mut random = SplitMix64::new(7);
        let mut unit = || random.next_f64() as f32;
        for round in 0..3000 {
            let x: [f32; N] = std::array::from_fn(|_| unit() * 6.0);
            // Zeros make candidates equal; what overflows makes infinities, or with zeros a NaN.
            let w: [f32; N] = std::array::from_fn(|_| match round % 4 {
                0 => (unit() * 3.0).floor(),
                1 if unit() < 0.2 => f32::INFINITY,
                2 => 1e38 * unit(),
                _ => unit(),
            });
            let scale = if round % 5 == 0 { 1.0 } else { unit() * 2.0 };
            let packed = (unit() * 65536.0) as u16 & (u16::MAX >> (16 - N * code_bits(N)));
            let Some(candidates) = grid.candidates(packed) else { continue };
            let expected = Plain.nearest(levels, &x, &w, scale, candidates);
            if let Some(token) = Avx2::detect() {
                assert_eq!(Avx2Nearest(token).nearest(levels, &x, &w, scale, candidates), expected);
            }
            if let Some(token) = Avx512::detect() {
                assert_eq!(Avx512Nearest(token).nearest(levels, &x, &w, scale, candidates), expected);
            }
        }
    }

    #[test]
    fn registers_find_what_plain_code_finds() {
        check(&grid::IQ2_XXS, &ODD);
        check(&grid::IQ1, &crate::codec::lattice::split::UP);
        check(&grid::IQ3_XXS, &ODD);
        check(&grid::IQ3_S, &ODD);
    }
}
