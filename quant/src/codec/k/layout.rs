//! What a k-quant's file says of its bytes, and what follows from it for every type: decoding, and writing what an encoder
//! chose.

use super::SUPER_BLOCK;
use super::engine::{Engine, Levels, Steps};
use crate::codec::field::{self, Field, RUN};
use crate::codec::scalar::Block;

/// Most sub-blocks of a super-block.
pub(super) const MOST_SUBS: usize = 16;

/// Where things are in a super-block. A value is `d * scale * (code - ZERO) - dmin * min`.
pub(super) trait Layout {
    /// Bytes of a super-block.
    const BYTES: usize;
    /// Values of a sub-block: 16 or 32.
    const SUB: usize;
    /// Bits of a code.
    const BITS: u32;
    /// What codes are stored with added.
    const ZERO: u8;
    /// Whether there are mins.
    const MINS: bool;

    /// The codes of values `32 * run..32 * run + 32`.
    fn fields(run: usize) -> [Field; 2];

    /// What all else in the block says.
    fn scales(block: &[u8]) -> Scales;

    /// Writes all but the codes.
    fn put_scales(scales: &Scales, block: &mut [u8]);
}

/// A super-block but for its codes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scales {
    pub d: f32,
    pub dmin: f32,
    /// By sub-block. What does not fit into its bits goes where ggml lets it go.
    pub scale: [i8; MOST_SUBS],
    pub min: [u8; MOST_SUBS],
}

impl Scales {
    /// What a code's step is worth, and what is subtracted.
    #[inline(always)]
    fn steps(&self) -> Steps {
        Steps {
            step: self.scale.map(|scale| self.d * f32::from(scale)),
            offset: self.min.map(|min| self.dmin * f32::from(min)),
        }
    }
}

/// Decodes one super-block.
#[inline(always)]
pub(super) fn decode_block<T: Layout>(block: &[u8], out: &mut [f32]) {
    let steps = T::scales(block).steps();
    let (runs, _) = out.as_chunks_mut::<RUN>();
    unroll!(run in [0 1 2 3 4 5 6 7] {
        let codes = field::take(T::fields(run), block);
        let subs = runs[run].chunks_exact_mut(T::SUB).zip(codes.chunks_exact(T::SUB));
        for (sub, (out, codes)) in subs.enumerate() {
            let sub = run * (RUN / T::SUB) + sub;
            let (step, offset) = (steps.step[sub], steps.offset[sub]);
            for (value, &code) in out.iter_mut().zip(codes) {
                let scaled = step * f32::from(code as i8 - T::ZERO as i8);
                *value = if T::MINS { scaled - offset } else { scaled };
            }
        }
    });
}

/// Writes a super-block under `scales`, with the nearest code for every value under the scales as stored.
///
/// `search_codes` gives the codes of a sub-block whose stored scale is zero: no better codes exist, so the reference encoder
/// leaves those of its search.
#[inline(always)]
pub(super) fn write_block<T: Layout, E: Engine>(
    engine: E,
    x: &[f32],
    scales: &Scales,
    out: &mut [u8],
    mut search_codes: impl FnMut(usize, &[f32], &mut [u8]),
) {
    T::put_scales(scales, out);
    let steps = T::scales(out).steps();
    let (zero, codes) = (i32::from(T::ZERO), 1 << T::BITS);
    let levels = Levels { low: -zero, high: codes - 1 - zero };
    let mut codes = [0; SUPER_BLOCK];
    engine.requantize(levels, T::SUB, x, &steps, &mut codes);
    for (sub, (x, codes)) in x.chunks_exact(T::SUB).zip(codes.chunks_exact_mut(T::SUB)).enumerate() {
        if steps.step[sub] == 0.0 {
            search_codes(sub, x, codes);
        }
    }
    put_codes::<T>(&codes, out);
}

#[inline(always)]
fn put_codes<T: Layout>(codes: &[u8; SUPER_BLOCK], out: &mut [u8]) {
    let (runs, _) = codes.as_chunks();
    unroll!(run in [0 1 2 3 4 5 6 7] {
        field::put(T::fields(run), &runs[run], out);
    });
}

/// Writes a super-block that was chosen elsewhere.
pub(super) fn pack<T: Layout>(block: &Block, out: &mut [u8]) {
    let mut scales = Scales { d: block.d, dmin: block.dmin, ..Scales::default() };
    scales.scale.iter_mut().zip(&block.scales).for_each(|(out, &scale)| *out = scale as i8);
    scales.min.iter_mut().zip(&block.offsets).for_each(|(out, &min)| *out = min as u8);
    T::put_scales(&scales, out);
    let mut codes = [0; SUPER_BLOCK];
    codes.iter_mut().zip(&block.codes).for_each(|(out, &code)| *out = (code + i32::from(T::ZERO)) as u8);
    put_codes::<T>(&codes, out);
}
