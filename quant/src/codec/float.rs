//! Plain number types: F32, F16, BF16. Little endian, one value after another.
//!
//! The conversions are written as straight integer and float arithmetic without branches, so that the
//! compiler turns a loop over them into vector code, and they round exactly as ggml's
//! `ggml_compute_fp32_to_fp16` and `ggml_compute_fp32_to_bf16` do: to nearest, ties to even.

use super::kernel::{self, Decode, Encode, Kernel, STEP};
use super::registry::{Codec, Guided, ScaleFields};

const SIGN: u32 = 0x8000_0000;

pub(super) static F32: Codec = Codec {
    scales: ScaleFields::None,
    encode: kernel::encode::<Float32>,
    decode: kernel::decode::<Float32>,
    guided: Guided::No,
};

struct Float32;

pub(super) static F16: Codec = Codec {
    scales: ScaleFields::EveryHalf,
    encode: kernel::encode::<Float16>,
    decode: kernel::decode::<Float16>,
    guided: Guided::No,
};

struct Float16;

pub(super) static BF16: Codec = Codec {
    scales: ScaleFields::None,
    encode: kernel::encode::<Brain16>,
    decode: kernel::decode::<Brain16>,
    guided: Guided::No,
};

struct Brain16;

/// The half-precision bits of `value`, rounded to nearest even; subnormals kept, overflow to infinity.
///
/// Algorithm: Marat Dukhan's FP16 library, the one ggml uses. Scaling up and down again by powers of two
/// saturates what overflows; adding a power of two chosen by the exponent rounds at the right bit.
#[inline(always)]
pub(crate) fn f16_bits(value: f32) -> u16 {
    let two_pow_112 = f32::from_bits(0x7780_0000);
    let two_pow_minus_110 = f32::from_bits(0x0880_0000);
    let bits = value.to_bits();
    let magnitude = bits.wrapping_add(bits);
    let exponent = (magnitude & 0xff00_0000).max(0x7100_0000);
    let base = (value.abs() * two_pow_112) * two_pow_minus_110;
    let rounded = (f32::from_bits((exponent >> 1) + 0x0780_0000) + base).to_bits();
    let finite = ((rounded >> 13) & 0x7c00) + (rounded & 0x0fff);
    let unsigned = if magnitude > 0xff00_0000 { 0x7e00 } else { finite };
    (((bits & SIGN) >> 16) | unsigned) as u16
}

/// The value of half-precision `bits`; exact.
#[inline(always)]
pub(crate) fn f16_value(bits: u16) -> f32 {
    let word = u32::from(bits) << 16;
    let magnitude = word.wrapping_add(word);
    let two_pow_minus_112 = f32::from_bits(0x0780_0000);
    let normal = f32::from_bits((magnitude >> 4) + (0xe0 << 23)) * two_pow_minus_112;
    let subnormal = f32::from_bits((magnitude >> 17) | (126 << 23)) - 0.5;
    let unsigned = if magnitude < 1 << 27 { subnormal.to_bits() } else { normal.to_bits() };
    f32::from_bits((word & SIGN) | unsigned)
}

/// [`f16_bits`], little endian.
#[inline(always)]
pub(crate) fn half_bytes(value: f32) -> [u8; 2] {
    f16_bits(value).to_le_bytes()
}

/// [`f16_value`] of little-endian bytes.
#[inline(always)]
pub(crate) fn half_value(bytes: [u8; 2]) -> f32 {
    f16_value(u16::from_le_bytes(bytes))
}

/// The bfloat16 bits of `value`, rounded to nearest even; a NaN stays one and becomes quiet.
#[inline(always)]
pub(crate) fn bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 64;
    (if bits & !SIGN > 0x7f80_0000 { quiet } else { rounded }) as u16
}

/// The value of bfloat16 `bits`; exact.
#[inline(always)]
pub(crate) fn bf16_value(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

impl Encode for Float32 {
    #[inline(always)]
    fn encode(_: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (value, bytes) in values.iter().zip(out.as_chunks_mut::<4>().0) {
            *bytes = value.to_le_bytes();
        }
    }
}

impl Decode for Float32 {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (bytes, value) in bytes.as_chunks::<4>().0.iter().zip(out) {
            *value = f32::from_le_bytes(*bytes);
        }
    }
}

