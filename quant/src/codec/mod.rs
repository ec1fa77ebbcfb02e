//! Values to ggml's blocks and back, bit for bit what ggml's `ggml_quantize_chunk` and `to_float` produce on a processor
//! without fused multiply-add. A type is one file (a family of like types shares one) and one row in `registry`.

mod arithmetic;
pub mod dot;
mod field;
mod float;
mod fp4;
mod iq4;
mod k;
mod kernel;
mod lattice;
mod legacy;
mod q1_q2;
mod q8_0;
mod registry;
pub(crate) mod scalar;
mod search;
mod ternary;

pub(crate) use arithmetic::ROUNDING_MAGIC;
pub(crate) use iq4::{BOUNDS as IQ4_BOUNDS, VALUES as IQ4_VALUES};
#[cfg(test)]
pub(crate) use lattice::code_bits;
pub(crate) use lattice::{Chosen, Node, Shape, Signs, Trie};
pub(crate) use registry::{Guided, codec};

use plmconv_formats::DType;

use crate::Error;
use crate::simd::Level;

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
    let codec = codec(dtype).ok_or(Error::CannotEncode { dtype })?;
    let step_rows = (STEP_BYTES / row_bytes).max(1);
    let steps = values.chunks(step_rows * cols).zip(out.chunks_mut(step_rows * row_bytes));
    for (step, (values, out)) in steps.enumerate() {
        (codec.encode)(level, values, importance, out);
        if let Some(offset) = codec.scales.first_infinite(out, dtype.block_bytes()) {
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
    let codec = codec(dtype).ok_or(Error::CannotDecode { dtype })?;
    let block_bytes = dtype.block_bytes();
    if !bytes.len().is_multiple_of(block_bytes) {
        return Err(Error::PartialBlock { dtype, bytes: bytes.len(), block_bytes });
    }
    let expected = bytes.len() / block_bytes * dtype.block_len();
    if out.len() != expected {
        return Err(Error::DecodedLength { dtype, bytes: bytes.len(), expected, found: out.len() });
    }
    (codec.decode)(level, bytes, out);
    Ok(())
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
