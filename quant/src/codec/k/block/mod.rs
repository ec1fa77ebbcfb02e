//! The block types: where each byte lies, how a super-block's scales are quantized, and decoding.

use super::SUPER_BLOCK;

pub(super) mod q2;
pub(super) mod q3;
pub(super) mod q4_q5;
pub(super) mod q6;

/// Packs 256 two-bit codes: byte `l` of each half holds the codes at `l`, `l + 32`, `l + 64`, `l + 96` of the
/// half's 128 values, lowest bits first. Q2_K and Q3_K share it.
#[inline(always)]
fn pack_two_bits(codes: &[u8], out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (l, byte) in out.iter_mut().enumerate() {
            *byte = codes[l] | (codes[l + 32] << 2) | (codes[l + 64] << 4) | (codes[l + 96] << 6);
        }
    }
}

/// Bit `n` of byte `l` becomes bit `SHIFT` (the highest set) of the code at `32 * n + l`: Q3_K's third and Q5_K's
/// fifth bits.
#[inline(always)]
fn pack_bit_planes<const SHIFT: u32>(codes: &[u8; SUPER_BLOCK], out: &mut [u8; 32]) {
    *out = [0; 32];
    for (n, codes) in codes.as_chunks::<32>().0.iter().enumerate() {
        out.iter_mut().zip(codes).for_each(|(byte, code)| *byte |= (code >> SHIFT) << n);
    }
}

/// The largest of the values that exceed zero, or zero.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |largest, value| if value > largest { value } else { largest })
}
