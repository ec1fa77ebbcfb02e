//! Reading a GGUF file: everything but the tensors' data, checked once.

use std::collections::HashSet;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DEFAULT_ALIGNMENT, MAGIC, Metadata, Value, ValueType};
use crate::DType;
use crate::error::{Error, Result};
use crate::source::{InputFile, StoredTensor};

/// ggml's limit on a tensor's axes.
const MAX_AXES: u32 = 4;
/// ggml's limit on a tensor name, and a sane one for keys.
const MAX_NAME: u64 = 1 << 16;

/// A tensor as the directory of a GGUF file describes it.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    pub name: String,
    /// Row-major: the slowest axis first (the reverse of ggml's `ne`).
    pub shape: Vec<usize>,
    pub data: StoredTensor,
}

/// An opened GGUF file, or a set of shards as gguf-split names them, seen as one.
#[derive(Debug)]
pub struct GgufFile {
    path: PathBuf,
    pub version: u32,
    pub alignment: u64,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    /// Bytes of all shards.
    pub file_bytes: u64,
}

impl GgufFile {
    /// Opens a GGUF file; the first shard of a split opens all of them.
    ///
    /// # Errors
    /// Bad magic or version, truncation, duplicate, overlapping or overflowing tensors, unknown tensor types,
    /// missing shards.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile> {
        let mut shards = GgufFile::open_shards(path)?.into_iter();
        let mut whole = shards.next().expect("the file itself is the first");
        for shard in shards {
            whole.tensors.extend(shard.tensors);
            whole.file_bytes += shard.file_bytes;
        }
        Ok(whole)
    }

    /// Opens a GGUF file, or all shards of a split by the first: each as it is, with its own metadata and tensors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_shards(path: impl AsRef<Path>) -> Result<Vec<GgufFile>> {
        let path = path.as_ref();
        let first = read_one(path)?;
        let count = first.metadata.unsigned("split.count").unwrap_or(1);
        let others = if count > 1 { first.other_shards(count)? } else { Vec::new() };
        let shards: Vec<GgufFile> = std::iter::once(first).chain(others).collect();
        check_duplicates(path, &shards)?;
        Ok(shards)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    fn other_shards(&self, count: usize) -> Result<Vec<GgufFile>> {
        let index = self.metadata.unsigned("split.no").unwrap_or(0);
        let bad = |detail: String| Error::Header { path: self.path.clone(), detail };
        let name = self.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let suffix = format!("-{:05}-of-{count:05}.gguf", index + 1);
        let Some(stem) = name.strip_suffix(&suffix) else {
            return Err(bad(format!("shard {} of {count} must be named `*{suffix}`", index + 1)));
        };
        if index != 0 {
            let first = format!("{stem}-00001-of-{count:05}.gguf");
            return Err(bad(format!("shard {} of {count}; name the first one, `{first}`", index + 1)));
        }
        if count > 99_999 {
            return Err(bad(format!("`split.count` is {count}")));
        }
        let others = (2..=count).map(|n| format!("{stem}-{n:05}-of-{count:05}.gguf"));
        others.map(|name| read_one(&self.path.with_file_name(name))).collect()
    }
}

fn read_one(path: &Path) -> Result<GgufFile> {
    let file = InputFile::open(path)?;
    let mut head =
        Head { reader: BufReader::new(PositionalReader { file: &file, at: 0 }), file: &file, at: 0 };

    let magic = head.array::<4>("the magic")?;
    if magic != MAGIC {
        return Err(Error::BadMagic { path: path.to_path_buf(), found: magic });
    }
    let version = head.u32("the version")?;
    if !(2..=3).contains(&version) {
        return Err(Error::GgufVersion { path: path.to_path_buf(), version });
    }
    let tensor_count = head.u64("the tensor count")?;
    let pair_count = head.u64("the metadata count")?;

    let metadata = read_metadata(&mut head, pair_count)?;
    let alignment = read_alignment(path, &metadata)?;
    let infos = read_directory(&mut head, tensor_count)?;
    let data_start = head.at.next_multiple_of(alignment);

    let mut tensors = Vec::with_capacity(infos.len());
    for (name, shape, dtype, offset) in infos {
        if offset % alignment != 0 {
            let detail =
                format!("tensor `{name}`: offset {offset} is not a multiple of the alignment {alignment}");
            return Err(Error::Header { path: path.to_path_buf(), detail });
        }
        let start = data_start.checked_add(offset).ok_or_else(|| Error::OffsetOverflow {
            path: path.to_path_buf(),
            tensor: name.clone(),
            offset,
            bytes: 0,
        })?;
        let data = StoredTensor::new(Arc::clone(&file), name.clone(), dtype, &shape, start)?;
        tensors.push(TensorInfo { name, shape, data });
    }
    check_overlaps(path, &tensors)?;
    Ok(GgufFile { path: path.to_path_buf(), version, alignment, metadata, tensors, file_bytes: file.len() })
}

