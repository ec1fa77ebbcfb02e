//! Blocks of 32 values with one half-precision scale (and, for the `_1` types, a minimum): Q4_0, Q4_1, Q5_0, Q5_1.
//!
//! Bytes of a block, little endian:
//!
//! | type | fields |
//! | --- | --- |
//! | Q4_0 | `d: f16`, `qs: [u8; 16]` |
//! | Q4_1 | `d: f16`, `m: f16`, `qs: [u8; 16]` |
//! | Q5_0 | `d: f16`, `qh: u32`, `qs: [u8; 16]` |
//! | Q5_1 | `d: f16`, `m: f16`, `qh: u32`, `qs: [u8; 16]` |
//!
//! Byte `j` of `qs` holds the low four bits of value `j` and, above them, of value `j + 16`; bit `j` of `qh` is
//! the fifth bit of value `j`. A value is `d * (code - half)`, half being half the number of codes, or `d * code + m`.
//! Algorithms: `quantize_row_q*_ref` and `quantize_row_q*_impl` in ggml-quants.c.

use super::arithmetic::{inverse_or_zero, sum_of_squares};
use super::float::{half_bytes, half_value};
use super::kernel::{self, Decode, Encode, Kernel, STEP, Scalar};
use super::registry::{Codec, Guided, ScaleFields};
use super::scalar::{self, Grid};
use super::search::affine::{self, AffineFit, AffineGrid};
use super::search::symmetric;

const BLOCK: usize = STEP;
const HALF_BLOCK: usize = BLOCK / 2;
/// Where the scale is, and the minimum.
const D: usize = 0;
const M: usize = 2;

/// One value per element, before packing.
type Codes = [u8; BLOCK];

pub(super) static Q4_0: Codec = Type::<false, false>::CODEC;
pub(super) static Q4_1: Codec = Type::<true, false>::CODEC;
pub(super) static Q5_0: Codec = Type::<false, true>::CODEC;
pub(super) static Q5_1: Codec = Type::<true, true>::CODEC;

/// What tells the types apart: whether there is a minimum, and whether codes have a fifth bit.
struct Type<const MIN: bool, const FIFTH: bool>;

/// What a block says. Without a minimum `m` is zero.
struct Block {
    d: f32,
    m: f32,
    codes: Codes,
}

impl<const MIN: bool, const FIFTH: bool> Type<MIN, FIFTH> {
    /// Where the fifth bits are, if there are some, and the other four.
    const HIGH: usize = if MIN { 4 } else { 2 };
    const LOW: usize = Self::HIGH + if FIFTH { 4 } else { 0 };
    const BYTES: usize = Self::LOW + HALF_BLOCK;
    const MAX_CODE: u8 = if FIFTH { 31 } else { 15 };
    /// The code that means zero.
    const HALF: u8 = if MIN { 0 } else { Self::MAX_CODE / 2 + 1 };

    const GRID: Grid = Grid::block(-(Self::HALF as i32), (Self::MAX_CODE - Self::HALF) as i32, MIN);
    const CODEC: Codec = Codec {
        scales: ScaleFields::Halves([D, if MIN { M } else { D }]),
        encode: kernel::encode::<Self>,
        decode: kernel::decode::<Self>,
        guided: Guided::Scalar { grid: &Self::GRID, pack: Self::pack },
        dot: None,
    };

    #[inline(always)]
    fn put(kernel: impl Kernel, block: &Block, out: &mut [u8]) {
        out[D..][..2].copy_from_slice(&half_bytes(block.d));
        if MIN {
            out[M..][..2].copy_from_slice(&half_bytes(block.m));
        }
        let mut low = block.codes;
        if FIFTH {
            out[Self::HIGH..][..4].copy_from_slice(&kernel.fifth_bits(&block.codes).to_le_bytes());
            // Not `codes.map`, which may be compiled apart, without the kernel's instructions.
            for code in &mut low {
                *code &= 15;
            }
        }
        out[Self::LOW..].copy_from_slice(&kernel.nibbles(&low));
    }

