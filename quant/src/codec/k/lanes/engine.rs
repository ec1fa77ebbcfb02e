//! The lanes as an [`Engine`]: each search compiled once for each instruction set.

use super::super::engine::{self, Engine, Levels, Steps, SymmetricFit};
use super::{affine, positive, symmetric, weights};
use crate::codec::search::Weighting;
use crate::codec::search::affine::{AffineFit, AffineGrid};

/// `impl Engine` whose methods each call a function compiled with the attributes given, into which the generic search
/// and its vector operations are inlined.
macro_rules! engine {
    ($lanes:ty $(, #[$attribute:meta])?) => {
        impl Engine for $lanes {
            fn affine<const SUB: usize>(
                self,
                grid: &AffineGrid,
                x: &[f32],
                weighting: Weighting<'_>,
                fits: &mut [AffineFit],
            ) {
                $(#[$attribute])?
                fn inner<const SUB: usize>(
                    lanes: $lanes,
                    grid: &AffineGrid,
                    x: &[f32],
                    weighting: Weighting<'_>,
                    fits: &mut [AffineFit],
                ) {
                    affine::fit_all::<_, SUB>(lanes, grid, x, weighting, fits);
                }
                engine!(call inner::<SUB>(self, grid, x, weighting, fits) $(, $attribute)?)
            }

            fn symmetric(self, half: i32, x: &[f32], weighting: Weighting<'_>, fits: &mut [SymmetricFit]) {
                $(#[$attribute])?
                fn inner(
                    lanes: $lanes,
                    half: i32,
                    x: &[f32],
                    weighting: Weighting<'_>,
                    fits: &mut [SymmetricFit],
                ) {
                    symmetric::fit_all(lanes, half, x, weighting, fits);
                }
                engine!(call inner(self, half, x, weighting, fits) $(, $attribute)?)
            }

            fn symmetric_codes(
                self,
                half: i32,
                x: &[f32],
                weights: &[f32],
                codes: &mut [u8],
                scales: &mut [f32],
            ) {
                $(#[$attribute])?
                fn inner(
                    lanes: $lanes,
                    half: i32,
                    x: &[f32],
                    weights: &[f32],
                    codes: &mut [u8],
                    scales: &mut [f32],
                ) {
                    symmetric::fit_all_codes(lanes, half, x, weights, codes, scales);
                }
                engine!(call inner(self, half, x, weights, codes, scales) $(, $attribute)?)
            }

            fn descent(self, half: i32, x: &[f32], scales: &mut [f32]) {
                $(#[$attribute])?
                fn inner(lanes: $lanes, half: i32, x: &[f32], scales: &mut [f32]) {
                    symmetric::descend_all(lanes, half, x, scales);
                }
                engine!(call inner(self, half, x, scales) $(, $attribute)?)
            }

            fn positive<const N: usize>(
                self,
                max_code: i32,
                x: &[f32],
                weights: &[f32],
                codes: &mut [u8],
                scales: &mut [f32],
            ) {
                $(#[$attribute])?
                fn inner<const N: usize>(
                    lanes: $lanes,
                    max_code: i32,
                    x: &[f32],
                    weights: &[f32],
                    codes: &mut [u8],
                    scales: &mut [f32],
                ) {
                    positive::fit_all::<_, N>(lanes, max_code, x, weights, codes, scales);
                }
                engine!(call inner::<N>(self, max_code, x, weights, codes, scales) $(, $attribute)?)
            }

            fn requantize(self, levels: Levels, sub: usize, x: &[f32], steps: &Steps, codes: &mut [u8]) {
                $(#[$attribute])?
                fn inner(levels: Levels, sub: usize, x: &[f32], steps: &Steps, codes: &mut [u8]) {
                    engine::requantize(levels, sub, x, steps, codes);
                }
                engine!(call inner(levels, sub, x, steps, codes) $(, $attribute)?)
            }

            fn importance_weights(self, factor: f32, x: &[f32], importance: &[f32], weights: &mut [f32]) {
                $(#[$attribute])?
                fn inner(lanes: $lanes, factor: f32, x: &[f32], importance: &[f32], weights: &mut [f32]) {
                    weights::fill(lanes, factor, x, importance, weights);
                }
                engine!(call inner(self, factor, x, importance, weights) $(, $attribute)?)
            }
        }
    };
    (call $call:expr, $attribute:meta) => {
        // SAFETY: a value of the lanes' type exists only where the CPU has the instructions.
        unsafe { $call }
    };
    (call $call:expr) => {
        $call
    };
}

engine!(super::PortableLanes);
#[cfg(target_arch = "x86_64")]
engine!(super::Avx2Lanes, #[target_feature(enable = "avx2")]);
#[cfg(target_arch = "x86_64")]
engine!(super::Avx512Lanes, #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]);
