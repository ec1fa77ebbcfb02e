//! Q8_0: 34 bytes for 32 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 1 each | codes, signed |
//!
//! A value is `d * code`. Algorithm: `quantize_row_q8_0_ref` in ggml-quants.c; an importance makes no difference.

use super::arithmetic::inverse_or_zero;
use super::float::{half_bytes, half_value};
use super::kernel::{self, Decode, Encode, Kernel, STEP};
use super::registry::{Codec, Guided, ScaleFields};
use super::scalar::{Block, Grid};

const BLOCK: usize = STEP;
const CODES: usize = 2;
const BYTES: usize = CODES + BLOCK;

pub(super) static Q8_0: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: kernel::encode::<Bytes>,
    decode: kernel::decode::<Bytes>,
    guided: Guided::Scalar { grid: &Grid::block(-127, 127, false), pack },
};

struct Bytes;

#[inline(always)]
fn put(d: f32, codes: &[u8; BLOCK], out: &mut [u8]) {
    let (head, out) = out.split_at_mut(CODES);
    head.copy_from_slice(&half_bytes(d));
    out.copy_from_slice(codes);
}

/// Writes a block that was chosen elsewhere.
fn pack(block: &Block, out: &mut [u8]) {
    put(block.d, &block.stored_codes(0, 0), out);
}

impl Encode for Bytes {
    #[inline(always)]
    fn encode(kernel: impl Kernel, values: &[f32], _: Option<&[f32]>, out: &mut [u8]) {
        for (x, out) in values.as_chunks().0.iter().zip(out.as_chunks_mut::<BYTES>().0) {
            let d = kernel.largest_magnitude(x) / 127.0;
            put(d, &kernel.rounded(x, inverse_or_zero(d)), out);
        }
    }
}

impl Decode for Bytes {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<BLOCK>().0) {
            let d = half_value([block[0], block[1]]);
            for (code, value) in block[CODES..].iter().zip(out) {
                *value = f32::from(*code as i8) * d;
            }
        }
    }
}
