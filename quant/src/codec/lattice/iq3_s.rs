//! IQ3_S: 110 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 1 each | per 4 values: low eight bits of a point's index |
//! | 66 | 1 each | per 32 values: the ninth bits of eight indices, the first lowest |
//! | 74 | 1 each | per 8 values: their signs |
//! | 106 | 1 each | per 64 values: four bits of scale `l` for the first 32, four for the others |
//!
//! A value is `d · (2 l + 1)` times its point's magnitude.

use std::sync::LazyLock;

use super::grid::{self, Grid};
use super::nearest::{Nearest, ODD};
use super::parts::{self, Unweighted};
use super::points;
use super::search::{Again, Rule, SubBlock, best_fit};
use super::shape::{Chosen, Shape, Signs};
use super::trie::Trie;
use super::{Encode, SUPER_BLOCK, search};
use crate::codec::float::{f16_bits, f16_value};
use crate::codec::kernel::{self, Decode, Kernel};
use crate::codec::registry::{Codec, Guided, ScaleFields};

const BYTES: usize = 110;
const SUB: usize = 32;
const HIGH: usize = 66;
const SIGNS: usize = 74;
const SCALES: usize = 106;
const RULE: Rule = Rule { each_side: 9, step: 0.2, again: Again::AllIfAnyIsOff };
/// What the block's scale is stretched by, as ggml found it to help.
const STRETCH: f32 = 1.033;

pub(in crate::codec) static IQ3_S: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: super::encode::<Iq3S>,
    decode: kernel::decode::<Iq3S>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 4,
    points: &points::IQ3_S,
    levels: &ODD,
    signs: Signs::Each,
    sub: SUB,
    top_code: 15,
    scale,
    trie: &TRIE,
};

static TRIE: LazyLock<Trie> = LazyLock::new(|| Trie::new(&SHAPE));

pub(super) struct Iq3S;

static MAGNITUDES: [[u8; 4]; 512] = points::spread(&points::IQ3_S, &[1, 3, 5, 7, 9, 11, 13, 15]);

impl Encode for Iq3S {
    #[inline(always)]
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let grid = &*grid::IQ3_S;
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
        let mut signs = parts::take_signs(&mut block.x);
        let largest = parts::largest(&block.x);
        if largest == 0.0 {
            continue;
        }
        let start = largest / 15.0;
        let mut fit =
            best_fit::<K, SUB, 4, { search::lanes(RULE) }>(kernel, grid, RULE, &block, largest, start);
        parts::make_positive(&mut fit.scale, &mut signs, u8::MAX);
        scales[sub] = fit.scale;
        chosen.points[8 * sub..][..8].copy_from_slice(&fit.points.map(|point| grid.index(point)));
        chosen.signs[4 * sub..][..4].copy_from_slice(&signs);
    }
    if let Some(scale) = parts::quantize_scales(&scales, SHAPE.top_code) {
        chosen.d = f16_bits(scale.d * STRETCH);
        chosen.scales[..8].copy_from_slice(&scale.codes);
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    out.fill(0);
    out[..2].copy_from_slice(&chosen.d.to_le_bytes());
    for (group, index) in chosen.points.iter().enumerate() {
        out[2 + group] = *index as u8;
        out[HIGH + group / 8] |= ((index >> 8) as u8) << (group % 8);
    }
    out[SIGNS..SCALES].copy_from_slice(&chosen.signs);
    parts::pack_nibbles(&chosen.scales[..8], &mut out[SCALES..]);
}

/// The scale of a sub-block.
#[inline(always)]
fn scale(d: f32, code: u8) -> f32 {
    d * f32::from(1 + 2 * code)
}

impl Decode for Iq3S {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (sub, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
                let scale = scale(d, block[SCALES + sub / 2] >> (4 * (sub % 2)) & 15);
                for (group, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                    let high = usize::from(block[HIGH + sub] >> group & 1);
                    let point = &MAGNITUDES[usize::from(block[2 + 8 * sub + group]) | high << 8];
                    let signs = block[SIGNS + 4 * sub + group / 2] >> (4 * (group % 2));
                    parts::write_signed(scale, point, signs, out);
                }
            }
        }
    }
}
