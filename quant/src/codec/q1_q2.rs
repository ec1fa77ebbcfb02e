//! One and two bits a value under one scale: Q1_0 and Q2_0.
//!
//! Q1_0, 18 bytes for 128 values, each `d` or `-d`:
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision: the mean magnitude |
//! | 2 | 16 | a bit a value, the first lowest, set for one that is not negative |
//!
//! Q2_0, 18 bytes for 64 values, each `d` times the code less one:
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision: the largest magnitude |
//! | 2 | 16 | two bits a value, the first lowest |
//!
//! Algorithms: `quantize_row_q1_0_ref` and `quantize_row_q2_0_ref` in ggml-quants.c. As the scale is the largest magnitude,
//! no value of its own gets the code for twice the scale.

use super::arithmetic::{inverse_or_zero, largest_magnitude, round_half_away};
use super::float::{f16_bits, f16_value};
use super::kernel::{self, Decode, Encode, Kernel};
use super::registry::{Codec, Guided, ScaleFields};

const BYTES: usize = 18;
const ONE_BIT: usize = 128;
const TWO_BITS: usize = 64;

pub(super) static Q1_0: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: kernel::encode::<OneBit>,
    decode: kernel::decode::<OneBit>,
    guided: Guided::No,
};

struct OneBit;

pub(super) static Q2_0: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: kernel::encode::<TwoBits>,
    decode: kernel::decode::<TwoBits>,
    guided: Guided::No,
};

struct TwoBits;

impl Encode for OneBit {
    #[inline(always)]
    fn encode(_: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, block) in values.as_chunks::<ONE_BIT>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let sum = x.iter().fold(0.0, |sum, x| sum + x.abs());
            block[..2].copy_from_slice(&f16_bits(sum / ONE_BIT as f32).to_le_bytes());
            for (x, byte) in x.as_chunks::<8>().0.iter().zip(&mut block[2..]) {
                *byte = x.iter().rev().fold(0, |bits, x| bits << 1 | u8::from(*x >= 0.0));
            }
        }
    }
}

impl Encode for TwoBits {
    #[inline(always)]
    fn encode(_: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, block) in values.as_chunks::<TWO_BITS>().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let d = largest_magnitude(x);
            let inverse = inverse_or_zero(d);
            block[..2].copy_from_slice(&f16_bits(d).to_le_bytes());
            let codes = x.map(|x| round_half_away(x * inverse).wrapping_add(1).clamp(0, 3) as u8);
            for (codes, byte) in codes.as_chunks::<4>().0.iter().zip(&mut block[2..]) {
                *byte = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6;
            }
        }
    }
}

impl Decode for OneBit {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, x) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<ONE_BIT>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (x, byte) in x.as_chunks_mut::<8>().0.iter_mut().zip(&block[2..]) {
                for (bit, x) in x.iter_mut().enumerate() {
                    *x = if byte >> bit & 1 == 1 { d } else { -d };
                }
            }
        }
    }
}

impl Decode for TwoBits {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, x) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<TWO_BITS>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (x, byte) in x.as_chunks_mut::<4>().0.iter_mut().zip(&block[2..]) {
                for (place, x) in x.iter_mut().enumerate() {
                    *x = (f32::from(byte >> (2 * place) & 3) - 1.0) * d;
                }
            }
        }
    }
}
