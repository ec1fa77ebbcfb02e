//! Decoding compiled for wider vectors than the target's baseline.

use plmconv_formats::DType;

use super::super::decode_blocks;
use crate::simd::{Avx2, Avx512};

pub(in super::super) fn decode_avx2(_: Avx2, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    #[target_feature(enable = "avx2")]
    fn inner(dtype: DType, bytes: &[u8], out: &mut [f32]) {
        decode_blocks(dtype, bytes, out);
    }
    // SAFETY: the token proves that the CPU has AVX2.
    unsafe { inner(dtype, bytes, out) }
}

pub(in super::super) fn decode_avx512(_: Avx512, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn inner(dtype: DType, bytes: &[u8], out: &mut [f32]) {
        decode_blocks(dtype, bytes, out);
    }
    // SAFETY: the token proves that the CPU has these parts of AVX-512.
    unsafe { inner(dtype, bytes, out) }
}
