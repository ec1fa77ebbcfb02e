//! Scalar products of an encoded row of weights with activations rounded to 16 bits, without decoding the row:
//! what writing text token by token is made of. The plain form, which says what the others compute.
//!
//! All sums run in eight lanes. Of every 32 columns, lane `l` takes the four from `4 * l` on: their products are
//! added as integers, scaled and added up in f32, in the order of the columns. No operation is fused, so every
//! instruction set gives the same bits.

use half::f16;
use plmconv_formats::DType;

use super::loops::rounded;

/// Columns that share a scale of the activations: the largest block of a type.
pub(crate) const BLOCK: usize = 256;
/// Columns that are summed up as integers.
pub(super) const SUB: usize = 32;
/// Partial sums.
pub(super) const LANES: usize = 8;
/// Sub-blocks of a block.
pub(super) const SUBS: usize = BLOCK / SUB;
/// Largest magnitude of an activation.
const MAX_INTEGER: f32 = 32767.0;
/// What Q6_K's codes are stored with added.
pub(super) const Q6_OFFSET: i32 = 32;

/// Types whose rows are multiplied as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Q4K,
    Q5K,
    Q6K,
    Q8_0,
}

impl Encoding {
    pub const ALL: [Encoding; 4] = [Encoding::Q4K, Encoding::Q5K, Encoding::Q6K, Encoding::Q8_0];

    /// The encoding of a type, if there is a product for it.
    pub fn of(dtype: DType) -> Option<Encoding> {
        Encoding::ALL.into_iter().find(|e| e.dtype() == dtype)
    }

    pub fn dtype(self) -> DType {
        match self {
            Encoding::Q4K => DType::Q4K,
            Encoding::Q5K => DType::Q5K,
            Encoding::Q6K => DType::Q6K,
            Encoding::Q8_0 => DType::Q8_0,
        }
    }

    /// Bytes of [`BLOCK`] columns.
    pub fn block_bytes(self) -> usize {
        match self {
            Encoding::Q4K => 144,
            Encoding::Q5K => 176,
            Encoding::Q6K => 210,
            Encoding::Q8_0 => SUBS * Q8_BYTES,
        }
    }
}

/// Bytes of 32 columns in Q8_0.
pub(super) const Q8_BYTES: usize = 34;

/// One token's activations as integers, one scale every [`BLOCK`] columns.
#[derive(Clone, Debug)]
pub(crate) struct IntRow {
    /// Of every [`SUB`] columns first the even ones, then the odd ones: as pairs of bytes fall apart.
    pub(super) values: Vec<i16>,
    /// `[blocks]`
    pub(super) scales: Vec<f32>,
    /// `[blocks][SUBS]`: sums of the integers, which mins are multiplied with.
    pub(super) sums: Vec<[f32; SUBS]>,
}

impl IntRow {
    /// Rounds a row of whole blocks.
    pub fn new(row: &[f32]) -> IntRow {
        let (blocks, rest) = row.as_chunks::<BLOCK>();
        assert!(rest.is_empty());
        let mut values = Vec::with_capacity(row.len());
        let (mut scales, mut sums) = (Vec::new(), Vec::new());
        for block in blocks {
            let largest = block.iter().fold(0.0f32, |m, x| if x.abs() > m { x.abs() } else { m });
            // A NaN makes the scale NaN, which carries it on; integers could not.
            let nan = block.iter().any(|x| x.is_nan());
            let scale = if nan { f32::NAN } else { largest / MAX_INTEGER };
            let inverse = if scale > 1e-35 { 1.0 / scale } else { 0.0 };
            for sub in block.as_chunks::<SUB>().0 {
                let integers = sub.map(|x| rounded(x * inverse) as i16);
                values.extend(integers.iter().step_by(2));
                values.extend(integers.iter().skip(1).step_by(2));
            }
            let subs = values[values.len() - BLOCK..].chunks_exact(SUB);
            let mut block_sums = [0.0; SUBS];
            for (sum, sub) in block_sums.iter_mut().zip(subs) {
                *sum = sub.iter().map(|x| i32::from(*x)).sum::<i32>() as f32;
            }
            scales.push(scale);
            sums.push(block_sums);
        }
        IntRow { values, scales, sums }
    }

    pub fn blocks(&self) -> usize {
        self.scales.len()
    }
}

