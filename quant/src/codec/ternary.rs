//! Super-blocks of 256 values that are -1, 0 or 1 times a scale: TQ1_0 and TQ2_0.
//!
//! Bytes, little endian: TQ1_0 is `qs: [u8; 48]`, `qh: [u8; 4]`, `d: f16`; a byte of `qs` holds five base-3
//! digits and one of `qh` four, as the top eight bits of a fraction of 3^5, so that multiplying by three brings
//! the next digit to the top. TQ2_0 is `qs: [u8; 64]`, `d: f16`, two bits a value. The digits of a byte lie a
//! whole group apart (32 or 16 values), not side by side. Algorithms: `quantize_row_tq1_0_ref` and
//! `quantize_row_tq2_0_ref` in ggml-quants.c.

use super::arithmetic::inverse_or_zero;
use super::float::{f16_bits, f16_value};
use super::kernel::{self, Decode, Encode, Kernel, STEP};
use super::registry::{Codec, Guided, ScaleFields};

const SUPER_BLOCK: usize = 256;

pub(super) static TQ1_0: Codec = Codec {
    scales: ScaleFields::Halves([52, 52]),
    encode: kernel::encode::<Base3>,
    decode: kernel::decode::<Base3>,
    guided: Guided::No,
};

struct Base3;

pub(super) static TQ2_0: Codec = Codec {
    scales: ScaleFields::Halves([64, 64]),
    encode: kernel::encode::<TwoBits>,
    decode: kernel::decode::<TwoBits>,
    guided: Guided::No,
};

struct TwoBits;

/// Groups of TQ1_0: (first byte, bytes, first value, digits per byte).
const TQ1_GROUPS: [(usize, usize, usize, usize); 3] = [(0, 32, 0, 5), (32, 16, 160, 5), (48, 4, 240, 4)];

/// The scale of 256 values, their largest magnitude; and 0, 1 or 2 for each that is nearest to -1, 0 or 1 of it.
#[inline(always)]
fn quantize(kernel: impl Kernel, x: &[f32; SUPER_BLOCK]) -> (f32, [u8; SUPER_BLOCK]) {
    let steps = x.as_chunks::<STEP>().0;
    let d = steps.iter().fold(0.0_f32, |max, x| max.max(kernel.largest_magnitude(x)));
    let inverse = inverse_or_zero(d);
    let mut digits = [0; SUPER_BLOCK];
    for (x, digits) in steps.iter().zip(digits.as_chunks_mut::<STEP>().0) {
        *digits = kernel.rounded(x, inverse).map(|level| level.wrapping_add(1));
    }
    (d, digits)
}

impl Encode for Base3 {
    #[inline(always)]
    fn encode(kernel: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, block) in values.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<54>().0) {
            let (d, digits) = quantize(kernel, x);
            for (first_byte, bytes, first_value, count) in TQ1_GROUPS {
                for m in 0..bytes {
                    let mut number = 0_u8;
                    for n in 0..5 {
                        let next = if n < count { digits[first_value + n * bytes + m] } else { 0 };
                        number = number.wrapping_mul(3).wrapping_add(next);
                    }
                    block[first_byte + m] = (u32::from(number) * 256).div_ceil(243) as u8;
                }
            }
            block[52..].copy_from_slice(&f16_bits(d).to_le_bytes());
        }
    }
}

impl Encode for TwoBits {
    #[inline(always)]
    fn encode(kernel: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, block) in values.as_chunks::<SUPER_BLOCK>().0.iter().zip(out.as_chunks_mut::<66>().0) {
            let (d, digits) = quantize(kernel, x);
            let digits = digits.map(|digit| digit & 3);
            for (half, bytes) in block[..64].as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let digits = &digits[half * 128..][..128];
                for (m, byte) in bytes.iter_mut().enumerate() {
                    *byte = digits[m] | digits[m + 32] << 2 | digits[m + 64] << 4 | digits[m + 96] << 6;
                }
            }
            block[64..].copy_from_slice(&f16_bits(d).to_le_bytes());
        }
    }
}

impl Decode for Base3 {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
        for (block, x) in bytes.as_chunks::<54>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[52], block[53]]));
            for (first_byte, bytes, first_value, count) in TQ1_GROUPS {
                for (n, power) in POWERS.iter().enumerate().take(count) {
                    for m in 0..bytes {
                        let fraction = block[first_byte + m].wrapping_mul(*power);
                        let digit = (u16::from(fraction) * 3) >> 8;
                        x[first_value + n * bytes + m] = (f32::from(digit) - 1.0) * d;
                    }
                }
            }
        }
    }
}

impl Decode for TwoBits {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, x) in bytes.as_chunks::<66>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[64], block[65]]));
            for (half, bytes) in block[..64].as_chunks::<32>().0.iter().enumerate() {
                for shift in 0..4 {
                    for (m, byte) in bytes.iter().enumerate() {
                        let digit = (byte >> (2 * shift)) & 3;
                        x[half * 128 + shift * 32 + m] = (f32::from(digit) - 1.0) * d;
                    }
                }
            }
        }
    }
}
