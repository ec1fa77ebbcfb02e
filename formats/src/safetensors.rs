//! Reading safetensors files: the header, checked once; the data stays on disk.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::tensor::Metadata;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

use crate::DType;
use crate::error::{Error, Result};
use crate::limits::{MAX_AXES, MAX_TENSORS};
use crate::source::{InputFile, StoredTensor};

/// The reference implementation's limit on a header's length.
const MAX_HEADER: u64 = 100_000_000;
/// Entries of `__metadata__`; training tools write a few hundred.
const MAX_TEXTS: usize = 1 << 16;

/// A tensor of a safetensors file.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name in the file.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// The type's name as the file says it.
    pub dtype_name: String,
    /// Bytes of its data.
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
    /// Bytes of the whole file.
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
        let (header, header_len) = Header::read(&file)?;
        let data_start = 8 + header_len;
        // Not `SafeTensors::read_metadata`, which wants the whole file in memory; making it validates.
        let checked = Metadata::new(None, header.tensors)
            .map_err(|e| Error::Header { path: path.to_path_buf(), detail: e.to_string() })?;

        let names = checked.offset_keys();
        let mut tensors = Vec::with_capacity(names.len());
        for name in names {
            let info = checked.info(&name).expect("a key of this header");
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
        let expected_len = data_start + checked.data_len() as u64;
        if file.len() != expected_len {
            let detail = format!("{} bytes after the last tensor", file.len() - expected_len);
            return Err(Error::Header { path: path.to_path_buf(), detail });
        }
        let metadata = header.metadata.into_iter().collect();
        Ok(SafetensorsFile { path: path.to_path_buf(), tensors, metadata, file_bytes: file.len() })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// A header as it is written. Read here in bounded memory: the safetensors crate's own deserialization holds every
/// value once more, and lets the last of two tensors of one name silently hide the first.
#[derive(Default)]
struct Header {
    tensors: Vec<(String, safetensors::tensor::TensorInfo)>,
    metadata: BTreeMap<String, String>,
}

impl Header {
    /// Reads the header of a file; also its length, which is checked before it is believed. Tensors come in the order
    /// of their data.
    fn read(file: &InputFile) -> Result<(Header, u64)> {
        let path = || file.path().to_path_buf();
        let len = file.len();
        if len < 8 {
            return Err(Error::Truncated { path: path(), what: "the header length".into(), end: 8, len });
        }
        let mut prefix = [0u8; 8];
        file.read_exact_at(&mut prefix, 0)?;
        let header_len = u64::from_le_bytes(prefix);
        if header_len > MAX_HEADER || header_len > len - 8 {
            return Err(Error::HeaderLength { path: path(), header_len, len });
        }
        let mut json = vec![0; header_len as usize];
        file.read_exact_at(&mut json, 8)?;
        let mut header: Header = serde_json::from_slice(&json)
            .map_err(|e| Error::Header { path: path(), detail: e.to_string() })?;
        header.tensors.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        if let Some(pair) = header.tensors.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(Error::DuplicateTensor { path: path(), tensor: pair[0].0.clone() });
        }
        header.tensors.sort_by_key(|(_, info)| info.data_offsets);
        Ok((header, header_len))
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let Texts(metadata) = map.next_value()?;
                        header.metadata = metadata;
                        continue;
                    }
                    if header.tensors.len() == MAX_TENSORS {
                        return Err(too_many("tensors", MAX_TENSORS));
                    }
                    let EntryJson { dtype, shape: Shape(shape), data_offsets } = map.next_value()?;
                    let info = safetensors::tensor::TensorInfo { dtype, shape, data_offsets };
                    header.tensors.push((name, info));
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

#[derive(Deserialize)]
struct EntryJson {
    dtype: safetensors::Dtype,
    shape: Shape,
    data_offsets: (usize, usize),
}

struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct Axes;
        impl<'de> Visitor<'de> for Axes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(n) = list.next_element()? {
                    if shape.len() == MAX_AXES {
                        return Err(too_many("axes of a tensor", MAX_AXES));
                    }
                    shape.push(n);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(Axes)
    }
}

/// `__metadata__`.
#[derive(Default)]
struct Texts(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from texts to texts")
            }

            fn visit_unit<E>(self) -> Result<Texts, E> {
                Ok(Texts::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    if texts.len() == MAX_TEXTS {
                        return Err(too_many("texts in `__metadata__`", MAX_TEXTS));
                    }
                    texts.insert(key, value);
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}

fn too_many<E: serde::de::Error>(what: &str, limit: usize) -> E {
    E::custom(format!("more than {limit} {what}: no model has so many"))
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
