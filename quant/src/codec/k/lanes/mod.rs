//! The searches with one sub-block per lane, sixteen at a time.
//!
//! A search is a long dependent chain, so there is nothing to gain inside one sub-block; but sixteen sub-blocks are
//! sixteen independent chains. Values are transposed on the way in, branches become masks, and every lane runs the
//! operations of [`super::search`] in their order, unfused: the bits are the same. What lanes cannot reproduce cheaply
//! (`nearest_int` beyond its range: overflow, subnormal ranges, NaN) is noticed and left to the plain search.

mod affine;
mod engine;
mod positive;
mod symmetric;
mod weights;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(in crate::codec) use avx2::Avx2Lanes;
#[cfg(target_arch = "x86_64")]
pub(in crate::codec) use avx512::Avx512Lanes;
pub(super) use portable::PortableLanes;

/// Lanes of every vector: two 256-bit registers, or one of 512 bits.
pub(in crate::codec) const LANES: usize = 16;

/// `nearest_int` is the nearest integer below this magnitude (2^22, with room).
const EXACT_BELOW: f32 = 4_000_000.0;

/// Sixteen values at once. A value of an implementing type is the proof that the CPU has its instructions.
///
/// Comparisons are ordered: false where a NaN takes part.
pub(in crate::codec) trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixteen truth values.
    type M: Copy;

    fn splat(self, value: f32) -> Self::F;
    /// The first eight columns of a matrix of 16 rows that begin `stride` apart.
    fn columns(self, x: &[f32], stride: usize) -> [Self::F; 8];
    fn to_array(self, a: Self::F) -> [f32; LANES];

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    fn sqrt(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// `a < b ? a : b`
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a > b ? a : b`
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The nearest integer, ties to even, of magnitudes below 2^22.
    fn round(self, a: Self::F) -> Self::F;
    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    fn equal(self, a: Self::F, b: Self::F) -> Self::M;
    /// `m ? a : b`
    fn select(self, m: Self::M, a: Self::F, b: Self::F) -> Self::F;

    fn and(self, a: Self::M, b: Self::M) -> Self::M;
    /// `a && !b`
    fn and_not(self, a: Self::M, b: Self::M) -> Self::M;
    /// One bit per lane, the first lane lowest.
    fn bits(self, m: Self::M) -> u32;

    fn splat_int(self, value: i32) -> Self::I;
    /// ggml's `nearest_int`, far-out values included.
    fn nearest_int(self, a: Self::F) -> Self::I;
    fn to_float(self, a: Self::I) -> Self::F;
    fn min_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn max_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn and_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn equal_int(self, a: Self::I, b: Self::I) -> Self::M;
    /// `m ? a : b`
    fn select_int(self, m: Self::M, a: Self::I, b: Self::I) -> Self::I;
    fn int_to_array(self, a: Self::I) -> [i32; LANES];
}

/// Up to sixteen groups of `N` values, one per lane; `rows[i]` holds value `i` of every group. Missing groups read
/// as zeros.
#[inline(always)]
pub(in crate::codec) fn transpose<L: Lanes, const N: usize>(lanes: L, x: &[f32]) -> [L::F; N] {
    const { assert!(N <= MAX_GROUP && N.is_multiple_of(8)) };
    let padded;
    let x = if x.len() < LANES * N {
        let mut copy = [0.0; LANES * MAX_GROUP];
        copy[..x.len()].copy_from_slice(x);
        padded = copy;
        &padded[..LANES * N]
    } else {
        x
    };
    let mut rows = [lanes.splat(0.0); N];
    for (index, rows) in rows.chunks_exact_mut(8).enumerate() {
        rows.copy_from_slice(&lanes.columns(&x[index * 8..], N));
    }
    rows
}

/// The longest group of values that shares a lane.
const MAX_GROUP: usize = 32;

/// The lanes of `mask` that belong to one of the `count` groups in use.
#[inline(always)]
fn lanes_in(mask: u32, count: usize) -> impl Iterator<Item = usize> {
    (0..count).filter(move |lane| mask >> lane & 1 == 1)
}