/// `sum over columns of weight * activation` of one row; `bytes` are its encoded blocks.
pub(super) fn dot(encoding: Encoding, bytes: &[u8], row: &IntRow) -> f32 {
    let mut total = [0.0; LANES];
    for (b, block) in bytes.chunks_exact(encoding.block_bytes()).enumerate() {
        let values = &row.values[b * BLOCK..][..BLOCK];
        match encoding {
            Encoding::Q4K => add_affine(&block[..16], &[], &block[16..], b, row, &mut total),
            Encoding::Q5K => add_affine(&block[..16], &block[16..48], &block[48..], b, row, &mut total),
            Encoding::Q6K => add_q6(block, values, row.scales[b], &mut total),
            Encoding::Q8_0 => add_q8(block, values, row.scales[b], &mut total),
        }
    }
    add_lanes(total)
}

/// Adds up lanes, pair by pair.
#[inline(always)]
pub(super) fn add_lanes(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + b) + (c + d)) + ((e + f) + (g + h))
}

/// `d` and `dmin`, times the activations' scale, and the sub-blocks' scales and mins.
#[inline(always)]
pub(super) fn affine_scales(head: &[u8], scale: f32) -> (f32, f32, [u8; SUBS], [u8; SUBS]) {
    let d = f16::from_le_bytes([head[0], head[1]]).to_f32() * scale;
    let dmin = f16::from_le_bytes([head[2], head[3]]).to_f32() * scale;
    let word = |i: usize| u32::from_le_bytes([head[i], head[i + 1], head[i + 2], head[i + 3]]);
    let (low, middle, high) = (word(4), word(8), word(12));
    let scales = [low & 0x3f3f_3f3f, (high & 0x0f0f_0f0f) | ((low >> 2) & 0x3030_3030)];
    let mins = [middle & 0x3f3f_3f3f, ((high >> 4) & 0x0f0f_0f0f) | ((middle >> 2) & 0x3030_3030)];
    let bytes = |words: [u32; 2]| (u64::from(words[0]) | (u64::from(words[1]) << 32)).to_le_bytes();
    (d, dmin, bytes(scales), bytes(mins))
}

/// One block of Q4_K or Q5_K; `high` holds the codes' fifth bits.
fn add_affine(head: &[u8], high: &[u8], low: &[u8], b: usize, row: &IntRow, total: &mut [f32; LANES]) {
    let (d, dmin, scales, mins) = affine_scales(head, row.scales[b]);
    let mut block = [0.0; LANES];
    for sub in 0..SUBS {
        let code = |i: usize| {
            let low = (low[sub / 2 * SUB + i] >> (sub % 2 * 4)) & 0xf;
            let high = high.get(i).map_or(0, |h| ((h >> sub) & 1) << 4);
            i32::from(low | high)
        };
        add_sub(code, &row.values[b * BLOCK + sub * SUB..][..SUB], [f32::from(scales[sub]); 2], &mut block);
    }
    for l in 0..LANES {
        total[l] += d * block[l];
        total[l] -= dmin * (f32::from(mins[l]) * row.sums[b][l]);
    }
}

fn add_q6(block: &[u8], values: &[i16], scale: f32, total: &mut [f32; LANES]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = f16::from_le_bytes([block[208], block[209]]).to_f32() * scale;
    let mut sums = [0.0; LANES];
    for sub in 0..SUBS {
        let (half, part) = (sub / 4, sub % 4);
        let code = |i: usize| {
            let low = (low[half * 64 + part % 2 * SUB + i] >> (part / 2 * 4)) & 0xf;
            let high = (high[half * SUB + i] >> (2 * part)) & 3;
            i32::from(low | (high << 4)) - Q6_OFFSET
        };
        let scales = [scales[2 * sub] as i8, scales[2 * sub + 1] as i8].map(f32::from);
        add_sub(code, &values[sub * SUB..][..SUB], scales, &mut sums);
    }
    (0..LANES).for_each(|l| total[l] += d * sums[l]);
}

fn add_q8(block: &[u8], values: &[i16], scale: f32, total: &mut [f32; LANES]) {
    for (codes, values) in block.chunks_exact(Q8_BYTES).zip(values.chunks_exact(SUB)) {
        let d = f16::from_le_bytes([codes[0], codes[1]]).to_f32() * scale;
        add_sub(|i| i32::from(codes[2 + i] as i8), values, [d; 2], total);
    }
}

/// Adds 32 columns' products to the lanes; the first 16 columns (lanes 0 to 3) and the others have a scale each.
fn add_sub(code: impl Fn(usize) -> i32, values: &[i16], scales: [f32; 2], lanes: &mut [f32; LANES]) {
    for (l, lane) in lanes.iter_mut().enumerate() {
        let product = |i: usize| code(i) * i32::from(values[i % 2 * SUB / 2 + i / 2]);
        let sum: i32 = (4 * l..4 * l + 4).map(product).sum();
        *lane += sum as f32 * scales[l / 4];
    }
}
