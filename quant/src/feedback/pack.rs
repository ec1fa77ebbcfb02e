//! A block's bytes, as ggml lays them out (the tables stand with the codecs), or loose.

use half::f16;
use plmconv_formats::DType;

use super::grid::{Block, Form};
use crate::grid::Blocks;

/// Writes `block` in its form into `out`, which has one block's bytes.
pub(super) fn pack(form: Form, block: &Block, out: &mut [u8]) {
    match form {
        Form::Ggml(dtype) => pack_ggml(dtype, block, out),
        Form::Loose { middle } => Loose::pack(block, middle, out),
    }
}

/// A block of an integer grid on its way to [`Blocks`]: half-precision scale, zero point, codes.
pub(super) struct Loose;

impl Loose {
    /// Bytes before the codes.
    pub const HEAD: usize = 3;

    fn pack(block: &Block, middle: i32, out: &mut [u8]) {
        put_half(out, 0, block.d);
        // A grid without offsets has its middle for zero.
        out[2] = if middle > 0 { middle as u8 } else { block.dmin as u8 };
        out[Loose::HEAD..].iter_mut().zip(&block.codes).for_each(|(out, &code)| *out = (code + middle) as u8);
    }

    /// Takes blocks of `block_size` codes apart.
    pub fn take_apart(bytes: &[u8], block_size: usize, out: &mut Blocks) {
        out.codes.clear();
        out.scales.clear();
        out.zero_points.clear();
        for block in bytes.chunks_exact(Loose::HEAD + block_size) {
            let (head, codes) = block.split_at(Loose::HEAD);
            out.scales.push(f16::from_le_bytes([head[0], head[1]]).to_f32());
            out.zero_points.push(head[2]);
            out.codes.extend_from_slice(codes);
        }
    }
}

fn pack_ggml(dtype: DType, block: &Block, out: &mut [u8]) {
    out.fill(0);
    match dtype {
        DType::Q4_0 => small(block, 8, None, out),
        DType::Q4_1 => small(block, 0, Some(-block.dmin), out),
        DType::Q5_0 => small_five(block, 16, None, out),
        DType::Q5_1 => small_five(block, 0, Some(-block.dmin), out),
        DType::Q8_0 => {
            put_half(out, 0, block.d);
            out[2..].iter_mut().zip(&block.codes).for_each(|(out, &code)| *out = code as i8 as u8);
        }
        DType::Iq4Nl => small(block, 0, None, out),
        DType::Iq4Xs => iq4_xs(block, out),
        DType::Q2K => q2_k(block, out),
        DType::Q3K => q3_k(block, out),
        DType::Q4K => q4_k(block, out),
        DType::Q5K => q5_k(block, out),
        DType::Q6K => q6_k(block, out),
        _ => unreachable!("a grid exists for every type packed"),
    }
}

