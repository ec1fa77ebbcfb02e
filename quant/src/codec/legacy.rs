//! Blocks of 32 values with one half-precision scale (and, for the `_1` types, a minimum): Q4_0, Q4_1, Q5_0,
//! Q5_1, Q8_0.
//!
//! Bytes of a block, little endian:
//!
//! | type | fields |
//! | --- | --- |
//! | Q4_0 | `d: f16`, `qs: [u8; 16]` |
//! | Q4_1 | `d: f16`, `m: f16`, `qs: [u8; 16]` |
//! | Q5_0 | `d: f16`, `qh: u32`, `qs: [u8; 16]` |
//! | Q5_1 | `d: f16`, `m: f16`, `qh: u32`, `qs: [u8; 16]` |
//! | Q8_0 | `d: f16`, `qs: [i8; 32]` |
//!
//! Byte `j` of `qs` holds the low four bits of value `j` and, above them, of value `j + 16`; bit `j` of `qh` is
//! the fifth bit of value `j`. Algorithms: `quantize_row_q*_ref` and `quantize_row_q*_impl` in ggml-quants.c.

use super::arithmetic::{inverse_or_zero, sum_of_squares};
use super::float::{f16_bits, f16_value};
use super::kernel::{Kernel, STEP};
use super::search::affine::{self, AffineFit, AffineGrid};
use super::search::symmetric;

pub(super) const BLOCK: usize = STEP;
const HALF: usize = BLOCK / 2;

/// One value per element, before packing.
type Codes = [u8; BLOCK];

/// Q4_0 and Q5_0: `value = d * (code - zero)`, zero being half the number of codes.
struct Symmetric {
    zero: u8,
}

/// Q4_1 and Q5_1: `value = d * code + m`.
struct Affine {
    max_code: u8,
}

const Q4_0: Symmetric = Symmetric { zero: 8 };
const Q5_0: Symmetric = Symmetric { zero: 16 };
const Q4_1: Affine = Affine { max_code: 15 };
const Q5_1: Affine = Affine { max_code: 31 };

impl Symmetric {
    /// The scale maps the value of largest magnitude onto code 0, which lies one step further out than the
    /// largest code: the sign of the scale follows that value.
    #[inline(always)]
    fn quantize(&self, kernel: impl Kernel, x: &[f32; BLOCK]) -> (f32, Codes) {
        let d = kernel.signed_max(x) / -f32::from(self.zero);
        let mut codes = kernel.truncated(x, 0.0, inverse_or_zero(d), f32::from(self.zero) + 0.5);
        let top = (2 * self.zero - 1) as i8;
        // Not `codes.map`, which may be compiled apart, without the kernel's instructions.
        for code in &mut codes {
            *code = (*code as i8).min(top) as u8;
        }
        (d, codes)
    }

    #[inline(always)]
    fn search(&self, x: &[f32; BLOCK], w: &[f32; BLOCK]) -> (f32, Codes) {
        let mut codes = [0; BLOCK];
        (symmetric::fit(self.zero.into(), x, w, &mut codes), codes)
    }
}

impl Affine {
    #[inline(always)]
    fn quantize(&self, kernel: impl Kernel, x: &[f32; BLOCK]) -> (f32, f32, Codes) {
        let (min, max) = kernel.range(x);
        let d = (max - min) / f32::from(self.max_code);
        (d, min, kernel.truncated(x, min, inverse_or_zero(d), 0.5))
    }

    #[inline(always)]
    fn search(&self, x: &[f32; BLOCK], w: &[f32; BLOCK]) -> (f32, f32, Codes) {
        let mut codes = [0; BLOCK];
        let AffineFit { scale, offset, .. } =
            affine::fit(&AffineGrid::weighted(self.max_code.into()), x, w, &mut codes);
        (scale, -offset, codes)
    }
}

#[inline(always)]
fn put_f16(out: &mut [u8], value: f32) {
    out.copy_from_slice(&f16_bits(value).to_le_bytes());
}

#[inline(always)]
fn get_f16(bytes: &[u8]) -> f32 {
    f16_value(u16::from_le_bytes([bytes[0], bytes[1]]))
}

