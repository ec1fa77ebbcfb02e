//! IQ2_XS: 74 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 2 each | per 8 values: nine bits of a point's index, and seven signs above them |
//! | 66 | 1 each | per 32 values: four bits of scale `l` for the first 16, four for the others |
//!
//! A value is `d · (l + 1/2) / 4` times its point's magnitude; the eighth sign makes the number of minus signs even.

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
use crate::codec::search::ZERO_BELOW;

const BYTES: usize = 74;
const SUB: usize = 16;
const SCALES: usize = 66;
const RULE: Rule = Rule { each_side: 9, step: 0.1, again: Again::OffGrid };

pub(in crate::codec) static IQ2_XS: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: super::encode::<Iq2Xs>,
    decode: kernel::decode::<Iq2Xs>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 8,
    points: &points::IQ2_XS,
    levels: &points::TWO_BIT_LEVELS,
    signs: Signs::Even,
    sub: SUB,
    top_code: 15,
    scale,
    trie: &TRIE,
};

static TRIE: LazyLock<Trie> = LazyLock::new(|| Trie::new(&SHAPE));

pub(super) struct Iq2Xs;

static MAGNITUDES: [[u8; 8]; 512] = points::spread(&points::IQ2_XS, &TWO_BIT);

impl Encode for Iq2Xs {
    #[inline(always)]
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let grid = &*grid::IQ2_XS;
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
    let mut scales = [0.0; 16];
    let mut chosen = Chosen::default();
    for (sub, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
        let w = parts::weights(x, importance, sub, spread, Unweighted::EvenImportance);
        let mut block = SubBlock { x: *x, w };
        let mut signs = parts::take_even_signs(&mut block);
        let largest = parts::largest(&block.x);
        if largest < ZERO_BELOW {
            continue;
        }
        let start = largest / 5.0;
        let mut fit =
            best_fit::<K, SUB, 8, { search::lanes(RULE) }>(kernel, grid, RULE, &block, largest, start);
        parts::make_positive(&mut fit.scale, &mut signs, parts::EVEN_SIGNS);
        scales[sub] = fit.scale;
        for group in 0..2 {
            chosen.points[2 * sub + group] = grid.index(fit.points[group]);
            chosen.signs[2 * sub + group] = signs[group];
        }
    }
    match parts::quantize_scales(&scales, SHAPE.top_code) {
        None => chosen = Chosen::default(),
        Some(scale) => (chosen.d, chosen.scales) = (f16_bits(scale.d), scale.codes),
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    out[..2].copy_from_slice(&chosen.d.to_le_bytes());
    for (group, out) in out[2..SCALES].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *out = (chosen.points[group] | u16::from(chosen.signs[group]) << 9).to_le_bytes();
    }
    parts::pack_nibbles(&chosen.scales, &mut out[SCALES..]);
}

/// The scale of a sub-block.
#[inline(always)]
fn scale(d: f32, code: u8) -> f32 {
    d * (0.5 + f32::from(code)) * 0.25
}

impl Decode for Iq2Xs {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (group, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let code = u16::from_le_bytes([block[2 + 2 * group], block[3 + 2 * group]]);
                let scale = block[SCALES + group / 4] >> (4 * (group / 2 % 2)) & 15;
                let scale = self::scale(d, scale);
                let signs = parts::even_signs((code >> 9) as u8);
                parts::write_signed(scale, &MAGNITUDES[usize::from(code & 511)], signs, out);
            }
        }
    }
}
