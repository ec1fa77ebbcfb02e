//! Four-bit floats (E2M1: a sign, two bits of exponent, one of mantissa) under scales that are floats of a byte.
//!
//! MXFP4, 17 bytes for 32 values:
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 1 | `e`: the scale is 2^(e - 127) |
//! | 1 | 16 | codes, that of value `j` in the low half of byte `j`, of value `j + 16` in the high half |
//!
//! NVFP4, 36 bytes for 64 values:
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 1 each | per 16 values: the scale, four bits of exponent and three of mantissa (UE4M3) |
//! | 4 | 8 each | per 16 values: codes, that of value `j` in the low half of byte `j`, of value `j + 8` in the high half |
//!
//! Algorithms: `quantize_row_mxfp4_ref` and `quantize_row_nvfp4_ref` in ggml-quants.c; scales from ggml-impl.h.

use super::kernel::{self, Decode, Encode, Kernel};
use super::registry::{Codec, Guided, ScaleFields};

const MX_BLOCK: usize = 32;
const NV_SUB: usize = 16;

pub(super) static MXFP4: Codec = Codec {
    scales: ScaleFields::Exponent(0),
    encode: kernel::encode::<Mx>,
    decode: kernel::decode::<Mx>,
    guided: Guided::No,
    dot: None,
};

struct Mx;

pub(super) static NVFP4: Codec = Codec {
    scales: ScaleFields::AlwaysFinite,
    encode: kernel::encode::<Nv>,
    decode: kernel::decode::<Nv>,
    guided: Guided::No,
    dot: None,
};

struct Nv;

/// Twice the sixteen numbers of E2M1; scales are halved for it.
const DOUBLED: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The code whose number is nearest to each, the first of equally near ones. `half` is half the scale.
#[inline(always)]
fn nearest_codes<const N: usize>(x: &[f32; N], half: f32) -> [u8; N] {
    let mut codes = [0; N];
    let mut least = x.map(|x| (0.0 * half - x).abs());
    for (code, number) in DOUBLED.iter().enumerate().skip(1) {
        let value = f32::from(*number) * half;
        for i in 0..N {
            let error = (value - x[i]).abs();
            let nearer = error < least[i];
            codes[i] = if nearer { code as u8 } else { codes[i] };
            least[i] = if nearer { error } else { least[i] };
        }
    }
    codes
}

/// The first half of the codes low, the second high.
#[inline(always)]
fn pack(codes: &[u8], out: &mut [u8]) {
    let (low, high) = codes.split_at(codes.len() / 2);
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low | high << 4;
    }
}

#[inline(always)]
fn unpack(half: f32, bytes: &[u8], x: &mut [f32]) {
    let (low, high) = x.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = f32::from(DOUBLED[usize::from(byte & 15)]) * half;
        *high = f32::from(DOUBLED[usize::from(byte >> 4)]) * half;
    }
}

impl Encode for Mx {
    #[inline(always)]
    fn encode(_: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, block) in values.as_chunks::<MX_BLOCK>().0.iter().zip(out.as_chunks_mut::<17>().0) {
            let largest = super::arithmetic::largest_magnitude(x);
            // The largest number is 6, two binary orders above 1. What does not fit into the byte wraps around as it does
            // in C: scales of the smallest values become huge ones, under which all codes are zero.
            let e = if largest > 0.0 { (rounded_log2_floor(largest) - 2 + 127) as u8 } else { 0 };
            block[0] = e;
            pack(&nearest_codes(x, half_power(e)), &mut block[1..]);
        }
    }
}

impl Decode for Mx {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, x) in bytes.as_chunks::<17>().0.iter().zip(out.as_chunks_mut::<MX_BLOCK>().0) {
            unpack(half_power(block[0]), &block[1..], x);
        }
    }
}

/// Half of 2^(e - 127); the two lowest are subnormal.
#[inline(always)]
fn half_power(e: u8) -> f32 {
    match e {
        0..=1 => f32::from_bits(0x0020_0000 << e),
        e => f32::from_bits(u32::from(e - 1) << 23),
    }
}

/// C's `floorf(log2f(x))` for a finite `x` above zero. It differs from the exponent just below powers of two, where the
/// logarithm rounds to an integer.
#[inline(always)]
fn rounded_log2_floor(x: f32) -> i32 {
    let bits = x.to_bits();
    // The exponent `power - 1` and a mantissa of 24 bits; subnormals lack leading ones.
    let shift = (bits.leading_zeros() as i32 - 8).max(0);
    let mantissa = if bits >> 23 == 0 { bits << shift } else { bits & 0x007f_ffff | 0x0080_0000 };
    let power = (bits >> 23).max(1) as i32 - 126 - shift * i32::from(bits >> 23 == 0);
    let missing = (1 << 24) - mantissa;
    if missing > 128 {
        return power - 1;
    }
    // log2(2^power (1 - m/2^24)) = power - m/2^24/ln 2, against half the distance of floats there.
    let below = f64::from(missing) * std::f64::consts::LOG2_E;
    let magnitude = power.unsigned_abs();
    let order = magnitude.checked_ilog2().map_or(-30, |order| order as i32);
    let half_step = if power > 0 && magnitude.is_power_of_two() { order - 1 } else { order };
    if below <= f64::from(half_step).exp2() { power } else { power - 1 }
}

