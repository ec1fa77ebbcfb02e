//! The inner steps of the codecs, 32 values at a time: once in plain Rust ([`Scalar`]), once per instruction set; and
//! codecs that are plain Rust around these, compiled with each.
//!
//! All kernels give the same bits for finite values; for others they may differ, and the codecs refuse what comes
//! of them.

#[cfg(target_arch = "x86_64")]
mod avx2;

use super::arithmetic;
use super::float::{f16_bits, f16_value};

use crate::simd::Level;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2Kernel;

/// Values per step.
pub(super) const STEP: usize = 32;

pub(super) trait Kernel: Copy {
    /// The largest magnitude.
    fn largest_magnitude(self, x: &[f32; STEP]) -> f32;

    /// The value of largest magnitude with its sign, the first of equals; 0 when all are zero.
    fn signed_max(self, x: &[f32; STEP]) -> f32;

    /// The smallest and the largest value, the first of equals (zeros of both signs are equal).
    fn range(self, x: &[f32; STEP]) -> (f32, f32);

    /// The low byte of each `(v - min) * inverse + offset`, truncated to 32 bits.
    fn truncated(self, x: &[f32; STEP], min: f32, inverse: f32, offset: f32) -> [u8; STEP];

    /// The low byte of each `v * inverse`, rounded half away from zero.
    fn rounded(self, x: &[f32; STEP], inverse: f32) -> [u8; STEP];

    /// Code `j` plus, four bits higher, code `j + 16`.
    fn nibbles(self, codes: &[u8; STEP]) -> [u8; STEP / 2];

    /// Bit 4 of code `j` as bit `j`.
    fn fifth_bits(self, codes: &[u8; STEP]) -> u32;

    /// Half-precision bits, rounded to nearest even.
    fn f16_bits(self, x: &[f32; STEP]) -> [u16; STEP];

    /// The values of half-precision bits.
    fn f16_values(self, bits: &[u16; STEP]) -> [f32; STEP];
}

/// A type that is encoded by plain Rust around a kernel.
pub(super) trait Encode {
    /// To be marked `#[inline(always)]`. No operation may be fused: it would change bits.
    fn encode(kernel: impl Kernel, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]);
}

/// A type that is decoded by plain Rust around a kernel.
pub(super) trait Decode {
    /// To be marked `#[inline(always)]`.
    fn decode(kernel: impl Kernel, bytes: &[u8], out: &mut [f32]);
}

/// Encodes with the instructions of `level`.
pub(super) fn encode<T: Encode>(level: Level, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    match level {
        // SAFETY: the level carries the proof that this CPU has AVX2 and F16C, or AVX-512 F, which includes both.
        // Wider registers would not help: these codecs are bound by packing and by memory.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) | Level::Avx512(_) => unsafe { encode_avx2::<T>(values, importance, out) },
        _ => T::encode(Scalar, values, importance, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn encode_avx2<T: Encode>(values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    // SAFETY: this function enables AVX2 and F16C.
    let kernel = unsafe { Avx2Kernel::new() };
    T::encode(kernel, values, importance, out);
}

/// Decodes with the instructions of `level`.
pub(super) fn decode<T: Decode>(level: Level, bytes: &[u8], out: &mut [f32]) {
    match level {
        // SAFETY: as for encoding.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) | Level::Avx512(_) => unsafe { decode_avx2::<T>(bytes, out) },
        _ => T::decode(Scalar, bytes, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn decode_avx2<T: Decode>(bytes: &[u8], out: &mut [f32]) {
    // SAFETY: this function enables AVX2 and F16C.
    let kernel = unsafe { Avx2Kernel::new() };
    T::decode(kernel, bytes, out);
}

/// Plain Rust: what the others are compared with.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Kernel for Scalar {
    #[inline(always)]
    fn largest_magnitude(self, x: &[f32; STEP]) -> f32 {
        arithmetic::largest_magnitude(x)
    }

    #[inline(always)]
    fn signed_max(self, x: &[f32; STEP]) -> f32 {
        arithmetic::signed_max(x)
    }

    #[inline(always)]
    fn range(self, x: &[f32; STEP]) -> (f32, f32) {
        arithmetic::range(x)
    }

    #[inline(always)]
    fn truncated(self, x: &[f32; STEP], min: f32, inverse: f32, offset: f32) -> [u8; STEP] {
        x.map(|v| arithmetic::truncate((v - min) * inverse + offset) as u8)
    }

    #[inline(always)]
    fn rounded(self, x: &[f32; STEP], inverse: f32) -> [u8; STEP] {
        x.map(|v| arithmetic::round_half_away(v * inverse) as u8)
    }

    #[inline(always)]
    fn nibbles(self, codes: &[u8; STEP]) -> [u8; STEP / 2] {
        std::array::from_fn(|j| codes[j] | (codes[j + STEP / 2] << 4))
    }

    #[inline(always)]
    fn fifth_bits(self, codes: &[u8; STEP]) -> u32 {
        codes.iter().enumerate().fold(0, |bits, (j, code)| bits | (u32::from(code >> 4) & 1) << j)
    }

    #[inline(always)]
    fn f16_bits(self, x: &[f32; STEP]) -> [u16; STEP] {
        x.map(f16_bits)
    }

    #[inline(always)]
    fn f16_values(self, bits: &[u16; STEP]) -> [f32; STEP] {
        bits.map(f16_value)
    }
}
