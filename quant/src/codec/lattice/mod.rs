//! Types below four bits whose codes are points of a lattice: a group of eight (or four) values shares one index into a
//! table of the combinations that occur most, the grid. IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S, IQ1_S and IQ1_M, in
//! super-blocks of 256 values.
//!
//! Encoding gives the bytes of llama-quantize (`quantize_row_iq…_impl` in ggml-quants.c on x86-64 without fused
//! multiply-add), decoding the values of `dequantize_row_iq…`. Each type has a file with its layout; `search` and `split`
//! hold the searches that they share, `grid` what may stand in for a combination that a grid lacks, and `nearest` the
//! choice among these.

#![allow(
    clippy::needless_range_loop,
    reason = "lanes of several arrays go side by side, which vectors follow"
)]

mod grid;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod nearest;
mod parts;
mod points;
mod search;
mod shape;
mod split;

use plmconv_formats::DType;

use crate::simd::{Level, Loop};
pub(crate) use grid::code_bits;
#[cfg(target_arch = "x86_64")]
use nearest::{Avx2Nearest, Avx512Nearest};
use nearest::{Nearest, Plain};
pub(crate) use shape::{Chosen, Shape, Signs};

const SUPER_BLOCK: usize = 256;

/// Encodes whole rows as `dtype`; `importance` is `[cols]`. Every level gives the same bytes. The caller has checked
/// that `dtype` is one of these types and all lengths.
pub(super) fn encode(level: Level, dtype: DType, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => {
            level.run(Encode { kernel: Avx2Nearest(token), dtype, values, importance, out });
        }
        #[cfg(target_arch = "x86_64")]
        Level::Avx512(token) => {
            level.run(Encode { kernel: Avx512Nearest(token), dtype, values, importance, out });
        }
        _ => level.run(Encode { kernel: Plain, dtype, values, importance, out }),
    }
}

struct Encode<'a, K> {
    kernel: K,
    dtype: DType,
    values: &'a [f32],
    importance: Option<&'a [f32]>,
    out: &'a mut [u8],
}

impl<K: Nearest> Loop for Encode<'_, K> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let Encode { kernel, dtype, values, importance, out } = self;
        match dtype {
            DType::Iq1S => iq1_s::encode(kernel, values, importance, out),
            DType::Iq1M => iq1_m::encode(kernel, values, importance, out),
            DType::Iq2Xxs => iq2_xxs::encode(kernel, values, importance, out),
            DType::Iq2Xs => iq2_xs::encode(kernel, values, importance, out),
            DType::Iq2S => iq2_s::encode(kernel, values, importance, out),
            DType::Iq3Xxs => iq3_xxs::encode(kernel, values, importance, out),
            DType::Iq3S => iq3_s::encode(kernel, values, importance, out),
            other => unreachable!("{other} has no grid"),
        }
    }
}

/// Decodes whole blocks of one of these types.
#[inline(always)]
pub(super) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::Iq1S => iq1_s::decode(bytes, out),
        DType::Iq1M => iq1_m::decode(bytes, out),
        DType::Iq2Xxs => iq2_xxs::decode(bytes, out),
        DType::Iq2Xs => iq2_xs::decode(bytes, out),
        DType::Iq2S => iq2_s::decode(bytes, out),
        DType::Iq3Xxs => iq3_xxs::decode(bytes, out),
        DType::Iq3S => iq3_s::decode(bytes, out),
        other => unreachable!("{other} has no grid"),
    }
}

/// What `dtype` can express, if it is one of these types.
pub(crate) fn shape(dtype: DType) -> Option<&'static Shape> {
    Some(match dtype {
        DType::Iq1S => &iq1_s::SHAPE,
        DType::Iq1M => &iq1_m::SHAPE,
        DType::Iq2Xxs => &iq2_xxs::SHAPE,
        DType::Iq2Xs => &iq2_xs::SHAPE,
        DType::Iq2S => &iq2_s::SHAPE,
        DType::Iq3Xxs => &iq3_xxs::SHAPE,
        DType::Iq3S => &iq3_s::SHAPE,
        _ => return None,
    })
}

/// Lays out a super-block of one of these types; `out` has its bytes.
pub(crate) fn pack(dtype: DType, chosen: &Chosen, out: &mut [u8]) {
    match dtype {
        DType::Iq1S => iq1_s::pack(chosen, block(out)),
        DType::Iq1M => iq1_m::pack(chosen, block(out)),
        DType::Iq2Xxs => iq2_xxs::pack(chosen, block(out)),
        DType::Iq2Xs => iq2_xs::pack(chosen, block(out)),
        DType::Iq2S => iq2_s::pack(chosen, block(out)),
        DType::Iq3Xxs => iq3_xxs::pack(chosen, block(out)),
        DType::Iq3S => iq3_s::pack(chosen, block(out)),
        other => unreachable!("{other} has no grid"),
    }
}

fn block<const BYTES: usize>(out: &mut [u8]) -> &mut [u8; BYTES] {
    out.try_into().expect("a block's bytes")
}

/// The half-precision bits of the scale of an IQ1_M block.
pub(super) fn iq1_m_scale_bits(block: &[u8]) -> u16 {
    block.first_chunk().map_or(0, iq1_m::block_scale_bits)
}