impl Encode for Nv {
    #[inline(always)]
    fn encode(_: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, block) in values.as_chunks::<64>().0.iter().zip(out.as_chunks_mut::<36>().0) {
            let (scales, codes) = block.split_at_mut(4);
            let subs = x.as_chunks::<NV_SUB>().0.iter().zip(codes.as_chunks_mut::<8>().0);
            for ((x, codes), scale) in subs.zip(scales) {
                *scale = ue4m3_bits(super::arithmetic::largest_magnitude(x) / 6.0);
                pack(&nearest_codes(x, half_ue4m3(*scale)), codes);
            }
        }
    }
}

impl Decode for Nv {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, x) in bytes.as_chunks::<36>().0.iter().zip(out.as_chunks_mut::<64>().0) {
            let (scales, codes) = block.split_at(4);
            let subs = x.as_chunks_mut::<NV_SUB>().0.iter_mut().zip(codes.as_chunks::<8>().0);
            for ((x, codes), scale) in subs.zip(scales) {
                unpack(half_ue4m3(*scale), codes, x);
            }
        }
    }
}

/// A number as UE4M3: exponent bias 7, the largest 448; halves are rounded up.
#[inline(always)]
fn ue4m3_bits(x: f32) -> u8 {
    if x <= 0.0 || x.is_nan() {
        return 0;
    }
    let x = x.min(448.0);
    let bits = x.to_bits();
    let exponent = (bits >> 23) as i32 - 127 + 7;
    if exponent <= 0 {
        return ((x * 512.0 + 0.5) as u8).min(7);
    }
    // A mantissa that rounds up to the next power carries into the exponent.
    let rounded = ((exponent as u32) << 3 | bits >> 20 & 7) + (bits >> 19 & 1);
    rounded.min(0x7e) as u8
}

/// Half the number that UE4M3 bits stand for; the last one, NaN, counts as zero.
#[inline(always)]
fn half_ue4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (u32::from(bits >> 3 & 15), f32::from(bits & 7));
    let power = |exponent: u32| f32::from_bits((exponent + 119) << 23);
    match (exponent, bits) {
        (_, 0x7f) => 0.0,
        (0, _) => mantissa * power(1) / 8.0,
        _ => (1.0 + mantissa / 8.0) * power(exponent),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mxfp4_powers_of_two() {
        for (e, unit) in [(127_u8, 1.0_f32), (128, 2.0), (120, 0.0078125)] {
            let mut block = [0_u8; 17];
            block[0] = e;
            block[1] = 0x92; // codes 2 (+1) and 9 (-1/2)
            let mut x = [0.0; MX_BLOCK];
            Mx::decode(kernel::Scalar, &block, &mut x);
            assert_eq!((x[0], x[16], x[1]), (unit, -unit / 2.0, 0.0));
        }
    }

    /// The logarithm in double precision rounded to f32 is what a good `log2f` returns.
    #[test]
    fn floors_of_logarithms_are_those_of_rounded_ones() {
        let by_definition = |x: f32| (f64::from(x).log2() as f32).floor() as i32;
        for power in -149..=128 {
            let bits = if power < -126 { 1 << (power + 149) } else { ((power + 127) as u32) << 23 };
            for near in bits.saturating_sub(200).max(1)..=(bits + 200).min(f32::MAX.to_bits()) {
                let x = f32::from_bits(near);
                assert_eq!(rounded_log2_floor(x), by_definition(x), "{x:e}");
            }
        }
        for bits in (1..f32::MAX.to_bits()).step_by(65_537) {
            assert_eq!(rounded_log2_floor(f32::from_bits(bits)), by_definition(f32::from_bits(bits)));
        }
    }

    #[test]
    fn ue4m3_goes_there_and_back() {
        for bits in 0..=0x7e_u8 {
            assert_eq!(ue4m3_bits(2.0 * half_ue4m3(bits)), bits);
        }
        assert_eq!([half_ue4m3(0x7f), half_ue4m3(1), half_ue4m3(0x38)], [0.0, 1.0 / 1024.0, 0.5]);
        assert_eq!([ue4m3_bits(-1.0), ue4m3_bits(1e30), ue4m3_bits(1e-30)], [0, 0x7e, 0]);
        // Halfway to the next mantissa, and from the last one to the next power.
        assert_eq!([ue4m3_bits(1.0625), ue4m3_bits(1.95)], [0x39, 0x40]);
    }
}
