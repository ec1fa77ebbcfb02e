//! The inner loops, one file per instruction set. [`Kernels`] is chosen once, when a model is loaded.
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
mod avx2_encoded;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod body;
mod encoded;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use plmconv_quant::product;
use plmconv_quant::simd::Level;
#[cfg(target_arch = "aarch64")]
use plmconv_quant::simd::Neon;
#[cfg(target_arch = "x86_64")]
use plmconv_quant::simd::{Avx2, Avx512};

pub(crate) use product::Tile;

use crate::error::{Error, Result};
pub(crate) use encoded::{BLOCK as ENCODED_BLOCK, Encoding, IntRow};

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

/// The instruction sets there are kernels for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Plain Rust.
    Generic,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, VL with VNNI.
    Avx512,
    /// Arm's 128-bit vectors.
    Neon,
}

impl Kernel {
    /// All kernels, the plainest first.
    pub const ALL: [Kernel; 4] = [Kernel::Generic, Kernel::Neon, Kernel::Avx2, Kernel::Avx512];

    /// The name the command line knows.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Generic => "generic",
            Kernel::Avx2 => "avx2",
            Kernel::Avx512 => "avx512",
            Kernel::Neon => "neon",
        }
    }

    /// Whether this CPU runs it.
    pub fn is_available(self) -> bool {
        self.table().is_some()
    }

    /// The fastest one this CPU runs, within what [`Level::detect`] allows.
    pub fn best() -> Kernel {
        let most = match Level::detect() {
            Level::Generic => Kernel::Generic,
            Level::Avx2(_) => Kernel::Avx2,
            Level::Avx512(_) => Kernel::Avx512,
            Level::Neon(_) => Kernel::Neon,
        };
        let allowed = Kernel::ALL.into_iter().rev().skip_while(|kernel| *kernel != most);
        allowed.into_iter().find(|kernel| kernel.is_available()).unwrap_or(Kernel::Generic)
    }

    /// `auto` or a kernel's name.
    ///
    /// # Errors
    /// A name that no kernel has.
    pub fn from_name(name: &str) -> Result<Kernel> {
        if name.eq_ignore_ascii_case("auto") { Ok(Kernel::best()) } else { name.parse() }
    }

    fn table(self) -> Option<Kernels> {
        match self {
            Kernel::Generic => Some(generic::TABLE),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => Avx2::detect().map(avx2::table),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx512 => Avx512::detect().and_then(avx512::table),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => Neon::detect().map(neon::table),
            #[allow(unreachable_patterns)]
            _ => None,
        }
    }
}

impl FromStr for Kernel {
    type Err = Error;

