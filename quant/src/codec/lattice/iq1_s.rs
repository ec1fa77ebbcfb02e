//! IQ1_S: 50 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 2 | `d`, half precision |
//! | 2 | 1 each | per 8 values: low eight bits of a point's index |
//! | 34 | 2 each | per 32 values: the upper three bits of four indices, the first lowest; above them three bits of scale `l`; on top the shift, set for down |
//!
//! A value is `d · (2 l + 1)` times minus one, zero or one as its point says, shifted by an eighth.

use std::sync::LazyLock;

use super::grid::{self, Grid};
use super::nearest::Nearest;
use super::parts::{self, Unweighted};
use super::points;
use super::shape::{Chosen, Shape, Signs};
use super::split::{self, DOWN, SHIFT, SplitSums, SubBlock, Sums, UP};
use super::trie::Trie;
use super::{Encode, SUPER_BLOCK};
use crate::codec::float::{f16_bits, f16_value};
use crate::codec::kernel::{self, Decode, Kernel};
use crate::codec::registry::{Codec, Guided, ScaleFields};

const BYTES: usize = 50;
const SUB: usize = 32;
const ENDS: usize = split::ends(SUB);
const HIGH: usize = 34;
/// Magnitudes below this count as zero (`GROUP_MAX_EPS_IQ1_S`).
const ZERO_BELOW: f32 = 1e-12;
/// What the block's scale is stretched by, as ggml found it to help.
const STRETCH: f32 = 1.125;

pub(in crate::codec) static IQ1_S: Codec = Codec {
    scales: ScaleFields::Halves([0, 0]),
    encode: super::encode::<Iq1S>,
    decode: kernel::decode::<Iq1S>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 8,
    points: &points::IQ1,
    levels: &[-1.0, 0.0, 1.0],
    signs: Signs::Shifted { words: SUB / 8 },
    sub: SUB,
    top_code: 7,
    scale,
    trie: &TRIE,
};

pub(super) static TRIE: LazyLock<Trie> = LazyLock::new(|| Trie::new(&SHAPE));

pub(super) struct Iq1S;

/// By code, one more than what it means.
pub(super) static CODES: [[u8; 8]; 2048] = points::spread(&points::IQ1, &[0, 1, 2]);

/// A sub-block as it is chosen.
#[derive(Clone, Copy, Default)]
struct Fit {
    indices: [u16; 4],
    scale: f32,
    down: bool,
}

impl Encode for Iq1S {
    #[inline(always)]
    fn encode<K: Nearest>(kernel: K, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        let grid = &*grid::IQ1;
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
    let mut fits = [Fit::default(); 8];
    for (sub, x) in x.as_chunks::<SUB>().0.iter().enumerate() {
        let w = parts::weights(x, importance, sub, spread, Unweighted::EvenImportance);
        fits[sub] = fit(kernel, grid, &SubBlock { x, w: &w });
    }
    let mut chosen = Chosen::default();
    let scale = parts::quantize_scales(&fits.map(|fit| fit.scale), SHAPE.top_code);
    if let Some(scale) = &scale {
        chosen.d = f16_bits(scale.d * STRETCH);
        chosen.scales[..8].copy_from_slice(&scale.codes);
    }
    for (sub, fit) in fits.iter().enumerate() {
        chosen.points[4 * sub..][..4].copy_from_slice(&fit.indices);
        // Of a block of zeros ggml stores no shifts.
        chosen.down[4 * sub] = scale.is_some() && fit.down;
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    out[..2].copy_from_slice(&chosen.d.to_le_bytes());
    for (out, index) in out[2..HIGH].iter_mut().zip(&chosen.points) {
        *out = *index as u8;
    }
    for (sub, out) in out[HIGH..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let indices = chosen.points[4 * sub..][..4].iter().rev();
        let high = indices.fold(0, |packed, index| packed << 3 | index >> 8);
        let shift = u16::from(chosen.down[4 * sub]) << 15;
        *out = (high | u16::from(chosen.scales[sub]) << 12 | shift).to_le_bytes();
    }
}

/// The scale of a sub-block.
#[inline(always)]
pub(super) fn scale(d: f32, code: u8) -> f32 {
    d * f32::from(2 * code + 1)
}

#[inline(always)]
fn fit<K: Nearest>(kernel: K, grid: &Grid<8>, block: &SubBlock<SUB>) -> Fit {
    if parts::largest(&block.x.map(f32::abs)) < ZERO_BELOW {
        return Fit::default();
    }
    let order = split::ascending(block.x);
    let running = RunningSums::new(block, &order);
    let Some(best) = split::best_split::<SUB, 2, ENDS>(&running) else {
        return Fit::default();
    };
    // Negated values are shifted the other way.
    let down = (best.choice == 1) != (best.scale < 0.0);
    let levels = if down { &DOWN } else { &UP };
    let mut scale = best.scale.abs();
    let codes = split::codes(&best, &order);
    let indices = split::to_grid(kernel, grid, block, &codes, |_| levels, &mut scale);
    Fit { indices, scale, down }
}

/// `Σ w x` and `Σ w` of the values before each place in order; the last repeats to fill vectors.
struct RunningSums {
    wx: [f32; ENDS],
    w: [f32; ENDS],
}

impl RunningSums {
    #[inline(always)]
    fn new(block: &SubBlock<SUB>, order: &[usize; SUB]) -> RunningSums {
        let mut sums = RunningSums { wx: [0.0; ENDS], w: [0.0; ENDS] };
        for place in 0..ENDS - 1 {
            let (wx, w) = match order.get(place) {
                Some(&at) => (block.w[at] * block.x[at], block.w[at]),
                None => (0.0, 0.0),
            };
            sums.wx[place + 1] = sums.wx[place] + wx;
            sums.w[place + 1] = sums.w[place] + w;
        }
        sums
    }
}

impl SplitSums<2, ENDS> for RunningSums {
    #[inline(always)]
    fn fill(&self, first: usize, sums: &mut Sums<2, ENDS>) {
        let (all_wx, all_w) = (self.wx[SUB], self.w[SUB]);
        let (low_wx, low_w) = (self.wx[first] - self.wx[0], self.w[first] - self.w[0]);
        for (choice, q) in [UP, DOWN].iter().enumerate() {
            for second in 0..ENDS {
                let (middle, high) = (self.wx[second] - self.wx[first], all_wx - self.wx[second]);
                sums.qx[choice][second] = low_wx * q[0] + middle * q[1] + high * q[2];
                let (middle, high) = (self.w[second] - self.w[first], all_w - self.w[second]);
                sums.q2[choice][second] = low_w * q[0] * q[0] + middle * q[1] * q[1] + high * q[2] * q[2];
            }
        }
    }
}

impl Decode for Iq1S {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(u16::from_le_bytes([block[0], block[1]]));
            for (sub, out) in out.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
                let high = u16::from_le_bytes([block[HIGH + 2 * sub], block[HIGH + 2 * sub + 1]]);
                let scale = scale(d, (high >> 12 & 7) as u8);
                let shift = if high >> 15 == 1 { -SHIFT } else { SHIFT };
                for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                    let index = usize::from(block[2 + 4 * sub + g]) | usize::from(high >> (3 * g) & 7) << 8;
                    write_shifted(scale, shift, index, out);
                }
            }
        }
    }
}

/// Writes a point's values, shifted and scaled.
#[inline(always)]
pub(super) fn write_shifted(scale: f32, shift: f32, index: usize, out: &mut [f32; 8]) {
    for (out, code) in out.iter_mut().zip(CODES[index]) {
        *out = scale * (f32::from(code) - 1.0 + shift);
    }
}
