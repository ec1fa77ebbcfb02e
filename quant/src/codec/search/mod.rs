//! The scale searches of ggml-quants.c, one sub-block at a time, in plain Rust.
//!
//! Blocks of 32 values are searched by these; for k-quants they are the reference of the vector kernels in
//! [`super::k::lanes`], which run the same operations in the same order with one sub-block per lane. The order is not
//! free anywhere: float addition does not associate, and the encoders promise the bytes of llama-quantize.

pub(in crate::codec) mod affine;
pub(in crate::codec) mod positive;
pub(in crate::codec) mod symmetric;

/// Magnitudes below this count as zero (`GROUP_MAX_EPS`).
pub(in crate::codec) const ZERO_BELOW: f32 = 1e-15;

/// What an error in each value of a sub-block costs.
#[derive(Clone, Copy)]
pub(in crate::codec) enum Weighting<'a> {
    /// `x²`.
    Square,
    /// `|x|`.
    Magnitude,
    /// Root mean square of the sub-block plus `|x|`.
    SpreadPlusMagnitude,
    /// One weight per value, in the order of the values.
    Given(&'a [f32]),
}

impl<'a> Weighting<'a> {
    /// The rule for the part of the values in `range`.
    #[inline(always)]
    pub(in crate::codec) fn slice(self, range: std::ops::Range<usize>) -> Weighting<'a> {
        match self {
            Weighting::Given(weights) => Weighting::Given(&weights[range]),
            rule => rule,
        }
    }

    /// Writes the weights of one sub-block.
    #[inline(always)]
    pub(in crate::codec) fn fill(self, x: &[f32], weights: &mut [f32]) {
        match self {
            Weighting::Square => weights.iter_mut().zip(x).for_each(|(w, &x)| *w = x * x),
            Weighting::Magnitude => weights.iter_mut().zip(x).for_each(|(w, &x)| *w = x.abs()),
            Weighting::SpreadPlusMagnitude => {
                let squares = x.iter().fold(0.0, |sum, &x| sum + x * x);
                let spread = (squares / x.len() as f32).sqrt();
                weights.iter_mut().zip(x).for_each(|(w, &x)| *w = spread + x.abs());
            }
            Weighting::Given(given) => weights.copy_from_slice(given),
        }
    }
}
