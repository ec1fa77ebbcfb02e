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
    /// Codes that are points of a grid: plain Rust around one vector kernel for encoding; decoding is plain.
    Lattice,
}

/// Where a block's scales are, which an encoder must not make infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scales {
    /// There are none.
    None,
    /// Whatever their bits are, they are finite.
    AlwaysFinite,
    /// Half-precision numbers at these byte offsets; a single one appears twice.
    Halves([usize; 2]),
    /// A half-precision number four bits at a time, as IQ1_M has it.
    Scattered,
    /// A power of two in a byte at this offset, of which all ones mean NaN.
    Exponent(usize),
}

/// A type's row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codec {
    pub family: Family,
    pub scales: Scales,
}

/// The codec of `dtype`, if this build has one.
pub(super) const fn codec(dtype: DType) -> Option<Codec> {
    use Family::*;
    use Scales::*;
    let (family, scales) = match dtype {
        DType::F32 | DType::Bf16 => (Plain, None),
        // Every value is a half, and is looked at as such.
        DType::F16 => (Plain, Halves([0, 0])),
        DType::Q1_0 | DType::Q2_0 => (Plain, Halves([0, 0])),
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 => (Plain, Halves([0, 0])),
        DType::Q4_1 | DType::Q5_1 => (Plain, Halves([0, 2])),
        DType::Q2K => (K, Halves([80, 82])),
        DType::Q3K => (K, Halves([108, 108])),
        DType::Q4K | DType::Q5K => (K, Halves([0, 2])),
        DType::Q6K => (K, Halves([208, 208])),
        DType::Iq4Nl | DType::Iq4Xs => (Iq4, Halves([0, 0])),
        DType::Iq1S | DType::Iq2Xxs | DType::Iq2Xs | DType::Iq2S => (Lattice, Halves([0, 0])),
        DType::Iq3Xxs | DType::Iq3S => (Lattice, Halves([0, 0])),
        DType::Iq1M => (Lattice, Scattered),
        DType::Tq1_0 => (Plain, Halves([52, 52])),
        DType::Tq2_0 => (Plain, Halves([64, 64])),
        DType::Mxfp4 => (Plain, Exponent(0)),
        DType::Nvfp4 => (Plain, AlwaysFinite),
        DType::Q8_1 | DType::Q8K => return Option::None,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::F64 => return Option::None,
    };
    Some(Codec { family, scales })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_lie_inside_their_blocks() {
        for dtype in DType::all() {
            let Some(Codec { scales: Scales::Halves(halves), .. }) = codec(dtype) else { continue };
            assert!(halves.into_iter().all(|at| at + 2 <= dtype.block_bytes()), "{dtype}");
        }
    }

    #[test]
    fn every_block_type_that_is_encoded_has_its_scales_checked() {
        for dtype in DType::all().filter(|dtype| dtype.is_quantized()) {
            let Some(codec) = codec(dtype) else { continue };
            assert_ne!(codec.scales, Scales::None, "{dtype}");
        }
    }
}