impl Encode for Float16 {
    #[inline(always)]
    fn encode(kernel: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        let (steps, rest) = values.as_chunks::<STEP>();
        let (out_steps, out_rest) = out.as_chunks_mut::<{ 2 * STEP }>();
        for (x, out) in steps.iter().zip(out_steps) {
            for (bits, bytes) in kernel.f16_bits(x).iter().zip(out.as_chunks_mut::<2>().0) {
                *bytes = bits.to_le_bytes();
            }
        }
        for (value, bytes) in rest.iter().zip(out_rest.as_chunks_mut::<2>().0) {
            *bytes = f16_bits(*value).to_le_bytes();
        }
    }
}

impl Decode for Float16 {
    #[inline(always)]
    fn decode(kernel: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        let (steps, rest) = bytes.as_chunks::<{ 2 * STEP }>();
        let (out_steps, out_rest) = out.as_chunks_mut::<STEP>();
        for (bytes, x) in steps.iter().zip(out_steps) {
            let mut bits = [0; STEP];
            for (bytes, bits) in bytes.as_chunks::<2>().0.iter().zip(&mut bits) {
                *bits = u16::from_le_bytes(*bytes);
            }
            *x = kernel.f16_values(&bits);
        }
        for (bytes, value) in rest.as_chunks::<2>().0.iter().zip(out_rest) {
            *value = f16_value(u16::from_le_bytes(*bytes));
        }
    }
}

impl Encode for Brain16 {
    #[inline(always)]
    fn encode(_: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (value, bytes) in values.iter().zip(out.as_chunks_mut::<2>().0) {
            *bytes = bf16_bits(*value).to_le_bytes();
        }
    }
}

impl Decode for Brain16 {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (bytes, value) in bytes.as_chunks::<2>().0.iter().zip(out) {
            *value = bf16_value(u16::from_le_bytes(*bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn every_half_value_survives_both_ways() {
        for bits in 0..=u16::MAX {
            let expected = f16::from_bits(bits).to_f32();
            let value = f16_value(bits);
            if expected.is_nan() {
                assert!(value.is_nan());
                continue;
            }
            assert_eq!(value.to_bits(), expected.to_bits(), "{bits:04x}");
            assert_eq!(f16_bits(value), bits);
        }
    }

    #[test]
    fn every_bfloat_value_survives_both_ways() {
        for bits in 0..=u16::MAX {
            let value = bf16_value(bits);
            if !value.is_nan() {
                assert_eq!(bf16_bits(value), bits);
                assert_eq!(value, bf16::from_bits(bits).to_f32());
            }
        }
    }

    /// Every 97th bit pattern: all exponents, both signs, ties and near-ties included below.
    #[test]
    fn rounding_agrees_with_the_half_crate() {
        for bits in (0..=u32::MAX).step_by(97) {
            let value = f32::from_bits(bits);
            if value.is_nan() {
                assert!(f16::from_bits(f16_bits(value)).is_nan() && bf16_value(bf16_bits(value)).is_nan());
                continue;
            }
            assert_eq!(f16_bits(value), f16::from_f32_const(value).to_bits(), "{value:e}");
            assert_eq!(bf16_bits(value), bf16::from_f32(value).to_bits(), "{value:e}");
        }
    }

    #[test]
    fn ties_go_to_even() {
        for bits in 0..0x7bff_u16 {
            let (low, high) = (f16_value(bits), f16_value(bits + 1));
            let middle = (low + high) / 2.0;
            let even = if bits % 2 == 0 { bits } else { bits + 1 };
            assert_eq!(f16_bits(middle), even);
            assert_eq!(f16_bits(f32::from_bits(middle.to_bits() - 1)), bits);
            assert_eq!(f16_bits(f32::from_bits(middle.to_bits() + 1)), bits + 1);
            assert_eq!(f16_bits(-middle), even | 0x8000);
        }
        assert_eq!(f16_bits(65519.996), 0x7bff);
        assert_eq!(f16_bits(65520.0), 0x7c00);
    }
}
