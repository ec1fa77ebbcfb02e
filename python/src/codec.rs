//! Blocks of every type from values and back.

use plmconv_formats::DType;
use plmconv_quant::codec::{self, encode_rows};
use plmconv_quant::policy::parse_tensor_type;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

fn named(dtype: &str) -> PyResult<DType> {
    let found = DType::from_name(dtype).filter(|dtype| codec::can_decode(*dtype));
    found.map_or_else(|| parse_tensor_type(dtype).map_err(value_error), Ok)
}

fn value_error(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

/// Values and bytes of a block of a type.
#[pyfunction]
pub fn block(dtype: &str) -> PyResult<(usize, usize)> {
    named(dtype).map(|dtype| (dtype.block_len(), dtype.block_bytes()))
}

/// Values of blocks, as bytes of float32.
#[pyfunction]
pub fn decode<'py>(py: Python<'py>, dtype: &str, blocks: &[u8]) -> PyResult<Bound<'py, PyByteArray>> {
    decoded(py, named(dtype)?, blocks)
}

/// The same of a type that is known.
pub(crate) fn decoded<'py>(
    py: Python<'py>,
    dtype: DType,
    blocks: &[u8],
) -> PyResult<Bound<'py, PyByteArray>> {
    let mut values = vec![0f32; blocks.len() / dtype.block_bytes() * dtype.block_len()];
    py.detach(|| codec::decode(dtype, blocks, &mut values)).map_err(value_error)?;
    let floats = values.len() * size_of::<f32>();
    PyByteArray::new_with(py, floats, |bytes| {
        let places = bytes.as_chunks_mut::<4>().0;
        places.iter_mut().zip(&values).for_each(|(place, value)| *place = value.to_ne_bytes());
        Ok(())
    })
}

/// Blocks of a type from bytes of float32 in rows of `cols`; `importance` is float32 for each column.
#[pyfunction]
#[pyo3(signature = (dtype, values, cols, importance=None))]
pub fn encode<'py>(
    py: Python<'py>,
    dtype: &str,
    values: &[u8],
    cols: usize,
    importance: Option<&[u8]>,
) -> PyResult<Bound<'py, PyByteArray>> {
    let dtype = parse_tensor_type(dtype).map_err(value_error)?;
    let row = dtype.encoded_len(cols).filter(|_| cols > 0).ok_or_else(|| {
        let block = dtype.block_len();
        value_error(format_args!("rows of {cols} values are not whole {dtype} blocks of {block}"))
    })?;
    let (values, importance) = (floats(values), importance.map(floats));
    if let Some(at) = codec::first_non_finite(&values) {
        return Err(value_error(format_args!("value {at} is {}", values[at])));
    }
    let mut blocks = vec![0; values.len() / cols * row];
    py.detach(|| encode_rows(dtype, &values, cols, importance.as_deref(), &mut blocks))
        .map_err(value_error)?;
    Ok(PyByteArray::new(py, &blocks))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_ne_bytes(*bytes)).collect()
}