fn read_metadata(head: &mut Head<'_>, count: u64) -> Result<Metadata> {
    let mut seen = HashSet::new();
    let mut pairs = Vec::new();
    for _ in 0..count {
        let key = head.string("a metadata key")?;
        let offset = head.at;
        let type_id = head.u32("a metadata type")?;
        let kind = ValueType::from_u32(type_id)
            .map_err(|_| head.malformed(offset, format!("`{key}` has the unknown value type {type_id}")))?;
        let value = head.value(&key, kind)?;
        if !seen.insert(key.clone()) {
            return Err(head.malformed(offset, format!("metadata key `{key}` stands twice")));
        }
        pairs.push((key, value));
    }
    Ok(pairs.into_iter().collect())
}

fn read_alignment(path: &Path, metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get("general.alignment") else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match value.as_u64() {
        Some(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n),
        _ => Err(Error::BadValue {
            path: path.to_path_buf(),
            key: "general.alignment".into(),
            found: value.to_string_representation(),
            expected: "a power of two".into(),
        }),
    }
}

type DirectoryRow = (String, Vec<usize>, DType, u64);

fn read_directory(head: &mut Head<'_>, count: u64) -> Result<Vec<DirectoryRow>> {
    let mut rows = Vec::new();
    for _ in 0..count {
        let name = head.string("a tensor name")?;
        let offset = head.at;
        let axes = head.u32("a tensor's axes")?;
        if axes == 0 || axes > MAX_AXES {
            return Err(head.malformed(offset, format!("tensor `{name}` has {axes} axes")));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            let n = head.u64("a tensor's shape")?;
            let n = usize::try_from(n)
                .map_err(|_| head.malformed(offset, format!("tensor `{name}` has an axis of {n}")))?;
            shape.insert(0, n);
        }
        let id = head.u32("a tensor's type")?;
        let dtype = DType::from_ggml_id(id).ok_or_else(|| Error::TensorType {
            path: head.file.path().to_path_buf(),
            tensor: name.clone(),
            dtype: format!("id {id}"),
        })?;
        let data_offset = head.u64("a tensor's offset")?;
        rows.push((name, shape, dtype, data_offset));
    }
    Ok(rows)
}

fn check_duplicates(path: &Path, shards: &[GgufFile]) -> Result<()> {
    let mut seen = HashSet::new();
    match shards.iter().flat_map(|shard| &shard.tensors).find(|t| !seen.insert(t.name.as_str())) {
        Some(t) => Err(Error::DuplicateTensor { path: path.to_path_buf(), tensor: t.name.clone() }),
        None => Ok(()),
    }
}

fn check_overlaps(path: &Path, tensors: &[TensorInfo]) -> Result<()> {
    let mut by_offset: Vec<_> = tensors.iter().filter(|t| t.data.byte_len() > 0).collect();
    by_offset.sort_by_key(|t| t.data.offset());
    for pair in by_offset.windows(2) {
        if pair[0].data.offset() + pair[0].data.byte_len() > pair[1].data.offset() {
            return Err(Error::OverlappingTensors {
                path: path.to_path_buf(),
                first: pair[0].name.clone(),
                second: pair[1].name.clone(),
                offset: pair[1].data.offset(),
            });
        }
    }
    Ok(())
}

/// `Read` over an [`InputFile`], for the header only.
struct PositionalReader<'a> {
    file: &'a InputFile,
    at: u64,
}

impl Read for PositionalReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (out.len() as u64).min(self.file.len().saturating_sub(self.at)) as usize;
        self.file.read_exact_at(&mut out[..n], self.at).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The header being read, with the offset for messages.
struct Head<'a> {
    reader: BufReader<PositionalReader<'a>>,
    file: &'a InputFile,
    at: u64,
}

impl Read for Head<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(out)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Head<'_> {
    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let mut out = [0; N];
        let end = self.at + N as u64;
        self.read_exact(&mut out).map_err(|_| self.truncated(what, end))?;
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    fn string(&mut self, what: &str) -> Result<String> {
        let offset = self.at;
        let len = self.u64(what)?;
        let left = self.file.len().saturating_sub(self.at);
        if len > left {
            return Err(self.truncated(what, self.at.saturating_add(len)));
        }
        if len > MAX_NAME {
            return Err(self.malformed(offset, format!("{what} of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        let end = self.at + len;
        self.read_exact(&mut bytes).map_err(|_| self.truncated(what, end))?;
        String::from_utf8(bytes).map_err(|_| self.malformed(offset, format!("{what} is not UTF-8")))
    }

    fn value(&mut self, key: &str, kind: ValueType) -> Result<Value> {
        let offset = self.at;
        Value::read_from(self, kind).map_err(|e| {
            if self.at >= self.file.len() {
                self.truncated(&format!("the value of `{key}`"), self.at.saturating_add(1))
            } else {
                self.malformed(offset, format!("`{key}`: {e}"))
            }
        })
    }

    fn truncated(&self, what: &str, end: u64) -> Error {
        Error::Truncated {
            path: self.file.path().to_path_buf(),
            what: what.into(),
            end,
            len: self.file.len(),
        }
    }

    fn malformed(&self, offset: u64, detail: String) -> Error {
        Error::Malformed { path: self.file.path().to_path_buf(), offset, detail }
    }
}
