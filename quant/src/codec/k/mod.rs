//! ggml's k-quants: Q2_K, Q3_K, Q4_K, Q5_K and Q6_K, in super-blocks of 256 values.
//!
//! Encoding gives the bytes of llama-quantize (ggml-quants.c: `quantize_row_*_ref` without importance,
//! `quantize_row_*_impl` with it, on x86-64 without fused multiply-add). A search over some twenty candidate scales
//! per sub-block is where the time goes, so the searches exist twice: `codec::search` says what is computed, one
//! sub-block at a time, and the vector kernels run the same operations in the same order with one sub-block per lane.
//!
//! Every type goes through the same four steps: a scale per sub-block (`engine::Engine`), those scales quantized
//! per super-block, the nearest code for every value under the scales as stored, packing (`block`).

mod batch;
mod block;
mod engine;
pub(in crate::codec) mod lanes;
#[cfg(test)]
mod tests;

use plmconv_formats::DType;

use crate::simd::Level;
use block::{q2, q3, q4_q5, q6};
use engine::{Engine, Scalar};
use lanes::PortableLanes;

/// Values per super-block.
const SUPER_BLOCK: usize = 256;

/// Encodes `values` (`[rows, cols]`, row-major) as `dtype` into `out`. Every level gives the same bytes.
///
/// `importance` is `[cols]`: what an error in each column costs. The caller has checked that `dtype` is a k-quant,
/// `cols` is a multiple of 256 that divides `values`, and `out` has exactly the encoded length.
pub fn encode(
    level: Level,
    dtype: DType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    debug_assert!(cols > 0 && cols.is_multiple_of(SUPER_BLOCK) && values.len().is_multiple_of(cols));
    debug_assert!(importance.is_none_or(|importance| importance.len() == cols));
    debug_assert_eq!(Some(out.len()), dtype.encoded_len(values.len()));
    match level {
        Level::Generic => encode_with(Scalar, dtype, values, importance, out),
        // NEON is in aarch64's baseline, so the compiler uses it without being asked.
        Level::Neon(_) => encode_with(PortableLanes, dtype, values, importance, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => encode_with(lanes::Avx2Lanes(token), dtype, values, importance, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => encode_with(lanes::Avx512Lanes(token), dtype, values, importance, out),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2(_) | Level::Avx512(_) => encode_with(PortableLanes, dtype, values, importance, out),
    }
}

fn encode_with<E: Engine>(
    engine: E,
    dtype: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) {
    match dtype {
        DType::Q2K => q2::encode(engine, values, importance, out),
        DType::Q3K => q3::encode(engine, values, importance, out),
        DType::Q4K => q4_q5::encode(engine, &q4_q5::Q4, values, importance, out),
        DType::Q5K => q4_q5::encode(engine, &q4_q5::Q5, values, importance, out),
        DType::Q6K => q6::encode(engine, values, importance, out),
        other => unreachable!("{other} is not a k-quant"),
    }
}

/// Decodes `bytes` of `dtype` into `out`. Every level gives the same values, those of ggml's `dequantize_row_*`.
///
/// The caller has checked that `dtype` is a k-quant and `bytes` has exactly the encoded length of `out`.
pub fn decode(level: Level, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(Some(bytes.len()), dtype.encoded_len(out.len()));
    match level {
        Level::Generic | Level::Neon(_) => decode_blocks(dtype, bytes, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => lanes::decode_avx2(token, dtype, bytes, out),
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => lanes::decode_avx512(token, dtype, bytes, out),
        #[cfg(not(target_arch = "x86_64"))]
        Level::Avx2(_) | Level::Avx512(_) => decode_blocks(dtype, bytes, out),
    }
}

/// Independent elements, which the compiler turns into vector code for the instructions it is compiled with.
#[inline(always)]
fn decode_blocks(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    let blocks = bytes.chunks_exact(dtype.block_bytes()).zip(out.chunks_exact_mut(SUPER_BLOCK));
    match dtype {
        DType::Q2K => blocks.for_each(|(block, out)| q2::decode_block(block, out)),
        DType::Q3K => blocks.for_each(|(block, out)| q3::decode_block(block, out)),
        DType::Q4K => blocks.for_each(|(block, out)| q4_q5::decode_block(&q4_q5::Q4, block, out)),
        DType::Q5K => blocks.for_each(|(block, out)| q4_q5::decode_block(&q4_q5::Q5, block, out)),
        DType::Q6K => blocks.for_each(|(block, out)| q6::decode_block(block, out)),
        other => unreachable!("{other} is not a k-quant"),
    }
}