    #[inline(always)]
    fn take(block: &[u8]) -> Block {
        let half = |at: usize| half_value([block[at], block[at + 1]]);
        let mut codes = [0; BLOCK];
        let (low, high) = codes.split_at_mut(HALF_BLOCK);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(&block[Self::LOW..]) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
        if FIFTH {
            let qh = &block[Self::HIGH..][..4];
            let qh = u32::from_le_bytes([qh[0], qh[1], qh[2], qh[3]]);
            codes = std::array::from_fn(|j| codes[j] | (((qh >> j) & 1) << 4) as u8);
        }
        Block { d: half(D), m: if MIN { half(M) } else { 0.0 }, codes }
    }

    /// Writes a block that was chosen elsewhere.
    fn pack(block: &scalar::Block, out: &mut [u8]) {
        let codes = block.stored_codes(0, Self::HALF);
        Self::put(Scalar, &Block { d: block.d, m: -block.dmin, codes }, out);
    }

    /// The plain way. Without a minimum the scale maps the value of largest magnitude onto code 0, which is one step
    /// further out than the largest code: the sign of the scale follows that value.
    #[inline(always)]
    fn fit(kernel: impl Kernel, x: &[f32; BLOCK]) -> Block {
        if MIN {
            let (min, max) = kernel.range(x);
            let d = (max - min) / f32::from(Self::MAX_CODE);
            return Block { d, m: min, codes: kernel.truncated(x, min, inverse_or_zero(d), 0.5) };
        }
        let half = f32::from(Self::HALF);
        let d = kernel.signed_max(x) / -half;
        let mut codes = kernel.truncated(x, 0.0, inverse_or_zero(d), half + 0.5);
        for code in &mut codes {
            *code = (*code as i8).min(Self::MAX_CODE as i8) as u8;
        }
        Block { d, m: 0.0, codes }
    }

    /// With what an error in each value costs.
    #[inline(always)]
    fn search(x: &[f32; BLOCK], w: &[f32; BLOCK]) -> Block {
        let mut codes = [0; BLOCK];
        if MIN {
            let grid = AffineGrid::weighted(Self::MAX_CODE.into());
            let AffineFit { scale, offset, .. } = affine::fit(&grid, x, w, &mut codes);
            return Block { d: scale, m: -offset, codes };
        }
        let d = symmetric::fit(Self::HALF.into(), x, w, &mut codes);
        Block { d, m: 0.0, codes }
    }
}

impl<const MIN: bool, const FIFTH: bool> Encode for Type<MIN, FIFTH> {
    #[inline(always)]
    fn encode(kernel: impl Kernel, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let Some(importance) = importance else {
            for (x, out) in values.as_chunks().0.iter().zip(out.chunks_exact_mut(Self::BYTES)) {
                Self::put(kernel, &Self::fit(kernel, x), out);
            }
            return;
        };
        let cols = importance.len();
        let rows = values.chunks_exact(cols).zip(out.chunks_exact_mut(cols / BLOCK * Self::BYTES));
        for (row, out) in rows {
            let mean_square = sum_of_squares(row) / cols as f32;
            let blocks = row.as_chunks().0.iter().zip(importance.as_chunks().0);
            for ((x, importance), out) in blocks.zip(out.chunks_exact_mut(Self::BYTES)) {
                Self::put(kernel, &Self::search(x, &weights(x, importance, mean_square)), out);
            }
        }
    }
}

/// What the importance of a value is worth: its activation statistics times the root of its square plus the
/// row's mean square, so that a small value beside large ones still counts.
#[inline(always)]
fn weights(x: &[f32; BLOCK], importance: &[f32; BLOCK], mean_square: f32) -> [f32; BLOCK] {
    std::array::from_fn(|j| importance[j] * (mean_square + x[j] * x[j]).sqrt())
}

impl<const MIN: bool, const FIFTH: bool> Decode for Type<MIN, FIFTH> {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(Self::BYTES).zip(out.as_chunks_mut::<BLOCK>().0);
        for (block, out) in blocks {
            let Block { d, m, codes } = Self::take(block);
            for (value, &code) in out.iter_mut().zip(&codes) {
                *value =
                    if MIN { f32::from(code) * d + m } else { f32::from(code as i8 - Self::HALF as i8) * d };
            }
        }
    }
}
