//! Loops that the compiler vectorizes well by itself, for every instruction set; no operation is reordered or fused,
//! so all of them give the same bits.

use plmconv_quant::simd::Loop;

use super::{GROUP, MAX_INTEGER, MAX_NORM, TILE_OUTPUTS};

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
pub(super) struct Dot<'a>(pub &'a [f32], pub &'a [f32]);

impl Loop for Dot<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let Dot(a, b) = self;
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
pub(super) struct ExpMinus<'a>(pub &'a mut [f32], pub f32);

impl Loop for ExpMinus<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let ExpMinus(values, max) = self;
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
}

/// Numbers whose squares may be too small for f32.
const VANISHING: f32 = 1e-15;

/// Rounds a group to integers and returns their scale: as large as 16 bits hold, with a norm that no sum of
/// products can exceed 32 bits with (see [`MAX_NORM`]).
pub(super) struct RoundGroup<'a>(pub &'a [f32; GROUP], pub &'a mut [i16; GROUP]);

impl Loop for RoundGroup<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        let RoundGroup(group, out) = self;
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
        // Squares of such small numbers vanish; 64 of them have at most 8 times the norm of the largest.
        let norm = if largest < VANISHING && !norm.is_nan() { 8.0 * largest } else { norm };
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
}

/// Rounds each row of a group to integers and interleaves the rows by pairs.
pub(super) struct InterleaveWeights<'a> {
    pub rows: &'a [f32],
    pub stride: usize,
    pub out: &'a mut [i16],
    pub scales: &'a mut [f32],
}

impl Loop for InterleaveWeights<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let InterleaveWeights { rows, stride, out, scales } = self;
        let mut integers = [[0i16; GROUP]; TILE_OUTPUTS];
        for ((row, integers), scale) in rows.chunks(stride).zip(&mut integers).zip(scales) {
            let group = row.first_chunk().expect("a row holds the group");
            *scale = RoundGroup(group, integers).run();
        }
        let (out, _) = out.as_chunks_mut::<{ 2 * TILE_OUTPUTS }>();
        for (k, line) in out.iter_mut().enumerate() {
            for (pair, integers) in line.as_chunks_mut::<2>().0.iter_mut().zip(&integers) {
                *pair = integers.as_chunks::<2>().0[k];
            }
        }
    }
}
