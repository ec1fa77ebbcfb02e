//! Values to ggml's blocks and back, one file per family of types. Bit for bit what ggml's
//! `ggml_quantize_chunk` and `to_float` produce on a processor without fused multiply-add.

mod arithmetic;
mod float;
mod fp4;
mod iq;
pub mod k;
mod kernel;
mod lattice;
mod legacy;
mod q1_q2;
mod registry;
mod search;
mod ternary;

pub(crate) use iq::{BOUNDS as IQ4_BOUNDS, VALUES as IQ4_VALUES};
pub(crate) use lattice::{Chosen, Shape, Signs, code_bits, pack as pack_lattice, shape as lattice_shape};

use plmconv_formats::DType;

use crate::Error;
use crate::simd::Level;
#[cfg(target_arch = "x86_64")]
use kernel::Avx2Kernel;
use kernel::{Kernel, Scalar};
use registry::{Family, Scales, codec};

/// Encoded bytes per step: small enough that a step's values and bytes stay in the second-level cache while
/// they are checked.
const STEP_BYTES: usize = 32 * 1024;

/// Whether [`encode_rows`] knows `dtype`.
pub fn can_encode(dtype: DType) -> bool {
    codec(dtype).is_some()
}

/// Whether [`decode`] knows `dtype`.
pub fn can_decode(dtype: DType) -> bool {
    codec(dtype).is_some()
}

/// Encodes `values` (`[rows, cols]`, row-major, whole rows) as `dtype` into `out` on the calling thread.
///
/// `importance` is `[cols]`: how much an error in each column costs, on any scale. Types that make no use of it
/// (F32, F16, BF16, Q8_0, Q1_0, Q2_0, MXFP4, NVFP4, TQ1_0, TQ2_0) ignore it. Rows do not influence each other, so any split into calls
/// gives the same bytes. Values are expected to be finite (see [`first_non_finite`]).
///
/// # Errors
/// When a length is wrong, `cols` is not whole blocks, the type is unknown to this build, or a value or scale
/// exceeds the range of the half-precision field that holds it; `out` is then partly written.
pub fn encode_rows(
    dtype: DType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    encode_rows_with(Level::detect(), dtype, values, cols, importance, out)
}

/// [`encode_rows`] with these vector instructions; every level gives the same bytes.
///
/// # Errors
/// As [`encode_rows`].
pub fn encode_rows_with(
    level: Level,
    dtype: DType,
    values: &[f32],
    cols: usize,
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    let row_bytes = check_encode(dtype, values.len(), cols, importance.map(<[f32]>::len), out.len())?;
    let step_rows = (STEP_BYTES / row_bytes).max(1);
    let steps = values.chunks(step_rows * cols).zip(out.chunks_mut(step_rows * row_bytes));
    for (step, (values, out)) in steps.enumerate() {
        encode_checked(level, dtype, values, importance, out)?;
        if let Some(offset) = first_infinite_field(dtype, out) {
            return Err(Error::NotRepresentable { dtype, row: step * step_rows + offset / row_bytes });
        }
    }
    Ok(())
}

/// Decodes `bytes` of `dtype` into `out`, which has exactly as many values as the bytes hold.
///
/// # Errors
/// When a length is wrong or the type is unknown to this build.
pub fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    decode_with(Level::detect(), dtype, bytes, out)
}

/// [`decode`] with these vector instructions; every level gives the same values.
///
/// # Errors
/// As [`decode`].
pub fn decode_with(level: Level, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    if !can_decode(dtype) {
        return Err(Error::CannotDecode { dtype });
    }
    let block_bytes = dtype.block_bytes();
    if !bytes.len().is_multiple_of(block_bytes) {
        return Err(Error::PartialBlock { dtype, bytes: bytes.len(), block_bytes });
    }
    let expected = bytes.len() / block_bytes * dtype.block_len();
    if out.len() != expected {
        return Err(Error::DecodedLength { dtype, bytes: bytes.len(), expected, found: out.len() });
    }
    decode_checked(level, dtype, bytes, out)
}