#[inline(always)]
fn put_nibbles(kernel: impl Kernel, out: &mut [u8], codes: &Codes) {
    out.copy_from_slice(&kernel.nibbles(codes));
}

/// Five-bit codes: the fifth bits into the first four bytes of `out`, the rest as nibbles after them.
#[inline(always)]
fn put_five_bits(kernel: impl Kernel, out: &mut [u8], codes: &Codes) {
    let (qh, qs) = out.split_at_mut(4);
    qh.copy_from_slice(&kernel.fifth_bits(codes).to_le_bytes());
    put_nibbles(kernel, qs, &codes.map(|code| code & 15));
}

#[inline(always)]
fn unpack_nibbles(qs: &[u8]) -> Codes {
    std::array::from_fn(|j| if j < HALF { qs[j] & 15 } else { qs[j - HALF] >> 4 })
}

#[inline(always)]
fn unpack_five_bits(bytes: &[u8]) -> Codes {
    let high = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let low = unpack_nibbles(&bytes[4..]);
    std::array::from_fn(|j| low[j] | (((high >> j) & 1) << 4) as u8)
}

/// Runs `encode` over the blocks of `values` and `out`; lengths are the caller's invariant.
#[inline(always)]
fn each_block<const BYTES: usize>(
    values: &[f32],
    out: &mut [u8],
    mut encode: impl FnMut(usize, &[f32; BLOCK], &mut [u8; BYTES]),
) {
    let blocks = values.as_chunks::<BLOCK>().0.iter().zip(out.as_chunks_mut::<BYTES>().0);
    for (index, (x, block)) in blocks.enumerate() {
        encode(index, x, block);
    }
}

