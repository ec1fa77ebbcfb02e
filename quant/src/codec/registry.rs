//! Which types there are codecs for, and what dispatch has to know of each: one row a type. The match has no wildcard,
//! so a new type does not compile before it has a row.

use plmconv_formats::DType;

/// What compiles a type's codec for the instruction sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// Plain Rust over a [`Kernel`](super::kernel::Kernel): floats, small blocks, ternary types.
    Plain,
    /// Own vector kernels for encoding and decoding.
    K,
    /// Own vector kernels for encoding; decoding is plain.
    Iq4,
    /// Decoding only, which is plain.
    Decoded,
}

/// A type's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec {
    pub family: Family,
    /// Byte offsets of the block's half-precision scales, which an encoder must not make infinite; a single one appears
    /// twice.
    pub halves: Option<[usize; 2]>,
}

/// The codec of `dtype`, if this build has one.
pub(super) const fn codec(dtype: DType) -> Option<Codec> {
    use Family::*;
    let (family, halves) = match dtype {
        DType::F32 | DType::Bf16 => (Plain, None),
        // Every value is a half, and is looked at as such.
        DType::F16 => (Plain, Some([0, 0])),
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => (Plain, Some([0, 0])),
        DType::Q4_1 | DType::Q5_1 => (Plain, Some([0, 2])),
        DType::Q2K => (K, Some([80, 82])),
        DType::Q3K => (K, Some([108, 108])),
        DType::Q4K | DType::Q5K => (K, Some([0, 2])),
        DType::Q6K => (K, Some([208, 208])),
        DType::Iq4Nl | DType::Iq4Xs => (Iq4, Some([0, 0])),
        DType::Tq1_0 => (Plain, Some([52, 52])),
        DType::Tq2_0 => (Plain, Some([64, 64])),
        // Its scales are powers of two in a byte.
        DType::Mxfp4 => (Decoded, None),
        DType::Q8_1 | DType::Q8K => return None,
        DType::Iq1S | DType::Iq1M | DType::Iq2Xxs | DType::Iq2Xs | DType::Iq2S => return None,
        DType::Iq3Xxs | DType::Iq3S | DType::Nvfp4 => return None,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::F64 => return None,
    };
    Some(Codec { family, halves })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_lie_inside_their_blocks() {
        for dtype in DType::all() {
            let halves = codec(dtype).and_then(|codec| codec.halves);
            assert!(halves.into_iter().flatten().all(|at| at + 2 <= dtype.block_bytes()), "{dtype}");
        }
    }

    #[test]
    fn every_block_type_that_is_encoded_has_its_scales_checked() {
        for dtype in DType::all().filter(|dtype| dtype.is_quantized()) {
            let Some(codec) = codec(dtype) else { continue };
            assert!(codec.halves.is_some() || codec.family == Family::Decoded, "{dtype}");
        }
    }
}