/// The index of the first infinity or NaN, if there is one.
pub fn first_non_finite(values: &[f32]) -> Option<usize> {
    const LANES: usize = 64;
    let bad = |value: &f32| !value.is_finite();
    // Whole groups first, without early exit inside one: that is what vector instructions can do.
    let (groups, rest) = values.as_chunks::<LANES>();
    for (index, group) in groups.iter().enumerate() {
        if group.iter().fold(false, |any, value| any | bad(value)) {
            return group.iter().position(bad).map(|offset| index * LANES + offset);
        }
    }
    rest.iter().position(bad).map(|offset| groups.len() * LANES + offset)
}

/// Checks every size once; returns the bytes of a row.
fn check_encode(
    dtype: DType,
    values: usize,
    cols: usize,
    importance: Option<usize>,
    out: usize,
) -> Result<usize, Error> {
    if !can_encode(dtype) {
        return Err(Error::CannotEncode { dtype });
    }
    let block_len = dtype.block_len();
    let row_bytes = dtype.encoded_len(cols).filter(|_| cols > 0);
    let row_bytes = row_bytes.ok_or(Error::RowLength { dtype, cols, block_len })?;
    if !values.is_multiple_of(cols) {
        return Err(Error::PartialRow { values, cols });
    }
    if let Some(found) = importance.filter(|&found| found != cols) {
        return Err(Error::ImportanceLength { found, cols });
    }
    // Cannot overflow: the values exist in memory and no type takes more than their four bytes each.
    let expected = values / cols * row_bytes;
    if out != expected {
        return Err(Error::EncodedLength { dtype, values, expected, found: out });
    }
    Ok(row_bytes)
}

