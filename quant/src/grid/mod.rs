//! Integer grids with one float scale (and, if asymmetric, one integer zero point) per block of a row: what
//! ONNX's MatMulNBits, GatherBlockQuantized and blocked DequantizeLinear read.

mod pack;
mod search;

use half::f16;
use plmconv_formats::DType;

use crate::Error;
use crate::simd::Level;

pub use pack::{pack_columns, pack_rows};

/// The grid of one weight: a value is `scale * (code - zero_point)`, codes from 0 to `2^bits - 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// 4 or 8.
    pub bits: u32,
    /// Values of a row that share a scale; a row's last block may be shorter.
    pub block_size: usize,
    /// The zero point of every block is `2^(bits-1)` and not stored.
    pub symmetric: bool,
    /// Type that scales are stored in, F32 or F16: codes are chosen for the scale as stored.
    pub scale_type: DType,
}

/// Quantized rows. Codes are one to a byte; [`pack_rows`] and [`pack_columns`] give them their stored form.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Blocks {
    /// `[rows, blocks * block_size]`; what pads a row's last block is the zero point.
    pub codes: Vec<u8>,
    /// `[rows, blocks]`, as stored (F16 scales are rounded).
    pub scales: Vec<f32>,
    /// `[rows, blocks]`
    pub zero_points: Vec<u8>,
}

impl Grid {
    /// Blocks of a row of `cols` values.
    pub fn blocks(&self, cols: usize) -> usize {
        cols.div_ceil(self.block_size)
    }

    /// The largest code.
    pub fn max_code(&self) -> i32 {
        (1 << self.bits) - 1
    }

    /// The zero point of a symmetric grid.
    pub fn middle(&self) -> i32 {
        1 << (self.bits - 1)
    }

    /// `scale` as the file will hold it.
    fn stored(&self, scale: f32) -> f32 {
        match self.scale_type {
            DType::F16 => f16::from_f32(scale).to_f32(),
            _ => scale,
        }
    }
}

/// Quantizes `values` (`[rows, cols]`, row-major, finite), minimizing each block's squared error.
///
/// `importance` is `[cols]`: how much an error in each column costs, on any scale; without it all cost the
/// same. Rows do not influence each other, so any split into calls gives the same blocks.
///
/// # Errors
/// When lengths do not match, or a scale, or a value under it, exceeds the range of F16 scales.
pub fn quantize(
    grid: &Grid,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Blocks,
) -> Result<(), Error> {
    quantize_with(Level::detect(), grid, values, cols, importance, out)
}

/// [`quantize`] with these vector instructions; every level gives the same blocks.
///
/// # Errors
/// As [`quantize`].
pub fn quantize_with(
    level: Level,
    grid: &Grid,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut Blocks,
) -> Result<(), Error> {
    if cols == 0 || !values.len().is_multiple_of(cols) {
        return Err(Error::PartialRow { values: values.len(), cols });
    }
    if let Some(importance) = importance
        && importance.len() != cols
    {
        return Err(Error::ImportanceLength { found: importance.len(), cols });
    }
    let rows = values.len() / cols;
    let blocks = grid.blocks(cols);
    out.codes.clear();
    out.codes.resize(rows * blocks * grid.block_size, 0);
    out.scales.clear();
    out.scales.resize(rows * blocks, 0.0);
    out.zero_points.clear();
    out.zero_points.resize(rows * blocks, 0);
    search::quantize_rows(level, grid, values, cols, importance, out);
    check_range(grid, out, cols)
}

/// Fails unless every value of the blocks of rows of `cols` values is finite in the type of the scales,
/// in which it is computed.
///
/// # Errors
/// [`Error::NotRepresentable`] with the row.
pub fn check_range(grid: &Grid, blocks: &Blocks, cols: usize) -> Result<(), Error> {
    let codes = blocks.codes.chunks_exact(grid.block_size);
    let bad = |(scale, (codes, zero_point)): (&f32, (&[u8], &u8))| {
        // Nearly all scales are so small that no code can take them out of range.
        if grid.stored(scale * grid.max_code() as f32).is_finite() {
            return false;
        }
        let largest = codes.iter().map(|code| code.abs_diff(*zero_point)).max().unwrap_or(0);
        // An infinite scale times zero is NaN, too.
        !grid.stored(scale * f32::from(largest)).is_finite()
    };
    let mut all = blocks.scales.iter().zip(codes.zip(&blocks.zero_points));
    match all.position(bad) {
        Some(at) => Err(Error::NotRepresentable { dtype: grid.scale_type, row: at / grid.blocks(cols) }),
        None => Ok(()),
    }
}

/// The values of [`Blocks`], `[rows, cols]`.
pub fn dequantize(grid: &Grid, blocks: &Blocks, cols: usize, out: &mut Vec<f32>) {
    let per_row = grid.blocks(cols);
    out.clear();
    for (row, codes) in blocks.codes.chunks_exact(per_row * grid.block_size).enumerate() {
        out.extend(codes[..cols].iter().enumerate().map(|(col, &code)| {
            let block = row * per_row + col / grid.block_size;
            blocks.scales[block] * f32::from(i16::from(code) - i16::from(blocks.zero_points[block]))
        }));
    }
}

#[cfg(test)]
mod tests;
