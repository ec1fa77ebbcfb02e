//! Finding a block's scale and zero point: several candidates, each judged by its exact squared error with
//! the best scale for its codes (closed form, as in llama.cpp's `make_qx_quants`).

use super::{Blocks, Grid};
use crate::codec::ROUNDING_MAGIC;
use crate::simd::Level;

/// Candidates judged at once, and values compared at once: one order of operations whatever the instruction set.
const LANES: usize = 8;

/// How far the outermost code may reach past or short of the block's extreme, in steps of the grid.
const STRETCHES: [f32; LANES] = [0.0, 0.25, -0.25, 0.5, -0.5, 0.75, -0.75, 1.0];

/// The largest block.
const MAX_BLOCK: usize = 256;

/// A block padded to whole lanes; padding has weight 0.
struct Block {
    values: [f32; MAX_BLOCK],
    weights: [f32; MAX_BLOCK],
    len: usize,
}

pub(super) fn quantize_rows(
    level: Level,
    grid: &Grid,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Blocks,
) {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) | Level::Avx512(_) => {
            // SAFETY: every level but Generic was made after the CPU was asked; AVX-512 implies AVX2.
            unsafe { quantize_rows_avx2(grid, values, cols, importance, out) }
        }
        _ => quantize_rows_generic(grid, values, cols, importance, out),
    }
}

/// The same code, compiled for wider registers: no fused multiply-add, so the same results.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn quantize_rows_avx2(
    grid: &Grid,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Blocks,
) {
    quantize_rows_generic(grid, values, cols, importance, out);
}

#[inline(always)]
fn quantize_rows_generic(
    grid: &Grid,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Blocks,
) {
    let per_row = grid.blocks(cols);
    let mut block = Block { values: [0.0; MAX_BLOCK], weights: [0.0; MAX_BLOCK], len: 0 };
    let rows = values.chunks_exact(cols).zip(out.codes.chunks_exact_mut(per_row * grid.block_size));
    for (row, (values, codes)) in rows.enumerate() {
        let blocks = values.chunks(grid.block_size).zip(codes.chunks_exact_mut(grid.block_size));
        for (index, (values, codes)) in blocks.enumerate() {
            let from = index * grid.block_size;
            block.load(values, importance.map(|i| &i[from..from + values.len()]));
            let (scale, zero_point) = quantize_block(grid, &block, codes);
            out.scales[row * per_row + index] = scale;
            out.zero_points[row * per_row + index] = zero_point;
        }
    }
}

impl Block {
    #[inline(always)]
    fn load(&mut self, values: &[f32], importance: Option<&[f32]>) {
        self.len = values.len().next_multiple_of(LANES);
        self.values[..values.len()].copy_from_slice(values);
        self.values[values.len()..self.len].fill(0.0);
        match importance {
            Some(importance) => self.weights[..values.len()].copy_from_slice(importance),
            None => self.weights[..values.len()].fill(1.0),
        }
        self.weights[values.len()..self.len].fill(0.0);
    }