fn put_half(out: &mut [u8], at: usize, value: f32) {
    out[at..at + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// Two codes a byte: value `j` of 32 in the low, `j + 16` in the high half.
fn nibbles(codes: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (j, out) in out.iter_mut().enumerate() {
        *out = codes(j) & 15 | codes(j + 16) << 4;
    }
}

fn small(block: &Block, half: i32, min: Option<f32>, out: &mut [u8]) {
    put_half(out, 0, block.d);
    let mut at = 2;
    if let Some(min) = min {
        put_half(out, at, min);
        at += 2;
    }
    nibbles(|j| (block.codes[j] + half) as u8, &mut out[at..]);
}

fn small_five(block: &Block, half: i32, min: Option<f32>, out: &mut [u8]) {
    let mut at = 2;
    if let Some(min) = min {
        put_half(out, at, min);
        at += 2;
    }
    put_half(out, 0, block.d);
    let code = |j: usize| (block.codes[j] + half) as u32;
    let high = (0..32).fold(0u32, |bits, j| bits | (code(j) >> 4) << j);
    out[at..at + 4].copy_from_slice(&high.to_le_bytes());
    nibbles(|j| code(j) as u8, &mut out[at + 4..]);
}

fn iq4_xs(block: &Block, out: &mut [u8]) {
    put_half(out, 0, block.d);
    let mut high = 0u16;
    for (i, &scale) in block.scales.iter().enumerate() {
        let scale = (scale + 32) as u16;
        out[4 + i / 2] |= ((scale & 15) as u8) << (4 * (i % 2));
        high |= (scale >> 4) << (2 * i);
    }
    out[2..4].copy_from_slice(&high.to_le_bytes());
    for (sub, out) in out[8..].chunks_exact_mut(16).enumerate() {
        nibbles(|j| block.codes[sub * 32 + j] as u8, out);
    }
}

/// Byte `l` of each half of 128 values holds the codes at `l`, `l + 32`, `l + 64`, `l + 96`, lowest bits first.
fn two_bits(codes: impl Fn(usize) -> u8, out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let first = i / 32 * 128 + i % 32;
        *out = (0..4).fold(0, |byte, k| byte | (codes(first + 32 * k) & 3) << (2 * k));
    }
}

fn q2_k(block: &Block, out: &mut [u8]) {
    let scales = block.scales.iter().zip(&block.offsets);
    for (out, (&scale, &offset)) in out[..16].iter_mut().zip(scales) {
        *out = scale as u8 | (offset as u8) << 4;
    }
    two_bits(|j| block.codes[j] as u8, &mut out[16..80]);
    put_half(out, 80, block.d);
    put_half(out, 82, block.dmin);
}

fn q3_k(block: &Block, out: &mut [u8]) {
    let code = |j: usize| (block.codes[j] + 4) as u8;
    for j in 0..256 {
        out[j % 32] |= (code(j) >> 2) << (j / 32);
    }
    two_bits(code, &mut out[32..96]);
    for (i, &scale) in block.scales.iter().enumerate() {
        let scale = (scale + 32) as u8;
        out[96 + i % 8] |= (scale & 15) << (4 * (i / 8));
        out[104 + i % 4] |= (scale >> 4) << (2 * (i / 4));
    }
    put_half(out, 108, block.d);
}

/// Eight scales and eight offsets of six bits each in twelve bytes.
fn six_bit_pairs(block: &Block, out: &mut [u8]) {
    for i in 0..8 {
        let (scale, offset) = (block.scales[i] as u8, block.offsets[i] as u8);
        if i < 4 {
            out[i] |= scale;
            out[i + 4] |= offset;
        } else {
            out[i + 4] = scale & 15 | (offset & 15) << 4;
            out[i - 4] |= (scale >> 4) << 6;
            out[i] |= (offset >> 4) << 6;
        }
    }
}

/// Low four bits of 256 codes: byte `l` of each 32 bytes holds the codes at `l` and `l + 32` of 64 values.
fn low_nibbles(block: &Block, out: &mut [u8]) {
    for (i, out) in out.iter_mut().enumerate() {
        let first = i / 32 * 64 + i % 32;
        *out = block.codes[first] as u8 & 15 | (block.codes[first + 32] as u8) << 4;
    }
}

fn q4_k(block: &Block, out: &mut [u8]) {
    put_half(out, 0, block.d);
    put_half(out, 2, block.dmin);
    six_bit_pairs(block, &mut out[4..16]);
    low_nibbles(block, &mut out[16..]);
}

fn q5_k(block: &Block, out: &mut [u8]) {
    put_half(out, 0, block.d);
    put_half(out, 2, block.dmin);
    six_bit_pairs(block, &mut out[4..16]);
    for (j, &code) in block.codes.iter().enumerate() {
        out[16 + j % 32] |= ((code >> 4) as u8 & 1) << (j / 32);
    }
    low_nibbles(block, &mut out[48..]);
}

fn q6_k(block: &Block, out: &mut [u8]) {
    for (j, &code) in block.codes.iter().enumerate() {
        let (code, half, l) = ((code + 32) as u8, j / 128, j % 128);
        out[half * 64 + l % 64] |= (code & 15) << (4 * (l / 64));
        out[128 + half * 32 + l % 32] |= (code >> 4) << (2 * (l / 32));
    }
    for (out, &scale) in out[192..208].iter_mut().zip(&block.scales) {
        *out = scale as i8 as u8;
    }
    put_half(out, 208, block.d);
}