#[inline(always)]
pub(super) fn encode_q4_0(kernel: impl Kernel, values: &[f32], out: &mut [u8]) {
    each_block(values, out, |_, x, block: &mut [u8; 18]| {
        let (d, codes) = Q4_0.quantize(kernel, x);
        put_f16(&mut block[..2], d);
        put_nibbles(kernel, &mut block[2..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q4_1(kernel: impl Kernel, values: &[f32], out: &mut [u8]) {
    each_block(values, out, |_, x, block: &mut [u8; 20]| {
        let (d, m, codes) = Q4_1.quantize(kernel, x);
        put_f16(&mut block[..2], d);
        put_f16(&mut block[2..4], m);
        put_nibbles(kernel, &mut block[4..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q5_0(kernel: impl Kernel, values: &[f32], out: &mut [u8]) {
    each_block(values, out, |_, x, block: &mut [u8; 22]| {
        let (d, codes) = Q5_0.quantize(kernel, x);
        put_f16(&mut block[..2], d);
        put_five_bits(kernel, &mut block[2..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q5_1(kernel: impl Kernel, values: &[f32], out: &mut [u8]) {
    each_block(values, out, |_, x, block: &mut [u8; 24]| {
        let (d, m, codes) = Q5_1.quantize(kernel, x);
        put_f16(&mut block[..2], d);
        put_f16(&mut block[2..4], m);
        put_five_bits(kernel, &mut block[4..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q8_0(kernel: impl Kernel, values: &[f32], out: &mut [u8]) {
    each_block(values, out, |_, x, block: &mut [u8; 34]| {
        let d = kernel.largest_magnitude(x) / 127.0;
        put_f16(&mut block[..2], d);
        block[2..].copy_from_slice(&kernel.rounded(x, inverse_or_zero(d)));
    });
}

/// What the importance of a value is worth: its activation statistics times the root of its square plus the
/// row's mean square, so that a small value beside large ones still counts.
#[inline(always)]
fn weights(x: &[f32; BLOCK], importance: &[f32], mean_square: f32) -> [f32; BLOCK] {
    std::array::from_fn(|j| importance[j] * (mean_square + x[j] * x[j]).sqrt())
}

/// Encodes rows with an importance per column. `cols` is a multiple of [`BLOCK`], `importance` is `[cols]`.
#[inline(always)]
fn each_weighted_block<const BYTES: usize>(
    values: &[f32],
    importance: &[f32],
    out: &mut [u8],
    mut encode: impl FnMut(&[f32; BLOCK], &[f32; BLOCK], &mut [u8; BYTES]),
) {
    let cols = importance.len();
    let rows = values.chunks_exact(cols).zip(out.chunks_exact_mut(cols / BLOCK * BYTES));
    for (row, row_out) in rows {
        let mean_square = sum_of_squares(row) / cols as f32;
        each_block(row, row_out, |index, x, block| {
            let w = weights(x, &importance[index * BLOCK..][..BLOCK], mean_square);
            encode(x, &w, block);
        });
    }
}

#[inline(always)]
pub(super) fn encode_q4_0_weighted(kernel: impl Kernel, values: &[f32], importance: &[f32], out: &mut [u8]) {
    each_weighted_block(values, importance, out, |x, w, block: &mut [u8; 18]| {
        let (d, codes) = Q4_0.search(x, w);
        put_f16(&mut block[..2], d);
        put_nibbles(kernel, &mut block[2..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q5_0_weighted(kernel: impl Kernel, values: &[f32], importance: &[f32], out: &mut [u8]) {
    each_weighted_block(values, importance, out, |x, w, block: &mut [u8; 22]| {
        let (d, codes) = Q5_0.search(x, w);
        put_f16(&mut block[..2], d);
        put_five_bits(kernel, &mut block[2..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q4_1_weighted(kernel: impl Kernel, values: &[f32], importance: &[f32], out: &mut [u8]) {
    each_weighted_block(values, importance, out, |x, w, block: &mut [u8; 20]| {
        let (d, m, codes) = Q4_1.search(x, w);
        put_f16(&mut block[..2], d);
        put_f16(&mut block[2..4], m);
        put_nibbles(kernel, &mut block[4..], &codes);
    });
}

#[inline(always)]
pub(super) fn encode_q5_1_weighted(kernel: impl Kernel, values: &[f32], importance: &[f32], out: &mut [u8]) {
    each_weighted_block(values, importance, out, |x, w, block: &mut [u8; 24]| {
        let (d, m, codes) = Q5_1.search(x, w);
        put_f16(&mut block[..2], d);
        put_f16(&mut block[2..4], m);
        put_five_bits(kernel, &mut block[4..], &codes);
    });
}

/// Runs `decode` over the blocks of `bytes`.
#[inline(always)]
fn each_encoded<const BYTES: usize>(
    bytes: &[u8],
    out: &mut [f32],
    decode: impl Fn(&[u8; BYTES], &mut [f32; BLOCK]),
) {
    for (block, x) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
        decode(block, x);
    }
}

#[inline(always)]
pub(super) fn decode_q4_0(bytes: &[u8], out: &mut [f32]) {
    each_encoded(bytes, out, |block: &[u8; 18], x| {
        let d = get_f16(block);
        *x = unpack_nibbles(&block[2..]).map(|code| f32::from(code as i8 - 8) * d);
    });
}

#[inline(always)]
pub(super) fn decode_q4_1(bytes: &[u8], out: &mut [f32]) {
    each_encoded(bytes, out, |block: &[u8; 20], x| {
        let (d, m) = (get_f16(block), get_f16(&block[2..]));
        *x = unpack_nibbles(&block[4..]).map(|code| f32::from(code) * d + m);
    });
}

#[inline(always)]
pub(super) fn decode_q5_0(bytes: &[u8], out: &mut [f32]) {
    each_encoded(bytes, out, |block: &[u8; 22], x| {
        let d = get_f16(block);
        *x = unpack_five_bits(&block[2..]).map(|code| f32::from(code as i8 - 16) * d);
    });
}

#[inline(always)]
pub(super) fn decode_q5_1(bytes: &[u8], out: &mut [f32]) {
    each_encoded(bytes, out, |block: &[u8; 24], x| {
        let (d, m) = (get_f16(block), get_f16(&block[2..]));
        *x = unpack_five_bits(&block[4..]).map(|code| f32::from(code) * d + m);
    });
}

#[inline(always)]
pub(super) fn decode_q8_0(bytes: &[u8], out: &mut [f32]) {
    each_encoded(bytes, out, |block: &[u8; 34], x| {
        let d = get_f16(block);
        for (code, v) in block[2..].iter().zip(x) {
            *v = f32::from(*code as i8) * d;
        }
    });
}