    #[inline(always)]
    fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

/// One candidate a lane: values are divided by a scale, rounded, and clamped to `low ..= high`.
#[derive(Default)]
struct Candidates {
    inverse: [f32; LANES],
    zero_point: [i32; LANES],
    low: [f32; LANES],
    high: [f32; LANES],
}

impl Candidates {
    /// From what gives a stretch's inverse scale and zero point.
    #[inline(always)]
    fn new(grid: &Grid, candidate: impl Fn(f32) -> (f32, i32)) -> Candidates {
        let mut out = Candidates::default();
        for (lane, stretch) in STRETCHES.into_iter().enumerate() {
            (out.inverse[lane], out.zero_point[lane]) = candidate(stretch);
            (out.low[lane], out.high[lane]) = offset_range(grid, out.zero_point[lane]);
        }
        out
    }
}

/// Chooses codes for one block; returns its scale as stored and its zero point.
#[inline(always)]
fn quantize_block(grid: &Grid, block: &Block, codes: &mut [u8]) -> (f32, u8) {
    let (low, high) = extremes(block.values());
    let largest = if high > -low { high } else { low };
    if largest == 0.0 {
        let zero_point = if grid.symmetric { grid.middle() as u8 } else { 0 };
        codes.fill(zero_point);
        return (0.0, zero_point);
    }
    let candidates = Candidates::new(grid, |stretch| {
        if grid.symmetric {
            symmetric_candidate(grid, largest, stretch)
        } else {
            asymmetric_candidate(grid, low.min(0.0), high.max(0.0), stretch)
        }
    });
    let (dot, square) = judge(block, &candidates);
    // dot² / square is by how much the error falls below that of all zeros; a scale has either sign.
    let over = |value: f32, square: f32| if square > 0.0 { value / square } else { 0.0 };
    let gains: [f32; LANES] = std::array::from_fn(|lane| over(dot[lane] * dot[lane], square[lane]));
    let best = (1..LANES).fold(0, |best, lane| if gains[lane] > gains[best] { lane } else { best });
    let zero_point = candidates.zero_point[best];
    let scale = grid.stored(over(dot[best], square[best]));
    round_codes(grid, block, scale, zero_point, codes);
    (scale, zero_point as u8)
}

/// The extreme value lands on the code that has no counterpart of the other sign, as ggml does.
#[inline(always)]
fn symmetric_candidate(grid: &Grid, largest: f32, stretch: f32) -> (f32, i32) {
    let middle = grid.middle();
    (-(middle as f32 - stretch) / largest, middle)
}

#[inline(always)]
fn asymmetric_candidate(grid: &Grid, low: f32, high: f32, stretch: f32) -> (f32, i32) {
    let max = grid.max_code();
    let inverse = (max as f32 - stretch) / (high - low);
    let zero_point = ((-low * inverse + ROUNDING_MAGIC) - ROUNDING_MAGIC) as i32;
    (inverse, zero_point.clamp(0, max))
}

/// For every candidate, weighted sums of value times offset and of offset squared, over its offsets from zero.
///
/// Lanes are candidates, not values: nothing is left to add up across them. Even and odd values have sums of their own,
/// so that one addition need not wait for the other.
#[inline(always)]
fn judge(block: &Block, candidates: &Candidates) -> ([f32; LANES], [f32; LANES]) {
    let (mut dot, mut square) = ([[0.0f32; LANES]; 2], [[0.0f32; LANES]; 2]);
    let (pairs, _) = block.values().as_chunks::<2>();
    let (weights, _) = block.weights[..block.len].as_chunks::<2>();
    for (values, weights) in pairs.iter().zip(weights) {
        for half in 0..2 {
            for lane in 0..LANES {
                let Candidates { inverse, low, high, .. } = candidates;
                let offset = offset(values[half], inverse[lane], low[lane], high[lane]);
                let weighted = weights[half] * offset;
                dot[half][lane] += weighted * values[half];
                square[half][lane] += weighted * offset;
            }
        }
    }
    let add = |[even, odd]: [[f32; LANES]; 2]| std::array::from_fn(|lane| even[lane] + odd[lane]);
    (add(dot), add(square))
}

#[inline(always)]
fn round_codes(grid: &Grid, block: &Block, scale: f32, zero_point: i32, codes: &mut [u8]) {
    let (low, high) = offset_range(grid, zero_point);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let inverse = if inverse.is_finite() { inverse } else { 0.0 };
    let inside = block.len.min(codes.len());
    for (code, &value) in codes[..inside].iter_mut().zip(block.values()) {
        // What rounding leaves in the low bits; a cast would check each value for NaN and range.
        let bits = (clamped(value, inverse, low, high) + ROUNDING_MAGIC).to_bits() as i32;
        *code = (bits - ROUNDING_MAGIC.to_bits() as i32 + zero_point) as u8;
    }
    codes[inside..].fill(zero_point as u8);
}

#[inline(always)]
fn offset_range(grid: &Grid, zero_point: i32) -> (f32, f32) {
    (-zero_point as f32, (grid.max_code() - zero_point) as f32)
}

/// The nearest code's distance from the zero point.
#[inline(always)]
fn offset(value: f32, inverse: f32, low: f32, high: f32) -> f32 {
    (clamped(value, inverse, low, high) + ROUNDING_MAGIC) - ROUNDING_MAGIC
}

/// Clamped before it is rounded: the rounding trick holds for small numbers only.
#[inline(always)]
fn clamped(value: f32, inverse: f32, low: f32, high: f32) -> f32 {
    let scaled = value * inverse;
    let raised = if scaled < low { low } else { scaled };
    if raised > high { high } else { raised }
}

#[inline(always)]
fn extremes(values: &[f32]) -> (f32, f32) {
    let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
    for values in values.chunks_exact(LANES) {
        for lane in 0..LANES {
            low[lane] = if values[lane] < low[lane] { values[lane] } else { low[lane] };
            high[lane] = if values[lane] > high[lane] { values[lane] } else { high[lane] };
        }
    }
    let low = low.iter().copied().fold(f32::INFINITY, f32::min);
    let high = high.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    (low, high)
}
