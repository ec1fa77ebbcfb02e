//! Reading a GGUF file: everything but the tensors' data, checked once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::head::Head;
use super::split::check_shard;
use super::{ALIGNMENT_KEY, DEFAULT_ALIGNMENT, MAGIC, Metadata, Value, ValueType};
use crate::DType;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::limits::{self, MAX_TENSORS, allocated};
use crate::source::{InputFile, StoredTensor};

/// ggml's limit on a tensor's axes.
const MAX_AXES: u32 = 4;
/// Metadata pairs of a file; models have less than a hundred.
const MAX_PAIRS: usize = 1 << 12;
/// What a tensor takes in memory besides its name, which is kept twice.
const TENSOR_BYTES: u64 = 320;

/// A tensor as the directory of a GGUF file describes it.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Its name in the file, e.g. `blk.0.ffn_up.weight`.
    pub name: String,
    /// Row-major: the slowest axis first (the reverse of ggml's `ne`).
    pub shape: Vec<usize>,
    /// Where its rows are read from.
    pub data: StoredTensor,
}

/// An opened GGUF file, or a set of shards as gguf-split names them, seen as one.
#[derive(Clone, Debug)]
pub struct GgufFile {
    path: PathBuf,
    /// The version of the format: 2 or 3.
    pub version: u32,
    /// Offsets in the data are multiples of this many bytes.
    pub alignment: u64,
    /// Of the first shard, without what says how the set is split.
    pub metadata: Metadata,
    /// In file order; of a set, shard by shard.
    pub tensors: Vec<TensorInfo>,
    /// Indices of `tensors`, sorted by name.
    by_name: Vec<u32>,
    /// Bytes of all shards.
    pub file_bytes: u64,
    inputs: Vec<Arc<InputFile>>,
    /// Keys of texts that are not UTF-8: bytes that are none are replaced.
    pub broken_texts: Vec<String>,
}

impl GgufFile {
    /// Opens a GGUF file; the first shard of a split opens all of them.
    ///
    /// # Errors
    /// Bad magic or version, truncation, duplicate, overlapping or overflowing tensors, unknown tensor types,
    /// missing shards.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile> {
        let mut whole = read_one(InputFile::open(path.as_ref())?)?;
        let shards = whole.metadata.unsigned("split.count").unwrap_or(1);
        if shards > 1 {
            whole.append_shards(shards)?;
        }
        whole.by_name = sorted_by_name(&whole.path, &whole.tensors)?;
        Ok(whole)
    }

    /// Opens a GGUF file, or all shards of a split by the first: each as it is, with its own metadata and tensors.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_shards(path: impl AsRef<Path>) -> Result<Vec<GgufFile>> {
        let whole = GgufFile::open(path)?;
        if whole.inputs.len() == 1 {
            return Ok(vec![whole]);
        }
        whole.inputs.into_iter().map(|input| GgufFile::from_inputs([input])).collect()
    }

    /// Opens one file, whatever set it may be a shard of.
    pub(super) fn open_shard(path: &Path) -> Result<GgufFile> {
        read_one(InputFile::open(path)?)
    }

    /// The file, or the shards in their order, that are open as `inputs`, whatever they are called.
    ///
    /// # Errors
    /// As [`GgufFile::open`], but for missing shards.
    ///
    /// # Panics
    /// Without inputs.
    pub fn from_inputs(inputs: impl IntoIterator<Item = Arc<InputFile>>) -> Result<GgufFile> {
        let mut inputs = inputs.into_iter();
        let mut whole = read_one(inputs.next().expect("a GGUF is at least one file"))?;
        for (number, input) in (1..).zip(inputs) {
            let part = read_one(input)?;
            check_shard(&whole, &part, number)?;
            whole.append(part)?;
        }
        whole.by_name = sorted_by_name(&whole.path, &whole.tensors)?;
        Ok(whole)
    }

    /// What its files were when they were opened.
    pub fn fingerprints(&self) -> impl Iterator<Item = &Fingerprint> {
        self.inputs.iter().filter_map(|input| input.fingerprint())
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        let name_of = |&index: &u32| self.tensors[index as usize].name.as_str();
        let at = self.by_name.binary_search_by(|index| name_of(index).cmp(name)).ok()?;
        Some(&self.tensors[self.by_name[at] as usize])
    }

    fn append_shards(&mut self, count: usize) -> Result<()> {
        let index = self.metadata.unsigned("split.no").unwrap_or(0);
        let bad = |detail: String| Error::Header { path: self.path.clone(), detail };
        let name = self.path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let suffix = format!("-{:05}-of-{count:05}.gguf", index + 1);
        let Some(stem) = name.strip_suffix(&suffix) else {
            return Err(bad(format!("shard {} of {count} must be named `*{suffix}`", index + 1)));
        };
        if index != 0 {
            let first = format!("{stem}-00001-of-{count:05}.gguf");
            return Err(bad(format!("shard {} of {count}; give the first one, `{first}`", index + 1)));
        }
        if count > 99_999 {
            return Err(bad(format!("`split.count` is {count}")));
        }
        let shard_path = |shard| self.path.with_file_name(format!("{stem}-{shard:05}-of-{count:05}.gguf"));
        for (shard, path) in (2..=count).map(|shard| (shard, shard_path(shard))).collect::<Vec<_>>() {
            let part = read_one(InputFile::open(path)?)?;
            check_shard(self, &part, shard - 1)?;
            self.append(part)?;
        }
        Ok(())
    }

    fn append(&mut self, shard: GgufFile) -> Result<()> {
        self.tensors.extend(shard.tensors);
        self.file_bytes += shard.file_bytes;
        self.inputs.extend(shard.inputs);
        limits::check(&self.path, "tensors", self.tensors.len(), MAX_TENSORS)
    }
}

