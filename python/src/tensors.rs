//! The tensors of a file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plmconv_formats::gguf::GgufFile;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::source::RowSource;
use plmconv_formats::{Error, Model};
use pyo3::exceptions::{PyKeyError, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use crate::codec::decoded;

/// The tensors of a GGUF (all shards of a split one), of a safetensors file, or of a model's folder, in their order.
#[pyclass(frozen)]
pub struct Tensors {
    tensors: Vec<Tensor>,
    by_name: HashMap<String, usize>,
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    source: Arc<dyn RowSource>,
}

#[pymethods]
impl Tensors {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Tensors> {
        let tensors = py.detach(|| open(&path)).map_err(|error| PyOSError::new_err(error.to_string()))?;
        let by_name = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Tensors { tensors, by_name })
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    fn __contains__(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// Type and shape.
    fn describe(&self, name: &str) -> PyResult<(&'static str, Vec<usize>)> {
        let tensor = self.tensor(name)?;
        Ok((tensor.source.dtype().name(), tensor.shape.clone()))
    }

    /// The bytes as they are stored, row by row.
    fn read<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyByteArray>> {
        Ok(PyByteArray::new(py, &self.tensor(name)?.read(py)?))
    }

    /// The values, as bytes of float32.
    fn values<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyByteArray>> {
        let tensor = self.tensor(name)?;
        decoded(py, tensor.source.dtype(), &tensor.read(py)?)
    }
}

impl Tensor {
    fn read(&self, py: Python<'_>) -> PyResult<Vec<u8>> {
        let mut bytes = Vec::new();
        py.detach(|| self.source.read_rows(0..self.source.rows(), &mut bytes))
            .map_err(|error| PyOSError::new_err(error.to_string()))?;
        Ok(bytes)
    }
}

impl Tensors {
    fn tensor(&self, name: &str) -> PyResult<&Tensor> {
        let at = self.by_name.get(name).ok_or_else(|| PyKeyError::new_err(name.to_string()))?;
        Ok(&self.tensors[*at])
    }
}

fn open(path: &Path) -> Result<Vec<Tensor>, Error> {
    if path.is_dir() {
        let tensors = Model::open(path)?.tensors.into_iter();
        return Ok(tensors
            .map(|tensor| Tensor {
                name: tensor.key.hugging_face_name().unwrap_or_else(|| tensor.key.gguf_name()),
                shape: tensor.shape,
                source: tensor.source,
            })
            .collect());
    }
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("safetensors")) {
        let tensors = SafetensorsFile::open(path)?.tensors.into_iter();
        return Ok(tensors
            .filter_map(|tensor| {
                Some(Tensor { name: tensor.name, shape: tensor.shape, source: Arc::new(tensor.data?) })
            })
            .collect());
    }
    let tensors = GgufFile::open_shards(path)?.into_iter().flat_map(|shard| shard.tensors);
    Ok(tensors
        .map(|tensor| Tensor { name: tensor.name, shape: tensor.shape, source: Arc::new(tensor.data) })
        .collect())
}
