//! From encoded rows to f32: the one place that asks the codecs.

use plmconv_formats::DType;
use plmconv_quant::codec;

/// Whether [`decode`] knows `dtype`: tried out on one block of zeros.
pub(crate) fn is_supported(dtype: DType) -> bool {
    let mut values = vec![0.0; dtype.block_len()];
    codec::decode(dtype, &vec![0; dtype.block_bytes()], &mut values).is_ok()
}

/// Values of `bytes`, which are whole blocks of a supported `dtype`; `out` has one place for each.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    codec::decode(dtype, bytes, out).expect("type and sizes are checked when a model is loaded");
}
