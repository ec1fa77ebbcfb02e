//! Reading safetensors files: the header, checked once; the data stays on disk.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Metadata;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::DType;
use crate::error::{Error, Result};
use crate::source::{InputFile, StoredTensor};

/// The reference implementation's limit on a header's length.
const MAX_HEADER: u64 = 100_000_000;

/// A tensor of a safetensors file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// The type's name as the file says it.
    pub dtype_name: String,
    pub bytes: u64,
    /// Where the data lies, for types that have a [`DType`].
    pub data: Option<StoredTensor>,
}

/// An opened safetensors file.
#[derive(Debug)]
pub struct SafetensorsFile {
    path: PathBuf,
    /// In the order of their data.
    pub tensors: Vec<TensorInfo>,
    /// `__metadata__`, sorted by key.
    pub metadata: Vec<(String, String)>,
    pub file_bytes: u64,
}

impl SafetensorsFile {
    /// Opens a file and checks its header with the safetensors crate (offsets in order, without gaps or
    /// overlaps, sizes that match shapes), then that the data is all there.
    ///
    /// # Errors
    /// A header past the end, malformed or with a tensor twice; data that is cut off.
    pub fn open(path: impl AsRef<Path>) -> Result<SafetensorsFile> {
        SafetensorsFile::from_input(InputFile::open(path.as_ref())?)
    }

    /// [`open`](Self::open) for a file that is open already.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn from_input(file: Arc<InputFile>) -> Result<SafetensorsFile> {
        let path = file.path();
        let header = read_header(&file)?;
        check_duplicates(path, &header)?;
        // Not `SafeTensors::read_metadata`, which wants the whole file in memory; deserializing validates.
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|e| Error::Header { path: path.to_path_buf(), detail: e.to_string() })?;
        let data_start = 8 + header.len() as u64;

        let mut tensors = Vec::new();
        for name in metadata.offset_keys() {
            let info = metadata.info(&name).expect("a key of this header");
            let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
            if data_start + end > file.len() {
                return Err(Error::Truncated {
                    path: path.to_path_buf(),
                    what: format!("tensor `{name}`"),
                    end: data_start + end,
                    len: file.len(),
                });
            }
            let data = dtype_of(info.dtype)
                .map(|dtype| {
                    StoredTensor::new(Arc::clone(&file), &*name, dtype, &info.shape, data_start + start)
                })
                .transpose()?;
            tensors.push(TensorInfo {
                shape: info.shape.clone(),
                dtype_name: info.dtype.to_string(),
                bytes: end - start,
                data,
                name,
            });
        }
        let expected_len = data_start + metadata.data_len() as u64;
        if file.len() != expected_len {
            let detail = format!("{} bytes after the last tensor", file.len() - expected_len);
            return Err(Error::Header { path: path.to_path_buf(), detail });
        }
        let mut pairs: Vec<_> =
            metadata.metadata().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
        pairs.sort();
        Ok(SafetensorsFile { path: path.to_path_buf(), tensors, metadata: pairs, file_bytes: file.len() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The header's JSON; its length is checked before it is believed.
fn read_header(file: &InputFile) -> Result<Vec<u8>> {
    let mut prefix = [0u8; 8];
    if file.len() < 8 {
        return Err(Error::Truncated {
            path: file.path().to_path_buf(),
            what: "the header length".into(),
            end: 8,
            len: file.len(),
        });
    }
    file.read_exact_at(&mut prefix, 0)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > MAX_HEADER || header_len > file.len() - 8 {
        return Err(Error::HeaderLength { path: file.path().to_path_buf(), header_len, len: file.len() });
    }
    let mut header = vec![0; header_len as usize];
    file.read_exact_at(&mut header, 8)?;
    Ok(header)
}

/// JSON lets a key stand twice and the last one win, which would silently hide a tensor.
fn check_duplicates(path: &Path, json: &[u8]) -> Result<()> {
    struct Keys;
    impl<'de> Visitor<'de> for Keys {
        type Value = Option<String>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of tensors")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
            let mut seen = HashSet::new();
            let mut twice = None;
            while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                if !seen.insert(key.clone()) {
                    twice.get_or_insert(key);
                }
            }
            Ok(twice)
        }
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    match json.deserialize_map(Keys) {
        Ok(None) => Ok(()),
        Ok(Some(tensor)) => Err(Error::DuplicateTensor { path: path.to_path_buf(), tensor }),
        Err(e) => Err(Error::Header { path: path.to_path_buf(), detail: e.to_string() }),
    }
}

fn dtype_of(dtype: safetensors::Dtype) -> Option<DType> {
    use safetensors::Dtype;
    Some(match dtype {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::Bf16,
        Dtype::F64 => DType::F64,
        Dtype::I8 => DType::I8,
        Dtype::I16 => DType::I16,
        Dtype::I32 => DType::I32,
        Dtype::I64 => DType::I64,
        _ => return None,
    })
}
