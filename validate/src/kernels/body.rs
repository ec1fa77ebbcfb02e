//! Loops that the compiler vectorizes well by itself. Each is inlined into a function of every instruction
//! set; no operation is reordered or fused, so all of them give the same bits.

use super::{GROUP, MAX_INTEGER, MAX_NORM, SPARSE_OUTPUTS, TILE_OUTPUTS};

/// Adding and subtracting 1.5 * 2^23 rounds to the nearest even integer, on every CPU alike.
const ROUND: f32 = 12_582_912.0;

/// `x` rounded to the nearest even integer, for |x| < 2^22.
#[inline(always)]
pub(super) fn rounded(x: f32) -> i32 {
    (x + ROUND).to_bits() as i32 - ROUND.to_bits() as i32
}

/// Independent partial sums; wide enough for four accumulators of AVX-512.
const LANES: usize = 64;

/// Scalar product with 64 partial sums, added up pairwise.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (x, y) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += x[lane] * y[lane];
        }
    }
    for (lane, (x, y)) in a_rest.iter().zip(b_rest).enumerate() {
        sums[lane] += x * y;
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

/// exp(x) for x <= 0, to about 2 ulp: 2^n * p(r) with |r| <= ln(2)/2 (Cephes' polynomial).
#[inline(always)]
fn exp_non_positive(x: f32) -> f32 {
    // Below this the result is zero to softmax; it also keeps 2^n a normal number.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 1.666_666_5e-1;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    let exponent = (shifted.to_bits() as i32 - ROUND.to_bits() as i32) + 127;
    let power = f32::from_bits((exponent << 23) as u32);
    p * power
}

/// Replaces every x by exp(x - max); returns the sum, of 16 partial sums.
#[inline(always)]
pub(super) fn exp_minus(values: &mut [f32], max: f32) -> f32 {
    let mut sums = [0.0f32; 16];
    let (chunks, rest) = values.as_chunks_mut::<16>();
    for chunk in chunks {
        for lane in 0..16 {
            let e = exp_non_positive(chunk[lane] - max);
            chunk[lane] = e;
            sums[lane] += e;
        }
    }
    for (lane, x) in rest.iter_mut().enumerate() {
        *x = exp_non_positive(*x - max);
        sums[lane] += *x;
    }
    sums.iter().sum()
}

/// Weighted sum of the listed rows of `weights`, added to `out`.
#[inline(always)]
pub(super) fn sparse(indices: &[u32], values: &[f32], weights: &[f32], out: &mut [f32; SPARSE_OUTPUTS]) {
    let (rows, _) = weights.as_chunks::<SPARSE_OUTPUTS>();
    let mut sums = *out;
    for (&index, &value) in indices.iter().zip(values) {
        let row = &rows[index as usize];
        for lane in 0..SPARSE_OUTPUTS {
            sums[lane] += value * row[lane];
        }
    }
    *out = sums;
}

/// Rounds a group to integers and returns their scale: as large as 16 bits hold, with a norm that no sum of
/// products can exceed 32 bits with (see [`MAX_NORM`]).
#[inline(always)]
pub(super) fn round_group(group: &[f32; GROUP], out: &mut [i16; GROUP]) -> f32 {
    let (mut largest, mut squares) = ([0.0f32; 16], [0.0f32; 16]);
    for chunk in group.as_chunks::<16>().0 {
        for lane in 0..16 {
            let size = chunk[lane].abs();
            largest[lane] = if size > largest[lane] { size } else { largest[lane] };
            squares[lane] += size * size;
        }
    }
    let largest = largest.iter().fold(0.0f32, |m, &x| if x > m { x } else { m });
    let norm = squares.iter().sum::<f32>().sqrt();
    let by_size = largest * (1.0 / MAX_INTEGER);
    let by_norm = norm * (1.0 / MAX_NORM);
    // A NaN in the group makes the norm NaN; the scale carries it on, integers could not.
    let scale = if by_norm > by_size || by_norm.is_nan() { by_norm } else { by_size };
    // So small that its inverse overflows: nothing that a sum would notice.
    let inverse = if scale > 1e-35 { 1.0 / scale } else { 0.0 };
    for (out, x) in out.iter_mut().zip(group) {
        *out = rounded(x * inverse) as i16;
    }
    scale
}

/// Rounds each row of a group to integers and interleaves the rows by pairs.
#[inline(always)]
pub(super) fn interleave_weights(rows: &[f32], out: &mut [i16], scales: &mut [f32]) {
    let mut integers = [[0i16; GROUP]; TILE_OUTPUTS];
    let (rows, _) = rows.as_chunks::<GROUP>();
    for ((row, integers), scale) in rows.iter().zip(&mut integers).zip(scales) {
        *scale = round_group(row, integers);
    }
    let (out, _) = out.as_chunks_mut::<{ 2 * TILE_OUTPUTS }>();
    for (k, line) in out.iter_mut().enumerate() {
        for (pair, integers) in line.as_chunks_mut::<2>().0.iter_mut().zip(&integers) {
            *pair = integers.as_chunks::<2>().0[k];
        }
    }
}
