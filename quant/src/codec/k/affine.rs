//! Encoding of the types with mins: Q2_K, Q4_K and Q5_K.

use super::batch::{BATCH, for_each_batch};
use super::engine::{Engine, affine_one};
use super::layout::{Layout, Scales, write_block};
use super::{MOST_SUBS, SUPER_BLOCK};
use crate::codec::arithmetic::nearest_int;
use crate::codec::search::Weighting;
use crate::codec::search::affine::{AffineFit, AffineGrid};

/// How a type is searched, where types differ.
pub(super) trait AffineType: Layout {
    /// The scales that are tried without importance.
    const PLAIN: AffineGrid;
    /// What an error costs then.
    const WEIGHTING: Weighting<'static>;
    /// How much the mean square counts with importance.
    const SPREAD: f32;
    /// The largest scale and min.
    const MAX_SCALE: u8;
    /// What scales and mins are cut to before they are packed, without importance and with it. ggml lets what wrapped around
    /// spill over where it does not cut.
    const CUT: [u8; 2];
}

/// Encodes rows of a type with sub-blocks of `SUB` values, `SUBS` in a super-block.
pub(super) fn encode<T: AffineType, E: Engine, const SUB: usize, const SUBS: usize>(
    engine: E,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    const { assert!(SUB == T::SUB && SUB * SUBS == SUPER_BLOCK) };
    let weighted = AffineGrid::weighted((1 << T::BITS) - 1);
    let mut weights = vec![0.0; if importance.is_some() { BATCH * SUPER_BLOCK } else { 0 }];
    for_each_batch(values, importance, T::BYTES, out, |batch| {
        let mut fits = [AffineFit::default(); BATCH * MOST_SUBS];
        let fits = &mut fits[..batch.len() * SUBS];
        let mut scales = [Scales::default(); BATCH];
        let (grid, weighting) = match batch.importance {
            None => (&T::PLAIN, T::WEIGHTING),
            Some(importance) => {
                let weights = &mut weights[..batch.x.len()];
                engine.importance_weights(T::SPREAD, batch.x, importance, weights);
                (&weighted, Weighting::Given(weights))
            }
        };
        engine.affine::<SUB>(grid, batch.x, weighting, fits);
        if batch.importance.is_some() {
            quantize_scales_weighted::<T, E, SUBS>(engine, fits, &mut scales);
        } else {
            let supers = fits.chunks_exact(SUBS).zip(&mut scales);
            supers.for_each(|(fits, scales)| *scales = quantize_scales::<T>(fits));
        }
        let blocks = batch.x.chunks_exact(SUPER_BLOCK).zip(batch.out.chunks_exact_mut(T::BYTES));
        for (index, ((x, out), scales)) in blocks.zip(&scales).enumerate() {
            write_block::<T, E>(engine, x, scales, out, |sub, x, codes| {
                let first = index * SUPER_BLOCK + sub * SUB;
                let weighting = weighting.slice(first..first + SUB);
                codes.copy_from_slice(&affine_one::<SUB>(grid, x, weighting).1);
            });
        }
    });
}

/// The plain way: relative to the largest.
fn quantize_scales<T: AffineType>(fits: &[AffineFit]) -> Scales {
    let largest = |value: fn(&AffineFit) -> f32| {
        fits.iter().map(value).fold(0.0, |largest, value| if value > largest { value } else { largest })
    };
    let (max_scale, max_min) = (largest(|fit| fit.scale), largest(|fit| fit.offset));
    let top = f32::from(T::MAX_SCALE);
    let inverse = |max: f32| if max > 0.0 { top / max } else { 0.0 };
    let (inverse_scale, inverse_min) = (inverse(max_scale), inverse(max_min));
    let code = |value: f32| (nearest_int(value) as u8).min(T::CUT[0]);
    let mut scales = Scales { d: max_scale / top, dmin: max_min / top, ..Scales::default() };
    for (index, fit) in fits.iter().enumerate() {
        scales.scale[index] = code(inverse_scale * fit.scale) as i8;
        scales.min[index] = code(inverse_min * fit.offset);
    }
    scales
}

/// With importance: a search of its own, in which a sub-block counts as its weights' sum.
fn quantize_scales_weighted<T: AffineType, E: Engine, const SUBS: usize>(
    engine: E,
    fits: &[AffineFit],
    out: &mut [Scales; BATCH],
) {
    let mut codes = [0; BATCH * MOST_SUBS];
    let mut units = [0.0; BATCH];
    let mut values = [0.0; BATCH * MOST_SUBS];
    let mut weights = [0.0; BATCH * MOST_SUBS];
    let (subs, supers) = (fits.len(), fits.len() / SUBS);
    let mut search = |value: fn(&AffineFit) -> f32, store: fn(&mut Scales, f32, [u8; SUBS])| {
        for (index, fit) in fits.iter().enumerate() {
            values[index] = value(fit);
            weights[index] = fit.weight;
        }
        let codes = &mut codes[..subs];
        let max = T::MAX_SCALE.into();
        engine.positive::<SUBS>(max, &values[..subs], &weights[..subs], codes, &mut units[..supers]);
        for ((scales, codes), &unit) in out.iter_mut().zip(codes.as_chunks().0).zip(&units[..supers]) {
            store(scales, unit, codes.map(|code| code.min(T::CUT[1])));
        }
    };
    search(
        |fit| fit.scale,
        |scales, unit, codes| {
            scales.d = unit;
            scales.scale.iter_mut().zip(codes).for_each(|(scale, code)| *scale = code as i8);
        },
    );
    search(
        |fit| fit.offset,
        |scales, unit, codes| {
            scales.dmin = unit;
            scales.min[..SUBS].copy_from_slice(&codes);
        },
    );
}
