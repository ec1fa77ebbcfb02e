//! The inner loops: those that the compiler vectorizes well (loops.rs), and one file per instruction set for the
//! others.
//!
//! Every kernel works on the same packed layouts, so packing and threading never ask which one runs:
//! a tile is [`TILE_TOKENS`] tokens by [`TILE_OUTPUTS`] outputs, operands are interleaved along k.
//!
//! All kernels give the same bits.

/// Repeats a block for every listed number. Accumulators stay in registers only if every index is a constant,
/// and whether the compiler unrolls a loop over them depends on its level of optimization.
macro_rules! unroll {
    ($i:ident in [$($n:literal)*] $body:block) => {
        $({
            let $i: usize = $n;
            $body
        })*
    };
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
mod loops;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

use plmconv_quant::codec::dot::{EncodedDot, IntRow};
use plmconv_quant::product;
use plmconv_quant::simd::Level;

pub(crate) use product::Tile;

/// Tokens of a tile.
pub(crate) const TILE_TOKENS: usize = product::TILE_ROWS;
/// Outputs (weight rows) of a tile.
pub(crate) const TILE_OUTPUTS: usize = product::TILE_COLS;
/// Columns that share a scale in integer tiles.
pub(crate) const GROUP: usize = 64;
/// Largest magnitude of an integer operand.
const MAX_INTEGER: f32 = 32767.0;
/// Largest Euclidean norm of a group's integers, before they are rounded. By Cauchy and Schwarz no sum of
/// products of two groups, nor any part of it, exceeds the product of their norms, which fits into 32 bits.
const MAX_NORM: f32 = 46_300.0;
const _: () = {
    // Rounding moves each of GROUP = 8 * 8 values by at most a half, the norm by at most 8 / 2.
    assert!(GROUP == 64);
    let norm = MAX_NORM as i64 + 5;
    assert!(norm * norm < i32::MAX as i64);
};

/// Operands of an integer tile.
#[derive(Clone, Copy)]
pub(crate) struct IntOperands<'a> {
    /// `[groups * GROUP / 2][TILE_TOKENS][2]`
    pub activations: &'a [i16],
    /// `[groups][TILE_TOKENS]`
    pub activation_scales: &'a [f32],
    /// `[groups * GROUP / 2][TILE_OUTPUTS][2]`
    pub weights: &'a [i16],
    /// `[groups][TILE_OUTPUTS]`
    pub weight_scales: &'a [f32],
}

impl IntOperands<'_> {
    fn groups(&self) -> usize {
        let groups = self.activation_scales.len() / TILE_TOKENS;
        assert_eq!(self.activations.len(), groups * GROUP * TILE_TOKENS);
        assert_eq!(self.weights.len(), groups * GROUP * TILE_OUTPUTS);
        assert_eq!(self.weight_scales.len(), groups * TILE_OUTPUTS);
        groups
    }
}

/// The inner loops of one instruction set. Matching on the level is what makes calling them safe: its token is the
/// proof that the CPU has the instructions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernels(pub Level);

impl Kernels {
    /// Those of the process's level.
    pub fn best() -> Kernels {
        Kernels(Level::detect())
    }

    /// `tile[t][o] = sum over k of activations[k][t] * weights[k][o]`.
    ///
    /// `activations`: `[k][TILE_TOKENS]`, `weights`: `[k][TILE_OUTPUTS]`.
    #[inline]
    pub fn tile_f32(&self, activations: &[f32], weights: &[f32], tile: &mut Tile) {
        product::tile(self.0, activations, weights, tile);
    }

    /// The same with integer operands: exact 32-bit sums within a group, scaled and added in f32.
    #[inline]
    pub fn tile_i16(&self, operands: IntOperands<'_>, tile: &mut Tile) {
        operands.groups();
        match self.0 {
            // SAFETY: the token is the proof that the CPU has the instructions; lengths are checked above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(_) => unsafe { avx2::tile_i16(operands, tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512(_) => unsafe { avx512::tile_i16(operands, tile) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Level::Neon(_) => unsafe { neon::tile_i16(operands, tile) },
            _ => generic::tile_i16(operands, tile),
        }
    }

    /// Scalar product of two vectors of one length.
    #[inline]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        self.0.run(loops::Dot(a, b))
    }

    /// Scalar product of an encoded row of weights and one token's activations.
    #[inline]
    pub fn dot_encoded(&self, dot: EncodedDot, bytes: &[u8], row: &IntRow) -> f32 {
        dot.product(self.0, bytes, row)
    }

    /// Replaces every x by exp(x - max) and returns their sum. No x may exceed `max`.
    #[inline]
    pub fn exp_minus(&self, values: &mut [f32], max: f32) -> f32 {
        self.0.run(loops::ExpMinus(values, max))
    }

    /// Rounds a group of activations to integers, returns their scale.
    #[inline]
    pub fn round_group(&self, group: &[f32; GROUP], out: &mut [i16; GROUP]) -> f32 {
        self.0.run(loops::RoundGroup(group, out))
    }

    /// Rounds a group of a panel's weights to integers and interleaves them.
    ///
    /// `rows`: `[TILE_OUTPUTS][stride]`, of which the first [`GROUP`] columns are taken, `out`:
    /// `[GROUP / 2][TILE_OUTPUTS][2]`, `scales`: `[TILE_OUTPUTS]`.
    #[inline]
    pub fn interleave_weights(&self, rows: &[f32], stride: usize, out: &mut [i16], scales: &mut [f32]) {
        assert!(stride >= GROUP && rows.len() >= (TILE_OUTPUTS - 1) * stride + GROUP);
        assert_eq!(out.len(), TILE_OUTPUTS * GROUP);
        assert_eq!(scales.len(), TILE_OUTPUTS);
        self.0.run(loops::InterleaveWeights { rows, stride, out, scales });
    }
}
