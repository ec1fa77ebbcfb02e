//! The point of a list that comes nearest to a group's values under a scale: where the encoders spend their time.
//!
//! A value's error depends on its code alone, so a group's few different errors are computed once; a candidate's is
//! the sum of those that its codes pick. The sum runs from the first value to the last as it does in ggml, so that every
//! bit is the same.

use super::grid::{CANDIDATES_STEP, code_bits};

/// What a code stands for; types of three codes leave the rest alone.
pub(super) type Levels = [f32; 8];

/// The odd numbers: magnitudes of two- and three-bit codes.
pub(super) const ODD: Levels = [1.0, 3.0, 5.0, 7.0, 9.0, 11.0, 13.0, 15.0];

pub(super) trait Nearest: Copy {
    /// The first of the candidates with the least `Σ (w·d)·d`, where `d` is `scale` times a level less `x`; sums that are
    /// no finite numbers count as the largest one.
    fn nearest<const N: usize>(
        self,
        levels: &Levels,
        x: &[f32; N],
        w: &[f32; N],
        scale: f32,
        candidates: &[[u16; CANDIDATES_STEP]],
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
        candidates: &[[u16; CANDIDATES_STEP]],
    ) -> u16 {
        let errors: [Levels; N] = std::array::from_fn(|i| {
            levels.map(|level| {
                let difference = scale * level - x[i];
                w[i] * difference * difference
            })
        });
        let candidates = candidates.as_flattened();
        let (mut best, mut least) = (candidates[0], f32::MAX);
        for &candidate in candidates {
            let code = |i: usize| usize::from(candidate >> (i * code_bits(N))) % (1 << code_bits(N));
            let sum = (0..N).fold(0.0, |sum, i| sum + errors[i][code(i)]);
            if sum < least {
                (best, least) = (candidate, sum);
            }
        }
        best
    }
}
