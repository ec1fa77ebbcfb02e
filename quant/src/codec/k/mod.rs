//! ggml's k-quants: Q2_K, Q3_K, Q4_K, Q5_K and Q6_K, in super-blocks of 256 values.
//!
//! Encoding gives the bytes of llama-quantize (ggml-quants.c: `quantize_row_*_ref` without importance,
//! `quantize_row_*_impl` with it, on x86-64 without fused multiply-add). A search over some twenty candidate scales
//! per sub-block is where the time goes, so the searches exist twice: `codec::search` says what is computed, one
//! sub-block at a time, and the vector kernels run the same operations in the same order with one sub-block per lane.
//!
//! Every type goes through the same four steps: a scale per sub-block (`engine::Engine`), those scales quantized
//! per super-block, the nearest code for every value under the scales as stored, packing (`layout`). A type's file says
//! where its bytes are and how its scales are quantized.

mod affine;
mod batch;
mod engine;
pub(in crate::codec) mod lanes;
mod layout;
pub(super) mod q2;
pub(super) mod q3;
pub(super) mod q4_q5;
pub(super) mod q6;
#[cfg(test)]
mod tests;

use std::marker::PhantomData;

use crate::simd::{Level, Loop};
use engine::{Engine, Scalar};
use lanes::PortableLanes;
use layout::{Layout, MOST_SUBS, decode_block, pack};

/// Values per super-block.
const SUPER_BLOCK: usize = 256;

/// A type.
trait KQuant: Layout {
    /// Encodes whole rows, `importance` is `[cols]`. Every engine gives the same bytes.
    fn encode<E: Engine>(engine: E, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]);
}

fn encode<T: KQuant>(level: Level, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    match level {
        Level::Generic => T::encode(Scalar, values, importance, out),
        // NEON is in aarch64's baseline, so the compiler uses it without being asked.
        Level::Neon(_) => T::encode(PortableLanes, values, importance, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => T::encode(lanes::Avx2Lanes(token), values, importance, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => T::encode(lanes::Avx512Lanes(token), values, importance, out),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2(_) | Level::Avx512(_) => T::encode(PortableLanes, values, importance, out),
    }
}

/// The values of ggml's `dequantize_row_*`.
fn decode<T: Layout>(level: Level, bytes: &[u8], out: &mut [f32]) {
    level.run(Decode { layout: PhantomData::<T>, bytes, out });
}

struct Decode<'a, T> {
    layout: PhantomData<T>,
    bytes: &'a [u8],
    out: &'a mut [f32],
}

/// Independent elements, which the compiler turns into vector code for the instructions it is compiled with.
impl<T: Layout> Loop for Decode<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let blocks = self.bytes.chunks_exact(T::BYTES).zip(self.out.chunks_exact_mut(SUPER_BLOCK));
        blocks.for_each(|(block, out)| decode_block::<T>(block, out));
    }
}
