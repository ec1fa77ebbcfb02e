//! What the types have in common besides their search: weights, signs, and scales of sub-blocks under a block's own.

use super::SUPER_BLOCK;
use super::search::SubBlock;
use crate::codec::arithmetic::{nearest_int, sum_of_squares};

/// What an error costs where nobody says.
#[derive(Clone, Copy)]
pub(super) enum Unweighted {
    /// The value's square.
    Square,
    /// A quarter of the spread plus the value's square.
    QuarterSpreadPlusSquare,
    /// As if every column were as important. ggml has no rule for these types and refuses.
    EvenImportance,
}

/// Super-blocks of whole rows, each with the importance from its first column on and its place in `out`.
#[inline(always)]
pub(super) fn super_blocks<'a, const BYTES: usize>(
    values: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
) -> impl Iterator<Item = (&'a [f32; SUPER_BLOCK], Option<&'a [f32]>, &'a mut [u8; BYTES])> {
    let blocks = values.as_chunks().0.iter().zip(out.as_chunks_mut().0);
    blocks.enumerate().map(move |(index, (x, block))| {
        (x, importance.map(|all| &all[index * SUPER_BLOCK % all.len()..]), block)
    })
}

#[inline(always)]
pub(super) fn mean_square(x: &[f32; SUPER_BLOCK]) -> f32 {
    sum_of_squares(x) / SUPER_BLOCK as f32
}

/// What an error in each value of sub-block `sub` costs: its importance times the root of `spread` plus its square.
#[inline(always)]
pub(super) fn weights<const V: usize>(
    x: &[f32; V],
    importance: Option<&[f32]>,
    sub: usize,
    spread: f32,
    unweighted: Unweighted,
) -> [f32; V] {
    // Loops, not `map`: they become vector code.
    let mut weights = [0.0; V];
    match (importance, unweighted) {
        (Some(importance), _) => {
            let importance: &[f32] = &importance[sub * V..][..V];
            for i in 0..V {
                weights[i] = importance[i] * (spread + x[i] * x[i]).sqrt();
            }
        }
        (None, Unweighted::Square) => {
            for i in 0..V {
                weights[i] = x[i] * x[i];
            }
        }
        (None, Unweighted::QuarterSpreadPlusSquare) => {
            for i in 0..V {
                weights[i] = 0.25 * spread + x[i] * x[i];
            }
        }
        (None, Unweighted::EvenImportance) => {
            for i in 0..V {
                weights[i] = (spread + x[i] * x[i]).sqrt();
            }
        }
    }
    weights
}

/// The largest of some values, as C's `MAX` chains find it.
#[inline(always)]
pub(super) fn largest(x: &[f32]) -> f32 {
    x[1..].iter().fold(x[0], |max, &x| if max > x { max } else { x })
}

/// The signs that are stored of eight whose number of minus signs is even.
pub(super) const EVEN_SIGNS: u8 = 127;

/// Replaces values by their magnitudes; a byte of signs for every eight values, a bit set for a negative one.
#[inline(always)]
pub(super) fn take_signs<const V: usize>(x: &mut [f32; V]) -> [u8; 4] {
    let mut signs = [0; 4];
    for (x, signs) in x.as_chunks_mut::<8>().0.iter_mut().zip(&mut signs) {
        for (i, x) in x.iter_mut().enumerate() {
            let negative = *x < 0.0 || x.is_nan();
            *signs |= u8::from(negative) << i;
            *x = if negative { -*x } else { *x };
        }
    }
    signs
}

/// [`take_signs`] where only seven signs of eight are stored and the last makes their number even: of an odd number, the
/// one that costs least is flipped, which leaves that value negative.
#[inline(always)]
pub(super) fn take_even_signs<const V: usize>(block: &mut SubBlock<V>) -> [u8; 4] {
    let mut signs = take_signs(&mut block.x);
    let groups = block.x.as_chunks_mut::<8>().0.iter_mut().zip(block.w.as_chunks::<8>().0);
    for ((x, w), signs) in groups.zip(&mut signs) {
        if signs.count_ones() % 2 == 1 {
            let cost = |i: usize| w[i] * x[i] * x[i];
            let cheapest = (1..8).fold(0, |best, i| if cost(i) < cost(best) { i } else { best });
            x[cheapest] = -x[cheapest];
            *signs ^= 1 << cheapest;
        }
        *signs &= EVEN_SIGNS;
    }
    signs
}

/// Makes a negative scale positive: the `stored` signs of each byte are flipped instead.
#[inline(always)]
pub(super) fn make_positive(scale: &mut f32, signs: &mut [u8; 4], stored: u8) {
    if *scale < 0.0 {
        *scale = -*scale;
        *signs = signs.map(|signs| !signs & stored);
    }
}

/// Four times seven signs of sub-block `sub`, the first lowest; the eighth of each follows from them.
#[inline(always)]
pub(super) fn pack_even_signs(signs: &[u8; 32], sub: usize) -> u32 {
    let signs = signs[4 * sub..][..4].iter().rev();
    signs.fold(0, |packed, signs| packed << 7 | u32::from(signs & EVEN_SIGNS))
}

/// The eight signs that seven stand for.
#[inline(always)]
pub(super) fn even_signs(seven: u8) -> u8 {
    seven | ((seven.count_ones() as u8 & 1) << 7)
}

/// Writes `scale * magnitude` with the sign of each.
#[inline(always)]
pub(super) fn write_signed(scale: f32, magnitudes: &[u8], signs: u8, out: &mut [f32]) {
    for (i, (out, magnitude)) in out.iter_mut().zip(magnitudes).enumerate() {
        let value = scale * f32::from(*magnitude);
        *out = if signs >> i & 1 == 1 { -value } else { value };
    }
}

/// Scales of sub-blocks as codes `l` under a scale `d` of the block: `d * (2 l + 1)`.
pub(super) struct BlockScale<const S: usize> {
    /// NaN if any scale is: the block cannot be stored.
    pub d: f32,
    pub codes: [u8; S],
}

/// `None` where all scales are zero.
#[inline(always)]
pub(super) fn quantize_scales<const S: usize>(scales: &[f32; S], top_code: u8) -> Option<BlockScale<S>> {
    let max = scales.iter().fold(0.0, |max, &scale| if max > scale { max } else { scale });
    let unusable = scales.iter().any(|scale| scale.is_nan());
    if max == 0.0 && !unusable {
        return None;
    }
    let d = if unusable { f32::NAN } else { max / f32::from(2 * top_code + 1) };
    let inverse = 1.0 / d;
    let code = |scale: &f32| nearest_int(0.5 * (inverse * scale - 1.0)).clamp(0, top_code.into()) as u8;
    Some(BlockScale { d, codes: std::array::from_fn(|sub| code(&scales[sub])) })
}

/// Four bits for each code, the first of two lower.
#[inline(always)]
pub(super) fn pack_nibbles(codes: &[u8], out: &mut [u8]) {
    for (out, codes) in out.iter_mut().zip(codes.as_chunks::<2>().0) {
        *out = codes[0] | codes[1] << 4;
    }
}