fn read_one(file: Arc<InputFile>) -> Result<GgufFile> {
    let path = file.path();
    let mut head = Head::new(&file);

    let magic = head.array::<4>("the magic")?;
    if magic != MAGIC {
        return Err(Error::BadMagic { path: path.to_path_buf(), found: magic });
    }
    let version = head.u32("the version")?;
    if (1..=3).contains(&version.swap_bytes()) {
        return Err(Error::BigEndian { path: path.to_path_buf() });
    }
    if !(2..=3).contains(&version) {
        return Err(Error::GgufVersion { path: path.to_path_buf(), version });
    }
    let tensor_count = head.u64("the tensor count")?;
    let pair_count = head.u64("the metadata count")?;

    let metadata = read_metadata(&mut head, pair_count)?;
    let alignment = read_alignment(path, &metadata)?;
    let infos = read_directory(&mut head, tensor_count)?;
    let data_start = head.position().next_multiple_of(alignment);

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
    Ok(GgufFile {
        path: path.to_path_buf(),
        version,
        alignment,
        metadata,
        tensors,
        by_name: Vec::new(),
        file_bytes: file.len(),
        broken_texts: head.into_broken_texts(),
        inputs: vec![Arc::clone(&file)],
    })
}

fn read_metadata(head: &mut Head<'_>, count: u64) -> Result<Metadata> {
    let mut pairs = Vec::new();
    for _ in 0..count {
        limits::check(head.path(), "metadata pairs", pairs.len() + 1, MAX_PAIRS)?;
        let key = head.string("a metadata key")?;
        head.charge(2 * size_of::<(String, Value)>() as u64 + allocated(key.len()))?;
        let offset = head.position();
        let type_id = head.u32("a metadata type")?;
        let kind = ValueType::from_u32(type_id)
            .map_err(|_| head.malformed(offset, format!("`{key}` has the unknown value type {type_id}")))?;
        let value = head.value(&key, kind)?;
        pairs.push((key, value));
    }
    let mut keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    keys.sort_unstable();
    if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(head.malformed(head.position(), format!("metadata key `{}` appears twice", twice[0])));
    }
    Ok(pairs.into_iter().collect())
}

fn read_alignment(path: &Path, metadata: &Metadata) -> Result<u64> {
    let Some(value) = metadata.get(ALIGNMENT_KEY) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    match metadata.unsigned(ALIGNMENT_KEY) {
        Some(n) if n.is_power_of_two() && n <= 1 << 20 => Ok(n as u64),
        _ => Err(Error::BadValue {
            path: path.to_path_buf(),
            key: ALIGNMENT_KEY.into(),
            found: value.to_string_representation(),
            expected: "a power of two".into(),
        }),
    }
}

type DirectoryRow = (String, Vec<usize>, DType, u64);

fn read_directory(head: &mut Head<'_>, count: u64) -> Result<Vec<DirectoryRow>> {
    let mut rows = Vec::new();
    for _ in 0..count {
        limits::check(head.path(), "tensors", rows.len() + 1, MAX_TENSORS)?;
        let name = head.string("a tensor name")?;
        head.charge(TENSOR_BYTES + 2 * allocated(name.len()))?;
        let offset = head.position();
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
            path: head.path().to_path_buf(),
            tensor: name.clone(),
            dtype: format!("id {id}"),
        })?;
        let data_offset = head.u64("a tensor's offset")?;
        rows.push((name, shape, dtype, data_offset));
    }
    Ok(rows)
}

/// Indices of `tensors` in the order of their names; each name appears once.
fn sorted_by_name(path: &Path, tensors: &[TensorInfo]) -> Result<Vec<u32>> {
    let name = |index: u32| tensors[index as usize].name.as_str();
    let mut sorted: Vec<u32> = (0..tensors.len() as u32).collect();
    sorted.sort_unstable_by_key(|&index| name(index));
    match sorted.windows(2).find(|pair| name(pair[0]) == name(pair[1])) {
        Some(pair) => {
            Err(Error::DuplicateTensor { path: path.to_path_buf(), tensor: name(pair[0]).to_string() })
        }
        None => Ok(sorted),
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
