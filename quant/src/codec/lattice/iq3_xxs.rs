//! IQ3_XXS: 98 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 1 each | per 4 values: a point's index |
//! | 66 | 4 each | per 32 values: four times seven signs, the first lowest, and on top of them four bits of scale `l` |
//!
//! A value is `d · (l + 1/2) / 2` times its point's magnitude; the eighth sign makes the number of minus signs even.

use std::sync::LazyLock;

use super::grid::{self, Grid};
use super::nearest::Nearest;
use super::parts::{self, Unweighted};
use super::points;
use super::search::{Again, Rule, SubBlock, best_fit};
use super::shape::{Chosen, Shape, Signs};
use super::trie::Trie;
use super::{Encode, SUPER_BLOCK, search};
use crate::codec::float::{f16_bits, f16_value};
use crate::codec::kernel::{self, Decode, Kernel};
use crate::codec::registry::{Codec, Guided, ScaleFields};

const BYTES: usize = 98;
const SUB: usize = 32;
const SIGNS_AND_SCALES: usize = 66;
const RULE: Rule = Rule { each_side: 15, step: 0.2, again: Again::OffGrid };
/// Magnitudes below this count as zero (`GROUP_MAX_EPS_IQ3_XXS`).
const ZERO_BELOW: f32 = 1e-8;
/// What the block's scale is stretched by, as ggml found it to help.
const STRETCH: f32 = 1.0125;

pub(in crate::codec) static IQ3_XXS: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: super::encode::<Iq3Xxs>,
    decode: kernel::decode::<Iq3Xxs>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 4,
    points: &points::IQ3_XXS,
    levels: &[4.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0, 62.0],
    signs: Signs::Even,
    sub: SUB,
    top_code: 15,
    scale,
    trie: &TRIE,
};

static TRIE: LazyLock<Trie> = LazyLock::new(|| Trie::new(&SHAPE));

pub(super) struct Iq3Xxs;

static MAGNITUDES: [[u8; 4]; 256] = points::spread(&points::IQ3_XXS, &[4, 12, 20, 28, 36, 44, 52, 62]);

impl Encode for Iq3Xxs {
    #[inline(always)]
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let grid = &*grid::IQ3_XXS;
        for (x, importance, block) in parts::super_blocks(values, importance, out) {
            encode_block(kernel, grid, x, importance, block);
        }
    }
}

#[inline(always)]
fn encode_block<K: Nearest>(
    kernel: K,
    grid: &Grid<4>,
    x: &[f32; SUPER_BLOCK],
    importance: Option<&[f32]>,
    out: &mut [u8; BYTES],
) {
    let spread = 2.0 * parts::mean_square(x);
    let mut scales = [0.0; 8];
    let mut chosen = Chosen::default();
    for (sub, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
        let w = parts::weights(x, importance, sub, spread, Unweighted::Square);
        let mut block = SubBlock { x: *x, w };
        let mut signs = parts::take_even_signs(&mut block);
        let largest = parts::largest(&block.x);
        if largest < ZERO_BELOW {
            continue;
        }
        let start = largest / 15.0;
        let mut fit =
            best_fit::<K, SUB, 4, { search::lanes(RULE) }>(kernel, grid, RULE, &block, largest, start);
        parts::make_positive(&mut fit.scale, &mut signs, parts::EVEN_SIGNS);
        scales[sub] = fit.scale;
        chosen.points[8 * sub..][..8].copy_from_slice(&fit.points.map(|point| grid.index(point)));
        chosen.signs[4 * sub..][..4].copy_from_slice(&signs);
    }
    match parts::quantize_scales(&scales, SHAPE.top_code) {
        None => chosen = Chosen::default(),
        Some(scale) => {
            chosen.d = f16_bits(scale.d * STRETCH);
            chosen.scales[..8].copy_from_slice(&scale.codes);
        }
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    out[..2].copy_from_slice(&chosen.d.to_le_bytes());
    for (out, index) in out[2..SIGNS_AND_SCALES].iter_mut().zip(&chosen.points) {
        *out = *index as u8;
    }
    for (sub, out) in out[SIGNS_AND_SCALES..].as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let packed = parts::pack_even_signs(&chosen.signs, sub) | u32::from(chosen.scales[sub]) << 28;
        *out = packed.to_le_bytes();
    }
}

/// The scale of a sub-block.
#[inline(always)]
fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.5
}

impl Decode for Iq3Xxs {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            let (indices, packed) = block[2..].split_at(SIGNS_AND_SCALES - 2);
            let subs = indices.as_chunks::<8>().0.iter().zip(packed.as_chunks::<4>().0);
            for ((indices, packed), out) in subs.zip(out.as_chunks_mut::<SUB>().0) {
                let packed = u32::from_le_bytes(*packed);
                let scale = scale(d, (packed >> 28) as u8);
                for (group, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let signs = parts::even_signs((packed >> (7 * (group / 2))) as u8 & parts::EVEN_SIGNS);
                    let point = &MAGNITUDES[usize::from(indices[group])];
                    parts::write_signed(scale, point, signs >> (4 * (group % 2)), out);
                }
            }
        }
    }
}
