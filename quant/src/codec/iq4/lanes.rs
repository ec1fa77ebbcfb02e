//! The search of IQ4_NL and IQ4_XS with one block of 32 values per lane, sixteen at a time. Every lane runs the
//! operations of [`super::best_scale`] in their order, unfused: the bits are the same.

use super::table::TableLanes;
use super::{SUB, TRIES, Type, VALUES};
use crate::codec::arithmetic::sum_of_squares;
use crate::codec::k::lanes::{Avx2Lanes, Avx512Lanes, LANES, transpose};
use crate::codec::search::ZERO_BELOW;
use crate::simd::{Avx2, Avx512};

/// Values per step.
const STEP: usize = LANES * SUB;

pub(super) fn encode_avx2<const SUBS: usize>(
    token: Avx2,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    #[target_feature(enable = "avx2")]
    fn inner<const SUBS: usize>(token: Avx2, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode::<_, SUBS>(Avx2Lanes(token), values, importance, out);
    }
    // SAFETY: the token proves that the CPU has AVX2.
    unsafe { inner::<SUBS>(token, values, importance, out) }
}

pub(super) fn encode_avx512<const SUBS: usize>(
    token: Avx512,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn inner<const SUBS: usize>(token: Avx512, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
        encode::<_, SUBS>(Avx512Lanes(token), values, importance, out);
    }
    // SAFETY: the token proves that the CPU has AVX-512 F, BW, DQ and VL.
    unsafe { inner::<SUBS>(token, values, importance, out) }
}

#[inline(always)]
fn encode<L: TableLanes, const SUBS: usize>(
    lanes: L,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    let step_bytes = LANES / SUBS * Type::<SUBS>::BYTES;
    for (index, (values, out)) in values.chunks(STEP).zip(out.chunks_mut(step_bytes)).enumerate() {
        // A last step that is not full is filled up with zeros, whose results are dropped.
        let mut x = [0.0; STEP];
        x[..values.len()].copy_from_slice(values);
        let rows = transpose::<L, SUB>(lanes, &x);
        let w = match importance {
            Some(importance) => {
                importance_weights::<L, SUBS>(lanes, &rows, &x, line_up(importance, index * STEP))
            }
            None => rows.map(|x| lanes.mul(x, x)),
        };
        let scales = best_scales(lanes, &rows, &w);
        write_blocks::<L, SUBS>(lanes, &rows, &scales, out);
    }
}

/// The importance of the values of a step that begins at the flat index `first`; rows follow one another.
#[inline(always)]
fn line_up(importance: &[f32], first: usize) -> [f32; STEP] {
    let mut lined_up = [0.0; STEP];
    for (block, lined_up) in lined_up.as_chunks_mut::<SUB>().0.iter_mut().enumerate() {
        let column = (first + block * SUB) % importance.len();
        lined_up.copy_from_slice(&importance[column..column + SUB]);
    }
    lined_up
}

/// `importance * sqrt(2 * mean square + x²)`, the mean taken over `SUBS` times 32 values.
#[inline(always)]
fn importance_weights<L: TableLanes, const SUBS: usize>(
    lanes: L,
    rows: &[L::F; SUB],
    x: &[f32; STEP],
    importance: [f32; STEP],
) -> [L::F; SUB] {
    let mut twice_mean_squares = [0.0; LANES];
    let blocks = x.chunks_exact(SUBS * SUB).zip(twice_mean_squares.as_chunks_mut::<SUBS>().0);
    for (x, means) in blocks {
        means.fill(sum_of_squares(x) * (2.0 / (SUBS * SUB) as f32));
    }
    let mean = lanes.load(twice_mean_squares);
    let importance = transpose::<L, SUB>(lanes, &importance);
    let mut weights = *rows;
    for (weight, importance) in weights.iter_mut().zip(importance) {
        let root = lanes.sqrt(lanes.add(mean, lanes.mul(*weight, *weight)));
        *weight = lanes.mul(importance, root);
    }
    weights
}

