//! From encoded rows to f32: the one place that knows how.

use half::{bf16, f16};
use plmconv_formats::DType;

/// Whether [`decode`] knows `dtype`.
pub(crate) fn is_supported(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
}

/// Values of `bytes`, which are whole blocks of a supported `dtype`; `out` has one place for each.
pub(crate) fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(dtype.encoded_len(out.len()), Some(bytes.len()));
    match dtype {
        DType::F32 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *x = f32::from_le_bytes(*b);
            }
        }
        DType::F16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = f16::from_le_bytes(*b).to_f32();
            }
        }
        DType::Bf16 => {
            for (x, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *x = bf16::from_le_bytes(*b).to_f32();
            }
        }
        other => unreachable!("{other} is refused when a model is loaded"),
    }
}
