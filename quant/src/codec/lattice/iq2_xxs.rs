//! IQ2_XXS: 66 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 8 each | per 32 values: four indices of points, a byte each; then 32 bits: four times seven signs, the first lowest, and on top of them four bits of scale `l` |
//!
//! A value is `d · (l + 1/2) / 4` times its point's magnitude; the eighth sign makes the number of minus signs even.

use std::sync::LazyLock;

use super::grid::{self, Grid};
use super::nearest::Nearest;
use super::parts::{self, Unweighted};
use super::points::{self, TWO_BIT};
use super::search::{Again, Fit, Rule, SubBlock, best_fit};
use super::shape::{Chosen, Shape, Signs};
use super::trie::Trie;
use super::{Encode, SUPER_BLOCK, search};
use crate::codec::float::{f16_bits, f16_value};
use crate::codec::kernel::{self, Decode, Kernel};
use crate::codec::registry::{Codec, Guided, ScaleFields};
use crate::codec::search::{ZERO_BELOW, positive};

const BYTES: usize = 66;
const SUB: usize = 32;
const RULE: Rule = Rule { each_side: 6, step: 0.1, again: Again::Always };

pub(in crate::codec) static IQ2_XXS: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: super::encode::<Iq2Xxs>,
    decode: kernel::decode::<Iq2Xxs>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 8,
    points: &points::IQ2_XXS,
    levels: &points::TWO_BIT_LEVELS,
    signs: Signs::Even,
    sub: SUB,
    top_code: 15,
    scale,
    trie: &TRIE,
};

static TRIE: LazyLock<Trie> = LazyLock::new(|| Trie::new(&SHAPE));

pub(super) struct Iq2Xxs;

static MAGNITUDES: [[u8; 8]; 256] = points::spread(&points::IQ2_XXS, &TWO_BIT);

impl Encode for Iq2Xxs {
    #[inline(always)]
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let grid = &*grid::IQ2_XXS;
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
    let spread = parts::mean_square(x);
    let mut scales = [0.0; 8];
    let mut chosen = Chosen::default();
    for (sub, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
        let w = parts::weights(x, importance, sub, spread, Unweighted::EvenImportance);
        let mut block = SubBlock { x: *x, w };
        let mut signs = parts::take_even_signs(&mut block);
        let Some(mut fit) = fit(kernel, grid, &block) else { continue };
        parts::make_positive(&mut fit.scale, &mut signs, parts::EVEN_SIGNS);
        scales[sub] = fit.scale;
        for group in 0..4 {
            chosen.points[4 * sub + group] = grid.index(fit.points[group]);
        }
        chosen.signs[4 * sub..][..4].copy_from_slice(&signs);
    }
    match parts::quantize_scales(&scales, SHAPE.top_code) {
        None => chosen = Chosen::default(),
        Some(scale) => {
            chosen.d = f16_bits(scale.d);
            chosen.scales[..8].copy_from_slice(&scale.codes);
        }
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    let (head, subs) = out.split_at_mut(2);
    head.copy_from_slice(&chosen.d.to_le_bytes());
    for (sub, out) in subs.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        for (out, index) in out.iter_mut().zip(&chosen.points[4 * sub..][..4]) {
            *out = *index as u8;
        }
        let packed = parts::pack_even_signs(&chosen.signs, sub) | u32::from(chosen.scales[sub]) << 28;
        out[4..].copy_from_slice(&packed.to_le_bytes());
    }
}

/// The scale of a sub-block.
#[inline(always)]
fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

/// The fit of a sub-block, or `None` if it is as good as zero.
#[inline(always)]
fn fit<K: Nearest>(kernel: K, grid: &Grid<8>, block: &SubBlock<SUB>) -> Option<Fit> {
    if parts::largest(&block.x) < ZERO_BELOW {
        return None;
    }
    // Trials are around the scale that would be best if there were no grid.
    let scale = positive::fit(4, &block.x, &block.w, &mut [0; SUB]);
    let largest = scale * 3.0;
    let is_zero = largest <= 0.0;
    (!is_zero)
        .then(|| best_fit::<K, SUB, 8, { search::lanes(RULE) }>(kernel, grid, RULE, block, largest, scale))
}

impl Decode for Iq2Xxs {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (sub, out) in block[2..].as_chunks::<8>().0.iter().zip(out.as_chunks_mut::<SUB>().0) {
                let packed = u32::from_le_bytes([sub[4], sub[5], sub[6], sub[7]]);
                let scale = scale(d, (packed >> 28) as u8);
                for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let signs = parts::even_signs((packed >> (7 * group)) as u8 & parts::EVEN_SIGNS);
                    parts::write_signed(scale, &MAGNITUDES[usize::from(sub[group])], signs, out);
                }
            }
        }
    }
}
