//! Scalar products of encoded rows of weights with activations rounded to 16 bits, without decoding the rows: what
//! writing text token by token is made of.
//!
//! All sums run in eight lanes. Of every 32 columns, lane `l` takes the four from `4 * l` on: their products are
//! added as integers, scaled and added up in f32, in the order of the columns. No operation is fused, so every
//! instruction set gives the same bits. A type's file says where its codes are and how they are scaled; what an
//! instruction set does with that is here.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod portable;
#[cfg(test)]
mod tests;

use plmconv_formats::DType;

use super::arithmetic::nearest_int;
use super::field::{Field, RUN};
use super::registry::codec;
use crate::simd::Level;
#[cfg(target_arch = "x86_64")]
use avx2::Avx2Lanes;
use portable::PortableLanes;

/// Columns that share a scale of the activations: the largest block of a type.
pub const BLOCK: usize = 256;
/// Runs of a block, which are summed up as integers.
const RUNS: usize = BLOCK / RUN;
/// Partial sums.
const LANES: usize = 8;
/// Largest magnitude of an activation.
const MAX_INTEGER: f32 = 32767.0;

/// A type's product of encoded rows with activations.
pub(super) type Dot = fn(level: Level, bytes: &[u8], row: &IntRow) -> f32;

/// The product of a type's encoded rows with activations.
#[derive(Clone, Copy, Debug)]
pub struct EncodedDot {
    dtype: DType,
    dot: Dot,
}

impl EncodedDot {
    /// The product of `dtype`, if its rows are multiplied as they are.
    pub fn of(dtype: DType) -> Option<EncodedDot> {
        Some(EncodedDot { dtype, dot: codec(dtype)?.dot? })
    }

    /// `sum over columns of weight * activation` of one row, whose blocks are `bytes`. Every level gives the same bits.
    ///
    /// # Panics
    /// If `bytes` are not as many columns as `row` has.
    #[inline]
    pub fn product(self, level: Level, bytes: &[u8], row: &IntRow) -> f32 {
        let columns = bytes.len() / self.dtype.block_bytes() * self.dtype.block_len();
        assert_eq!(columns, row.scales.len() * BLOCK);
        (self.dot)(level, bytes, row)
    }
}

/// One token's activations as integers, one scale every [`BLOCK`] columns.
#[derive(Clone, Debug)]
pub struct IntRow {
    /// Of every [`RUN`] columns first the even ones, then the odd ones: as pairs of bytes fall apart.
    values: Vec<[i16; BLOCK]>,
    /// `[blocks]`
    scales: Vec<f32>,
    /// `[blocks][RUNS]`: sums of the integers, which mins are multiplied with.
    sums: Vec<[f32; RUNS]>,
}

/// A block of an [`IntRow`].
#[derive(Clone, Copy)]
pub(super) struct Activations<'a> {
    values: &'a [i16; BLOCK],
    pub scale: f32,
    pub sums: &'a [f32; RUNS],
}

impl IntRow {
    /// Rounds a row.
    ///
    /// # Panics
    /// If it is not whole blocks.
    pub fn new(row: &[f32]) -> IntRow {
        let (blocks, rest) = row.as_chunks::<BLOCK>();
        assert!(rest.is_empty());
        let mut rounded = IntRow { values: Vec::new(), scales: Vec::new(), sums: Vec::new() };
        for block in blocks {
            let largest = block.iter().fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
            // A NaN makes the scale NaN, which carries it on; integers could not.
            let nan = block.iter().any(|x| x.is_nan());
            let scale = if nan { f32::NAN } else { largest / MAX_INTEGER };
            let inverse = if scale > 1e-35 { 1.0 / scale } else { 0.0 };
            let (mut values, mut sums) = ([0; BLOCK], [0.0; RUNS]);
            let runs = block.as_chunks::<RUN>().0.iter().zip(values.as_chunks_mut::<RUN>().0);
            for ((run, values), sum) in runs.zip(&mut sums) {
                for (i, x) in run.iter().enumerate() {
                    values[i % 2 * (RUN / 2) + i / 2] = nearest_int(x * inverse) as i16;
                }
                *sum = values.iter().map(|x| i32::from(*x)).sum::<i32>() as f32;
            }
            rounded.values.push(values);
            rounded.scales.push(scale);
            rounded.sums.push(sums);
        }
        rounded
    }

    /// The blocks in their order.
    #[inline(always)]
    pub(super) fn blocks(&self) -> impl Iterator<Item = Activations<'_>> {
        let blocks = self.values.iter().zip(&self.scales).zip(&self.sums);
        blocks.map(|((values, &scale), sums)| Activations { values, scale, sums })
    }
}

impl Activations<'_> {
    /// The values of columns `32 * run..32 * run + 32`.
    #[inline(always)]
    pub fn run(&self, run: usize) -> &[i16; RUN] {
        &self.values.as_chunks().0[run]
    }
}

/// Eight sums at once. A value of an implementing type is the proof that the CPU has its instructions.
pub(super) trait Lanes: Copy {
    /// Eight f32.
    type F: Copy;

    fn splat(self, value: f32) -> Self::F;
    /// `low` in the first four lanes, those of the first sixteen columns of a run, and `high` in the others.
    fn halves(self, low: f32, high: f32) -> Self::F;
    fn load(self, values: &[f32; LANES]) -> Self::F;
    fn to_array(self, a: Self::F) -> [f32; LANES];
    /// Scales as floats. One by one their conversions would wait for each other's registers.
    fn floats(self, scales: &[i8; 2 * LANES]) -> [f32; 2 * LANES];
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;

    /// Sums of products of a run with its codes less `zero`.
    fn products(self, fields: [Field; 2], zero: u8, block: &[u8], values: &[i16; RUN]) -> Self::F;
    /// The same where codes are whole signed bytes.
    fn signed_products(self, codes: &[u8; RUN], values: &[i16; RUN]) -> Self::F;
}

/// A type with a product.
pub(super) trait DotType {
    /// The sums of all lanes. To be marked `#[inline(always)]`.
    fn sums<L: Lanes>(lanes: L, bytes: &[u8], row: &IntRow) -> L::F;
}

/// The [`Dot`] of a type.
pub(super) fn dot<T: DotType>(level: Level, bytes: &[u8], row: &IntRow) -> f32 {
    let [a, b, c, d, e, f, g, h] = match level {
        // SAFETY: the token is the proof that the CPU has AVX2.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => unsafe { dot_avx2::<T>(Avx2Lanes::new(token), bytes, row) },
        // SAFETY: as above; AVX-512 includes it.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => unsafe { dot_avx2::<T>(Avx2Lanes::within(token), bytes, row) },
        _ => T::sums(PortableLanes, bytes, row),
    };
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dot_avx2<T: DotType>(lanes: Avx2Lanes, bytes: &[u8], row: &IntRow) -> [f32; LANES] {
    lanes.to_array(T::sums(lanes, bytes, row))
}
