//! IQ2_S: 82 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 1 each | per 8 values: low eight bits of a point's index |
//! | 34 | 1 each | per 8 values: their signs |
//! | 66 | 1 each | per 32 values: the upper two bits of four indices, the first lowest |
//! | 74 | 1 each | per 32 values: four bits of scale `l` for the first 16, four for the others |
//!
//! A value is `d · (l + 1/2) / 4` times its point's magnitude.

use std::sync::LazyLock;

use super::grid::{self, Grid};
use super::nearest::Nearest;
use super::parts::{self, Unweighted};
use super::points::{self, TWO_BIT};
use super::search::{Again, Rule, SubBlock, best_fit};
use super::shape::{Chosen, Shape, Signs};
use super::trie::Trie;
use super::{Encode, SUPER_BLOCK, search};
use crate::codec::float::{f16_bits, f16_value};
use crate::codec::kernel::{self, Decode, Kernel};
use crate::codec::registry::{Codec, Guided, ScaleFields};

const BYTES: usize = 82;
const SUB: usize = 16;
const SIGNS: usize = 34;
const HIGH: usize = 66;
const SCALES: usize = 74;
const RULE: Rule = Rule { each_side: 9, step: 0.1, again: Again::OffGrid };
/// Magnitudes below this count as zero (`GROUP_MAX_EPS_IQ2_S`).
const ZERO_BELOW: f32 = 1e-8;
/// What the block's scale is stretched by, as ggml found it to help.
const STRETCH: f32 = 0.9875;

pub(in crate::codec) static IQ2_S: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: super::encode::<Iq2S>,
    decode: kernel::decode::<Iq2S>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 8,
    points: &points::IQ2_S,
    levels: &points::TWO_BIT_LEVELS,
    signs: Signs::Each,
    sub: SUB,
    top_code: 15,
    scale,
    trie: &TRIE,
};

static TRIE: LazyLock<Trie> = LazyLock::new(|| Trie::new(&SHAPE));

pub(super) struct Iq2S;

static MAGNITUDES: [[u8; 8]; 1024] = points::spread(&points::IQ2_S, &TWO_BIT);

impl Encode for Iq2S {
    #[inline(always)]
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let grid = &*grid::IQ2_S;
        for (x, importance, block) in parts::super_blocks(values, importance, out) {
            encode_block(kernel, grid, x, importance, block);
        }
    }
}

#[inline(always)]
fn encode_block<K: Nearest>(
    kernel: K,
    grid: &Grid<8>,
    x: &[f32; SUPER_BLOCK],
    importance: Option<&[f32]>,
    out: &mut [u8; BYTES],
) {
    let spread = 2.0 * parts::mean_square(x);
    let mut scales = [0.0; 16];
    let mut chosen = Chosen::default();
    for (sub, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
        let w = parts::weights(x, importance, sub, spread, Unweighted::QuarterSpreadPlusSquare);
        let mut block = SubBlock { x: *x, w };
        let mut signs = parts::take_signs(&mut block.x);
        let largest = parts::largest(&block.x);
        if largest < ZERO_BELOW {
            continue;
        }
        let start = largest / 5.0;
        let mut fit =
            best_fit::<K, SUB, 8, { search::lanes(RULE) }>(kernel, grid, RULE, &block, largest, start);
        parts::make_positive(&mut fit.scale, &mut signs, u8::MAX);
        scales[sub] = fit.scale;
        for group in 0..2 {
            chosen.points[2 * sub + group] = grid.index(fit.points[group]);
            chosen.signs[2 * sub + group] = signs[group];
        }
    }
    if let Some(scale) = parts::quantize_scales(&scales, SHAPE.top_code) {
        (chosen.d, chosen.scales) = (f16_bits(scale.d * STRETCH), scale.codes);
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    out.fill(0);
    out[..2].copy_from_slice(&chosen.d.to_le_bytes());
    for group in 0..32 {
        let index = chosen.points[group];
        out[2 + group] = index as u8;
        out[HIGH + group / 4] |= ((index >> 8) << (2 * (group % 4))) as u8;
        out[SIGNS + group] = chosen.signs[group];
    }
    parts::pack_nibbles(&chosen.scales, &mut out[SCALES..]);
}

/// The scale of a sub-block.
#[inline(always)]
fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

impl Decode for Iq2S {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let high = usize::from(block[HIGH + group / 4] >> (2 * (group % 4)) & 3);
                let scale = block[SCALES + group / 4] >> (4 * (group / 2 % 2)) & 15;
                let scale = self::scale(d, scale);
                let point = &MAGNITUDES[usize::from(block[2 + group]) | high << 8];
                parts::write_signed(scale, point, block[SIGNS + group], out);
            }
        }
    }
}