    fn from_str(name: &str) -> Result<Kernel> {
        Kernel::ALL
            .into_iter()
            .find(|k| k.name().eq_ignore_ascii_case(name))
            .ok_or_else(|| Error::UnknownKernel { name: name.into() })
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

type SparseSum = unsafe fn(&[u32], &[f32], &[f32], &mut [f32; SPARSE_OUTPUTS]);

/// The functions of one instruction set. The pointers are unsafe to call on a CPU without it, and the only
/// way to a table is [`Kernels::new`], which asks the CPU.
#[derive(Clone, Copy)]
pub(crate) struct Kernels {
    /// For products in f32, which are [`plmconv_quant::product`]'s.
    level: Level,
    tile_i16: unsafe fn(IntOperands<'_>, &mut Tile),
    dot: unsafe fn(&[f32], &[f32]) -> f32,
    dot_encoded: unsafe fn(Encoding, &[u8], &IntRow) -> f32,
    exp_minus: unsafe fn(&mut [f32], f32) -> f32,
    sparse: SparseSum,
    round_group: unsafe fn(&[f32; GROUP], &mut [i16; GROUP]) -> f32,
    interleave_weights: unsafe fn(&[f32], &mut [i16], &mut [f32]),
}

/// Outputs that the sparse product computes at a time.
pub(crate) const SPARSE_OUTPUTS: usize = 64;

impl Kernels {
    /// The functions of the fastest kernel.
    pub fn best() -> Kernels {
        Kernel::best().table().unwrap_or(generic::TABLE)
    }

    /// The functions of `kernel`.
    ///
    /// # Errors
    /// A CPU that does not run it.
    pub fn new(kernel: Kernel) -> Result<Kernels> {
        kernel.table().ok_or(Error::KernelUnavailable { kernel: kernel.name() })
    }

    /// `tile[t][o] = sum over k of activations[k][t] * weights[k][o]`.
    ///
    /// `activations`: `[k][TILE_TOKENS]`, `weights`: `[k][TILE_OUTPUTS]`.
    #[inline]
    pub fn tile_f32(&self, activations: &[f32], weights: &[f32], tile: &mut Tile) {
        product::tile(self.level, activations, weights, tile);
    }

    /// The same with integer operands: exact 32-bit sums within a group, scaled and added in f32.
    #[inline]
    pub fn tile_i16(&self, operands: IntOperands<'_>, tile: &mut Tile) {
        operands.groups();
        // SAFETY: the table exists, so the CPU has its features; lengths are checked above.
        unsafe { (self.tile_i16)(operands, tile) }
    }

    /// Scalar product of two vectors of one length.
    #[inline]
    pub fn dot(&self, a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        // SAFETY: the table exists, so the CPU has its features.
        unsafe { (self.dot)(a, b) }
    }

    /// Scalar product of an encoded row of weights and one token's activations.
    #[inline]
    pub fn dot_encoded(&self, encoding: Encoding, bytes: &[u8], row: &IntRow) -> f32 {
        assert_eq!(bytes.len(), row.blocks() * encoding.block_bytes());
        // SAFETY: the table exists, so the CPU has its features.
        unsafe { (self.dot_encoded)(encoding, bytes, row) }
    }

    /// Replaces every x by exp(x - max) and returns their sum. No x may exceed `max`.
    #[inline]
    pub fn exp_minus(&self, values: &mut [f32], max: f32) -> f32 {
        // SAFETY: the table exists, so the CPU has its features.
        unsafe { (self.exp_minus)(values, max) }
    }

    /// `out[o] += sum over i of values[i] * weights[indices[i]][o]`, `weights`: `[neurons][SPARSE_OUTPUTS]`.
    #[inline]
    pub fn sparse(&self, indices: &[u32], values: &[f32], weights: &[f32], out: &mut [f32; SPARSE_OUTPUTS]) {
        assert_eq!(indices.len(), values.len());
        let neurons = (weights.len() / SPARSE_OUTPUTS) as u32;
        assert!(indices.iter().all(|&i| i < neurons));
        // SAFETY: the table exists, so the CPU has its features; every index points into `weights`.
        unsafe { (self.sparse)(indices, values, weights, out) }
    }

    /// Rounds a group of activations to integers, returns their scale.
    #[inline]
    pub fn round_group(&self, group: &[f32; GROUP], out: &mut [i16; GROUP]) -> f32 {
        // SAFETY: the table exists, so the CPU has its features.
        unsafe { (self.round_group)(group, out) }
    }

    /// Rounds a group of a panel's weights to integers and interleaves them.
    ///
    /// `rows`: `[TILE_OUTPUTS][GROUP]`, `out`: `[GROUP / 2][TILE_OUTPUTS][2]`, `scales`: `[TILE_OUTPUTS]`.
    #[inline]
    pub fn interleave_weights(&self, rows: &[f32], out: &mut [i16], scales: &mut [f32]) {
        assert_eq!(rows.len(), TILE_OUTPUTS * GROUP);
        assert_eq!(out.len(), TILE_OUTPUTS * GROUP);
        assert_eq!(scales.len(), TILE_OUTPUTS);
        // SAFETY: the table exists, so the CPU has its features; lengths are checked above.
        unsafe { (self.interleave_weights)(rows, out, scales) }
    }
}
