//! One row for each type: its file. The match has no wildcard, so a new type does not compile before it has a row.

use plmconv_formats::DType;

use super::dot::Dot;
use super::k::{q2, q3, q4_q5, q6};
use super::lattice::{self, Chosen, Shape};
use super::scalar::{Block, Grid};
use super::{float, fp4, iq4, legacy, q1_q2, q8_0, ternary};
use crate::simd::Level;

/// What a type's file says of it.
#[derive(Debug)]
pub(crate) struct Codec {
    /// What an encoder must not make infinite.
    pub scales: ScaleFields,
    /// Encodes whole rows; lengths have been checked. Every level gives the same bytes.
    pub encode: Encode,
    /// Decodes whole blocks. Every level gives the same values.
    pub decode: fn(level: Level, bytes: &[u8], out: &mut [f32]),
    /// How its values are rounded with a view to the output.
    pub guided: Guided,
    /// The product of its rows with activations, if they are not decoded for it.
    pub dot: Option<Dot>,
}

/// Rows of values as blocks; `importance` is `[cols]`.
type Encode = fn(level: Level, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]);

/// What guided rounding has to know of a type: what it can express, and how that becomes bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Guided {
    /// It does not round such types: they gain nothing, or any rounding will do.
    No,
    /// A code for each value.
    Scalar { grid: &'static Grid, pack: fn(&Block, &mut [u8]) },
    /// Codes that are points of a grid.
    Points { shape: &'static Shape, pack: fn(&Chosen, &mut [u8]) },
}

/// Where a block's scales are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ScaleFields {
    /// There are none.
    None,
    /// There is no block: every value is a half-precision number.
    EveryHalf,
    /// Whatever their bits are, they are finite.
    AlwaysFinite,
    /// Half-precision numbers at these byte offsets; a single one appears twice.
    Halves([usize; 2]),
    /// A half-precision number whose bits are not together.
    Scattered(fn(block: &[u8]) -> u16),
    /// A power of two in a byte at this offset; all ones mean NaN.
    Exponent(usize),
}

impl ScaleFields {
    /// The offset of the first block with an infinite scale or a NaN for one; of F16, of the first such value. llama.cpp
    /// checks the same after quantizing (`ggml_validate_row_data`).
    pub fn first_infinite(self, bytes: &[u8], block_bytes: usize) -> Option<usize> {
        const EXPONENT: u16 = 0x7c00;
        let is_infinite = |half: u16| half & EXPONENT == EXPONENT;
        let mut blocks = bytes.chunks_exact(block_bytes);
        let block = match self {
            ScaleFields::None | ScaleFields::AlwaysFinite => None,
            ScaleFields::EveryHalf => {
                let (halves, _) = bytes.as_chunks::<2>();
                let exponent = |half: &[u8; 2]| (u16::from_le_bytes(*half) & EXPONENT) as i16;
                // The maximum first, without early exit: that is what vector instructions can do.
                let largest = halves.iter().fold(0, |max: i16, half| max.max(exponent(half)));
                let position = || halves.iter().position(|half| exponent(half) == EXPONENT as i16);
                if largest == EXPONENT as i16 { position() } else { None }
            }
            ScaleFields::Halves(fields) => blocks.position(|block| {
                let [first, second] = fields.map(|at| u16::from_le_bytes([block[at], block[at + 1]]));
                is_infinite(first) | is_infinite(second)
            }),
            ScaleFields::Scattered(bits) => blocks.position(|block| is_infinite(bits(block))),
            ScaleFields::Exponent(at) => blocks.position(|block| block[at] == u8::MAX),
        };
        block.map(|index| index * block_bytes)
    }
}

/// The codec of `dtype`, if this build has one.
pub(crate) fn codec(dtype: DType) -> Option<&'static Codec> {
    Some(match dtype {
        DType::F32 => &float::F32,
        DType::F16 => &float::F16,
        DType::Bf16 => &float::BF16,
        DType::Q1_0 => &q1_q2::Q1_0,
        DType::Q2_0 => &q1_q2::Q2_0,
        DType::Q4_0 => &legacy::Q4_0,
        DType::Q4_1 => &legacy::Q4_1,
        DType::Q5_0 => &legacy::Q5_0,
        DType::Q5_1 => &legacy::Q5_1,
        DType::Q8_0 => &q8_0::Q8_0,
        DType::Q2K => &q2::Q2_K,
        DType::Q3K => &q3::Q3_K,
        DType::Q4K => &q4_q5::Q4_K,
        DType::Q5K => &q4_q5::Q5_K,
        DType::Q6K => &q6::Q6_K,
        DType::Iq4Nl => &iq4::IQ4_NL,
        DType::Iq4Xs => &iq4::IQ4_XS,
        DType::Iq1S => &lattice::iq1_s::IQ1_S,
        DType::Iq1M => &lattice::iq1_m::IQ1_M,
        DType::Iq2Xxs => &lattice::iq2_xxs::IQ2_XXS,
        DType::Iq2Xs => &lattice::iq2_xs::IQ2_XS,
        DType::Iq2S => &lattice::iq2_s::IQ2_S,
        DType::Iq3Xxs => &lattice::iq3_xxs::IQ3_XXS,
        DType::Iq3S => &lattice::iq3_s::IQ3_S,
        DType::Tq1_0 => &ternary::TQ1_0,
        DType::Tq2_0 => &ternary::TQ2_0,
        DType::Mxfp4 => &fp4::MXFP4,
        DType::Nvfp4 => &fp4::NVFP4,
        DType::Q8_1 | DType::Q8K => return None,
        DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::F64 => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codecs() -> impl Iterator<Item = (DType, &'static Codec)> {
        DType::all().filter_map(|dtype| Some((dtype, codec(dtype)?)))
    }

    #[test]
    fn halves_lie_inside_their_blocks() {
        for (dtype, codec) in codecs() {
            let ScaleFields::Halves(halves) = codec.scales else { continue };
            assert!(halves.into_iter().all(|at| at + 2 <= dtype.block_bytes()), "{dtype}");
        }
    }

    #[test]
    fn every_block_type_that_is_encoded_has_its_scales_checked() {
        for (dtype, codec) in codecs().filter(|(dtype, _)| dtype.is_quantized()) {
            assert!(!matches!(codec.scales, ScaleFields::None), "{dtype}");
        }
    }

    #[test]
    fn what_guided_rounding_chooses_fills_a_block() {
        for (dtype, codec) in codecs() {
            match codec.guided {
                Guided::No => {}
                Guided::Scalar { grid, .. } => assert_eq!(grid.block_len(), dtype.block_len(), "{dtype}"),
                Guided::Points { .. } => assert_eq!(dtype.block_len(), 256, "{dtype}"),
            }
        }
    }

    /// Every byte is written whatever was there, or what a file says would depend on the buffer.
    #[test]
    fn packing_leaves_nothing_of_what_was_there() {
        for (dtype, codec) in codecs() {
            let packed = |before: u8| {
                let mut out = vec![before; dtype.block_bytes()];
                match codec.guided {
                    Guided::No => return None,
                    Guided::Scalar { grid, pack } => {
                        let block = Block {
                            scales: vec![1; grid.subs],
                            offsets: vec![1; grid.subs],
                            codes: vec![0; grid.block_len()],
                            ..Block::default()
                        };
                        pack(&block, &mut out);
                    }
                    Guided::Points { pack, .. } => pack(&Chosen::default(), &mut out),
                }
                Some(out)
            };
            assert_eq!(packed(0xa5), packed(0), "{dtype}");
        }
    }
}
