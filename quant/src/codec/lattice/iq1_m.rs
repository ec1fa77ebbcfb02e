//! IQ1_M: 56 bytes for 256 values.
//!
//! | offset | width | what |
//! | --- | --- | --- |
//! | 0 | 1 each | per 8 values: low eight bits of a point's index |
//! | 32 | 1 each | per 16 values: for the first 8 three upper bits of the index and a fourth for the shift, set for down; the same for the others |
//! | 48 | 2 each | per 64 values: four times three bits of scale `l`, the first lowest; on top of them four bits of `d`, a half-precision number, the lowest first |
//!
//! A value is `d · (2 l + 1)` times minus one, zero or one as its point says, shifted by an eighth.

use super::grid::{self, Grid};
use super::iq1_s::{self, scale, write_shifted};
use super::nearest::{Levels, Nearest};
use super::parts::{self, Unweighted};
use super::points;
use super::shape::{Chosen, Shape, Signs};
use super::split::{self, DOWN, SHIFT, SplitSums, SubBlock, Sums, UP};
use super::{Encode, SUPER_BLOCK};
use crate::codec::float::{f16_bits, f16_value};
use crate::codec::kernel::{self, Decode, Kernel};
use crate::codec::registry::{Codec, Guided, ScaleFields};

const BYTES: usize = 56;
const SUB: usize = 16;
const ENDS: usize = split::ends(SUB);
const HIGH: usize = 32;
const SCALES: usize = 48;
/// Magnitudes below this count as zero (`GROUP_MAX_EPS_IQ1_M`).
const ZERO_BELOW: f32 = 1e-7;
/// What the block's scale is stretched by, as ggml found it to help.
const STRETCH: f32 = 1.1125;

pub(in crate::codec) static IQ1_M: Codec = Codec {
    scales: ScaleFields::Scattered(block_scale_bits),
    encode: super::encode::<Iq1M>,
    decode: kernel::decode::<Iq1M>,
    guided: Guided::Points { shape: &SHAPE, pack },
    dot: None,
};

static SHAPE: Shape = Shape {
    group: 8,
    points: &points::IQ1,
    levels: &[-1.0, 0.0, 1.0],
    signs: Signs::Shifted { words: 1 },
    sub: SUB,
    top_code: 7,
    scale,
    trie: &iq1_s::TRIE,
};

pub(super) struct Iq1M;

/// A sub-block as it is chosen.
#[derive(Clone, Copy, Default)]
struct Fit {
    indices: [u16; 2],
    scale: f32,
    /// Of the two halves.
    down: [bool; 2],
}

impl Fit {
    fn levels(&self, half: usize) -> &'static Levels {
        if self.down[half] { &DOWN } else { &UP }
    }
}

impl Encode for Iq1M {
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
    let subs = x.as_chunks::<SUB>().0;
    let mut weights = [[0.0; SUB]; 16];
    let mut fits = [Fit::default(); 16];
    for (sub, x) in subs.iter().enumerate() {
        weights[sub] = parts::weights(x, importance, sub, spread, Unweighted::Square);
        fits[sub] = fit(kernel, grid, &SubBlock { x, w: &weights[sub] });
    }
    let mut chosen = Chosen::default();
    let scale = parts::quantize_scales(&fits.map(|fit| fit.scale), SHAPE.top_code);
    for (sub, fit) in fits.iter().enumerate() {
        for half in 0..2 {
            chosen.points[2 * sub + half] = fit.indices[half];
            // Of a block of zeros ggml stores no shifts.
            chosen.down[2 * sub + half] = scale.is_some() && fit.down[half];
        }
    }
    if let Some(scale) = scale {
        let d = best_block_scale(grid, subs, &weights, &fits, &scale);
        (chosen.d, chosen.scales) = (f16_bits(d * STRETCH), scale.codes);
    }
    pack(&chosen, out);
}

/// Lays out a super-block.
#[inline(always)]
fn pack(chosen: &Chosen, out: &mut [u8]) {
    out.fill(0);
    for group in 0..32 {
        let (index, down) = (chosen.points[group], u8::from(chosen.down[group]));
        out[group] = index as u8;
        out[HIGH + group / 2] |= ((index >> 8) as u8 | down << 3) << (4 * (group % 2));
    }
    for (part, out) in out[SCALES..].as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let codes = chosen.scales[4 * part..][..4].iter().rev();
        let codes = codes.fold(0, |packed, code| packed << 3 | u16::from(*code));
        *out = (codes | (chosen.d >> (4 * part) & 15) << 12).to_le_bytes();
    }
}

/// The least-squares scale of a block whose codes and sub-blocks' scales are settled.
#[inline(always)]
fn best_block_scale(
    grid: &Grid<8>,
    subs: &[[f32; SUB]],
    weights: &[[f32; SUB]; 16],
    fits: &[Fit; 16],
    scale: &parts::BlockScale<16>,
) -> f32 {
    let mut sums = (0.0, 0.0);
    for (sub, fit) in fits.iter().enumerate() {
        let factor = f32::from(2 * scale.codes[sub] + 1);
        let halves = subs[sub].as_chunks::<8>().0.iter().zip(weights[sub].as_chunks::<8>().0);
        for (half, (x, w)) in halves.enumerate() {
            let (codes, levels) = (grid.codes(usize::from(fit.indices[half])), fit.levels(half));
            split::add_sums(&mut sums, x, w, |i| levels[usize::from(codes[i])] * factor);
        }
    }
    if sums.1 > 0.0 && !scale.d.is_nan() { sums.0 / sums.1 } else { scale.d }
}