/// [`super::best_scale`] of sixteen blocks.
#[inline(always)]
fn best_scales<L: TableLanes>(lanes: L, x: &[L::F; SUB], w: &[L::F; SUB]) -> [f32; LANES] {
    let zero = lanes.splat(0.0);
    let (mut max, mut magnitude) = (zero, zero);
    for &x in x {
        let larger = lanes.less(magnitude, lanes.abs(x));
        magnitude = lanes.select(larger, lanes.abs(x), magnitude);
        max = lanes.select(larger, x, max);
    }
    let lowest = f32::from(VALUES[0]);
    let first = lanes.div(lanes.mul(max, lanes.splat(-1.0)), lanes.splat(lowest));
    let (sum_qx, sum_q2) = fit(lanes, x, w, lanes.div(lanes.splat(1.0), first));
    let mut scale = lanes.select(lanes.less(zero, sum_q2), lanes.div(sum_qx, sum_q2), zero);
    let mut best = lanes.mul(scale, sum_qx);
    for step in -TRIES..=TRIES {
        let inverse = lanes.div(lanes.splat(step as f32 + lowest), max);
        let (sum_qx, sum_q2) = fit(lanes, x, w, inverse);
        let explains_more = lanes.less(lanes.mul(best, sum_q2), lanes.mul(sum_qx, sum_qx));
        let better = lanes.and(lanes.less(zero, sum_q2), explains_more);
        let this_scale = lanes.div(sum_qx, sum_q2);
        scale = lanes.select(better, this_scale, scale);
        best = lanes.select(better, lanes.mul(this_scale, sum_qx), best);
    }
    let is_zero = lanes.less(magnitude, lanes.splat(ZERO_BELOW));
    lanes.to_array(lanes.select(is_zero, zero, scale))
}

/// `Σ w q x` and `Σ w q²` of the table values nearest to `inverse * x`.
#[inline(always)]
fn fit<L: TableLanes>(lanes: L, x: &[L::F; SUB], w: &[L::F; SUB], inverse: L::F) -> (L::F, L::F) {
    let (mut sum_qx, mut sum_q2) = (lanes.splat(0.0), lanes.splat(0.0));
    for (&x, &w) in x.iter().zip(w) {
        let q = lanes.nearest_value(lanes.mul(inverse, x));
        let wq = lanes.mul(w, q);
        sum_qx = lanes.add(sum_qx, lanes.mul(wq, x));
        sum_q2 = lanes.add(sum_q2, lanes.mul(wq, q));
    }
    (sum_qx, sum_q2)
}

/// The packed codes of each block under its inverse scale: byte `j` of block `lane` at `[j][lane]`.
#[inline(always)]
fn codes<L: TableLanes>(lanes: L, x: &[L::F; SUB], inverses: [f32; LANES]) -> [[u8; LANES]; SUB / 2] {
    let inverse = lanes.load(inverses);
    let mut codes = [[0; LANES]; SUB / 2];
    for (j, codes) in codes.iter_mut().enumerate() {
        *codes = lanes.nearest_codes(lanes.mul(inverse, x[j]), lanes.mul(inverse, x[j + SUB / 2]));
    }
    codes
}

#[inline(always)]
fn write_blocks<L: TableLanes, const SUBS: usize>(
    lanes: L,
    x: &[L::F; SUB],
    scales: &[f32; LANES],
    out: &mut [u8],
) {
    let mut inverses = [0.0; LANES];
    let blocks = scales.as_chunks::<SUBS>().0.iter().zip(inverses.as_chunks_mut::<SUBS>().0);
    for ((scales, inverses), block) in blocks.zip(out.chunks_exact_mut(Type::<SUBS>::BYTES)) {
        *inverses = Type::quantize_scales(scales, &mut block[..Type::<SUBS>::HEAD]);
    }
    let codes = codes(lanes, x, inverses);
    for (index, block) in out.chunks_exact_mut(Type::<SUBS>::BYTES).enumerate() {
        let subs = block[Type::<SUBS>::HEAD..].as_chunks_mut::<{ SUB / 2 }>().0;
        for (sub, qs) in subs.iter_mut().enumerate() {
            for (byte, codes) in qs.iter_mut().zip(&codes) {
                *byte = codes[index * SUBS + sub];
            }
        }
    }
}