/// Encodes with the instructions of `level`; lengths have been checked.
///
/// The codecs are plain Rust marked for inlining over a [`Kernel`], compiled once more inside a function that allows
/// AVX2. None allows fused multiply-add: it would change bits.
fn encode_checked(
    level: Level,
    dtype: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    match codec(dtype).ok_or(Error::CannotEncode { dtype })?.family {
        Family::K => {
            let cols = importance.map_or(values.len(), <[f32]>::len);
            k::encode(level, dtype, values, cols, importance, out);
            return Ok(());
        }
        Family::Iq4 => {
            iq::encode(level, dtype, values, importance, out);
            return Ok(());
        }
        Family::Lattice => {
            lattice::encode(level, dtype, values, importance, out);
            return Ok(());
        }
        Family::Plain => {}
    }
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level carries the proof that this CPU has AVX2 and F16C, or AVX-512 F, which includes both.
        // Wider registers would not help: these codecs are bound by packing and by memory.
        Level::Avx2(_) | Level::Avx512(_) => unsafe { encode_avx2(dtype, values, importance, out) },
        _ => encode_with_kernel(Scalar, dtype, values, importance, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn encode_avx2(
    dtype: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    // SAFETY: this function enables AVX2 and F16C.
    let kernel = unsafe { Avx2Kernel::new() };
    encode_with_kernel(kernel, dtype, values, importance, out)
}

#[inline(always)]
fn encode_with_kernel(
    kernel: impl Kernel,
    dtype: DType,
    values: &[f32],
    importance: Option<&[f32]>,
    out: &mut [u8],
) -> Result<(), Error> {
    match (dtype, importance) {
        (DType::F32, _) => float::encode_f32(values, out),
        (DType::F16, _) => float::encode_f16(kernel, values, out),
        (DType::Bf16, _) => float::encode_bf16(values, out),
        (DType::Q1_0, _) => q1_q2::encode_q1_0(values, out),
        (DType::Q2_0, _) => q1_q2::encode_q2_0(values, out),
        (DType::Mxfp4, _) => fp4::encode_mxfp4(values, out),
        (DType::Nvfp4, _) => fp4::encode_nvfp4(values, out),
        (DType::Q4_0, None) => legacy::encode_q4_0(kernel, values, out),
        (DType::Q4_1, None) => legacy::encode_q4_1(kernel, values, out),
        (DType::Q5_0, None) => legacy::encode_q5_0(kernel, values, out),
        (DType::Q5_1, None) => legacy::encode_q5_1(kernel, values, out),
        (DType::Q4_0, Some(w)) => legacy::encode_q4_0_weighted(kernel, values, w, out),
        (DType::Q4_1, Some(w)) => legacy::encode_q4_1_weighted(kernel, values, w, out),
        (DType::Q5_0, Some(w)) => legacy::encode_q5_0_weighted(kernel, values, w, out),
        (DType::Q5_1, Some(w)) => legacy::encode_q5_1_weighted(kernel, values, w, out),
        (DType::Q8_0, _) => legacy::encode_q8_0(kernel, values, out),
        (DType::Tq1_0, _) => ternary::encode_tq1_0(kernel, values, out),
        (DType::Tq2_0, _) => ternary::encode_tq2_0(kernel, values, out),
        _ => return Err(Error::CannotEncode { dtype }),
    }
    Ok(())
}

/// Decodes with the instructions of `level`; lengths have been checked.
fn decode_checked(level: Level, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    if codec(dtype).is_some_and(|codec| codec.family == Family::K) {
        k::decode(level, dtype, bytes, out);
        return Ok(());
    }
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the level carries the proof that this CPU has AVX2 and F16C, or AVX-512 F, which includes both.
        // Wider registers would not help: these codecs are bound by packing and by memory.
        Level::Avx2(_) | Level::Avx512(_) => unsafe { decode_avx2(dtype, bytes, out) },
        _ => decode_with_kernel(Scalar, dtype, bytes, out),
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,f16c")]
fn decode_avx2(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    // SAFETY: this function enables AVX2 and F16C.
    let kernel = unsafe { Avx2Kernel::new() };
    decode_with_kernel(kernel, dtype, bytes, out)
}

#[inline(always)]
fn decode_with_kernel(kernel: impl Kernel, dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<(), Error> {
    match dtype {
        DType::F32 => float::decode_f32(bytes, out),
        DType::F16 => float::decode_f16(kernel, bytes, out),
        DType::Bf16 => float::decode_bf16(bytes, out),
        DType::Q4_0 => legacy::decode_q4_0(bytes, out),
        DType::Q4_1 => legacy::decode_q4_1(bytes, out),
        DType::Q5_0 => legacy::decode_q5_0(bytes, out),
        DType::Q5_1 => legacy::decode_q5_1(bytes, out),
        DType::Q8_0 => legacy::decode_q8_0(bytes, out),
        DType::Iq4Nl => iq::decode_iq4_nl(bytes, out),
        DType::Iq4Xs => iq::decode_iq4_xs(bytes, out),
        DType::Iq1S | DType::Iq1M | DType::Iq2Xxs | DType::Iq2Xs => lattice::decode(dtype, bytes, out),
        DType::Iq2S | DType::Iq3Xxs | DType::Iq3S => lattice::decode(dtype, bytes, out),
        DType::Mxfp4 => fp4::decode_mxfp4(bytes, out),
        DType::Nvfp4 => fp4::decode_nvfp4(bytes, out),
        DType::Q1_0 => q1_q2::decode_q1_0(bytes, out),
        DType::Q2_0 => q1_q2::decode_q2_0(bytes, out),
        DType::Tq1_0 => ternary::decode_tq1_0(bytes, out),
        DType::Tq2_0 => ternary::decode_tq2_0(bytes, out),
        _ => return Err(Error::CannotDecode { dtype }),
    }
    Ok(())
}

/// The offset of the first block in `bytes` with an infinite scale or a NaN for one; of F16, of the first such value. llama.cpp checks the same after quantizing (`ggml_validate_row_data`).
fn first_infinite_field(dtype: DType, bytes: &[u8]) -> Option<usize> {
    const EXPONENT: i16 = 0x7c00;
    if dtype == DType::F16 {
        let (halves, _) = bytes.as_chunks::<2>();
        let exponent = |half: &[u8; 2]| i16::from_le_bytes(*half) & EXPONENT;
        // The maximum first, without early exit: that is what vector instructions can do.
        let largest = halves.iter().fold(0, |max: i16, half| max.max(exponent(half)));
        let position = || halves.iter().position(|half| exponent(half) == EXPONENT);
        return if largest == EXPONENT { position().map(|index| index * 2) } else { None };
    }
    let block_bytes = dtype.block_bytes();
    let mut blocks = bytes.chunks_exact(block_bytes);
    let is_infinite = |half: u16| half as i16 & EXPONENT == EXPONENT;
    let block = match codec(dtype)?.scales {
        Scales::None | Scales::AlwaysFinite => None,
        Scales::Halves(fields) => blocks.position(|block| {
            let [first, second] = fields.map(|at| u16::from_le_bytes([block[at], block[at + 1]]));
            is_infinite(first) | is_infinite(second)
        }),
        Scales::Scattered => blocks.position(|block| is_infinite(lattice::iq1_m_scale_bits(block))),
        Scales::Exponent(at) => blocks.position(|block| block[at] == u8::MAX),
    };
    block.map(|index| index * block_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_sizes_are_named() {
        let values = [0.5_f32; 64];
        let mut out = [0_u8; 36];
        let encode = |dtype, values: &[f32], cols, importance: Option<&[f32]>, out: &mut [u8]| {
            encode_rows(dtype, values, cols, importance, out).unwrap_err()
        };
        assert!(matches!(
            encode(DType::Q4_0, &values, 33, None, &mut out),
            Error::RowLength { cols: 33, .. }
        ));
        assert!(matches!(encode(DType::Q4_0, &values, 0, None, &mut out), Error::RowLength { cols: 0, .. }));
        assert!(matches!(encode(DType::Q4_0, &values[..33], 32, None, &mut out), Error::PartialRow { .. }));
        assert!(matches!(
            encode(DType::Q4_0, &values, 32, None, &mut out[1..]),
            Error::EncodedLength { expected: 36, found: 35, .. }
        ));
        assert!(matches!(
            encode(DType::Q4_0, &values, 32, Some(&[1.0]), &mut out),
            Error::ImportanceLength { found: 1, cols: 32 }
        ));
        assert!(matches!(encode(DType::Q8K, &values, 64, None, &mut out), Error::CannotEncode { .. }));
        let mut back = [0.0; 64];
        assert!(matches!(decode(DType::Q4_0, &out[1..], &mut back), Err(Error::PartialBlock { .. })));
        assert!(matches!(decode(DType::Q4_0, &out, &mut back[1..]), Err(Error::DecodedLength { .. })));
        assert!(matches!(decode(DType::Q8K, &out, &mut back), Err(Error::CannotDecode { .. })));
    }

    #[test]
    fn what_a_half_cannot_hold_is_an_error_with_its_row() {
        let cols = 256;
        let mut values = vec![1.0_f32; 3 * cols];
        values[2 * cols + 17] = 3e9;
        use DType::*;
        let halves = [F16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q1_0, Q2_0, Iq4Nl, Iq4Xs, Tq1_0, Tq2_0];
        let lattices = [Iq1S, Iq1M, Iq2Xxs, Iq2Xs, Iq2S, Iq3Xxs, Iq3S];
        for dtype in halves.into_iter().chain(lattices) {
            let mut out = vec![0; dtype.encoded_len(values.len()).unwrap()];
            match encode_rows(dtype, &values, cols, None, &mut out) {
                Err(Error::NotRepresentable { row, .. }) => assert_eq!(row, 2, "{dtype}"),
                other => panic!("{dtype}: {other:?}"),
            }
        }
        let mut out = vec![0; 2 * values.len()];
        encode_rows(Bf16, &values, cols, None, &mut out).unwrap();
    }

    #[test]
    fn non_finite_values_are_found_wherever_they_are() {
        let mut values = vec![0.0_f32; 1000];
        assert_eq!(first_non_finite(&values), None);
        for (position, value) in [(999, f32::NAN), (640, f32::INFINITY), (63, -f32::INFINITY), (0, f32::NAN)]
        {
            values[position] = value;
            assert_eq!(first_non_finite(&values), Some(position));
        }
        assert_eq!(first_non_finite(&[]), None);
    }
}