#[inline(always)]
fn fit<K: Nearest>(kernel: K, grid: &Grid<8>, block: &SubBlock<SUB>) -> Fit {
    if parts::largest(&block.x.map(f32::abs)) < ZERO_BELOW {
        return Fit::default();
    }
    let order = split::ascending(block.x);
    let halves = [HalfSums::new(block, &order, 0), HalfSums::new(block, &order, 1)];
    let best = split::best_split::<SUB, 4, ENDS>(&halves);
    let Some(best) = best else { return Fit::default() };
    let negated = best.scale < 0.0;
    let down = [best.choice / 2 == 1, best.choice % 2 == 1].map(|down| down != negated);
    let mut fit = Fit { indices: [0; 2], scale: best.scale.abs(), down };
    let codes = split::codes(&best, &order);
    let mut scale = fit.scale;
    let indices = split::to_grid(kernel, grid, block, &codes, |half| fit.levels(half), &mut scale);
    fit.indices = [indices[0], indices[1]];
    fit.scale = scale;
    fit
}

/// `Σ w x` and `Σ w` of one half's values before each place in the order of both halves.
struct HalfSums {
    wx: [f32; ENDS],
    w: [f32; ENDS],
}

impl HalfSums {
    #[inline(always)]
    fn new(block: &SubBlock<SUB>, order: &[usize; SUB], half: usize) -> HalfSums {
        let mut sums = HalfSums { wx: [0.0; ENDS], w: [0.0; ENDS] };
        for place in 0..ENDS - 1 {
            (sums.wx[place + 1], sums.w[place + 1]) = (sums.wx[place], sums.w[place]);
            if let Some(&at) = order.get(place).filter(|at| **at / 8 == half) {
                sums.wx[place + 1] += block.w[at] * block.x[at];
                sums.w[place + 1] += block.w[at];
            }
        }
        sums
    }

    /// [`Sums`] of this half with levels `q`. Levels are one apart, so each value before an end takes its part off the
    /// total.
    #[inline(always)]
    fn at(&self, first: usize, q: &Levels, qx: &mut [f32; ENDS], q2: &mut [f32; ENDS]) {
        let (total_qx, total_q2) = (self.wx[SUB] * q[2], self.w[SUB] * q[2] * q[2]);
        let (low, high) = (q[0] * q[0] - q[1] * q[1], q[1] * q[1] - q[2] * q[2]);
        let (first_wx, first_q2) = (self.wx[first], total_q2 + self.w[first] * low);
        for second in 0..ENDS {
            qx[second] = total_qx - (first_wx + self.wx[second]);
            q2[second] = first_q2 + self.w[second] * high;
        }
    }
}

/// Both halves with each choice of shifts: up and up, up and down, down and up, down and down.
impl SplitSums<4, ENDS> for [HalfSums; 2] {
    #[inline(always)]
    fn fill(&self, first: usize, sums: &mut Sums<4, ENDS>) {
        let mut qx = [[[0.0; ENDS]; 2]; 2];
        let mut q2 = [[[0.0; ENDS]; 2]; 2];
        for half in 0..2 {
            self[half].at(first, &UP, &mut qx[half][0], &mut q2[half][0]);
            self[half].at(first, &DOWN, &mut qx[half][1], &mut q2[half][1]);
        }
        for choice in 0..4 {
            for second in 0..ENDS {
                sums.qx[choice][second] = qx[0][choice / 2][second] + qx[1][choice % 2][second];
                sums.q2[choice][second] = q2[0][choice / 2][second] + q2[1][choice % 2][second];
            }
        }
    }
}

impl Decode for Iq1M {
    #[inline(always)]
    fn decode(_: impl Kernel, bytes: &[u8], out: &mut [f32]) {
        for (block, out) in bytes.as_chunks::<BYTES>().0.iter().zip(out.as_chunks_mut::<SUPER_BLOCK>().0) {
            let d = f16_value(block_scale_bits(block));
            for (g, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
                let part = 2 * (g / 8);
                let scales = u16::from_le_bytes([block[SCALES + part], block[SCALES + part + 1]]);
                let scale = scale(d, (scales >> (3 * (g / 2 % 4)) & 7) as u8);
                let high = block[HIGH + g / 2] >> (4 * (g % 2));
                let shift = if high & 8 == 8 { -SHIFT } else { SHIFT };
                let index = usize::from(block[g]) | usize::from(high & 7) << 8;
                write_shifted(scale, shift, index, out);
            }
        }
    }
}

/// The half-precision bits of `d`, which lie four by four.
fn block_scale_bits(block: &[u8]) -> u16 {
    (0..4).fold(0, |bits, part| bits | u16::from(block[SCALES + 2 * part + 1] >> 4) << (4 * part))
}
