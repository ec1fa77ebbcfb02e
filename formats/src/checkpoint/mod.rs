//! A Hugging Face folder to be written: where each tensor goes, and every file but the tensors' data.
//!
//! Shards are named as the hub names them; `model.safetensors.index.json` says which tensor is in which. Each file's
//! `__metadata__` holds `format: pt`, which transformers wants, and `writer: plmconv`, by which an earlier folder is told
//! from any other.

mod earlier;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::DType;
use crate::error::{Error, Result};
use crate::model::{Model, TensorKey};
use crate::onnx::{Companion, Companions, checkpoint_companions};

pub use earlier::may_replace;

/// Key and value in a safetensors file's `__metadata__`.
const WRITER: (&str, &str) = ("writer", "plmconv");
const INDEX: &str = "model.safetensors.index.json";
/// What the hub cuts at.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// A folder as it will be.
#[derive(Debug)]
pub struct Checkpoint {
    /// In their order.
    pub shards: Vec<Shard>,
    /// In the model's order.
    pub tensors: Vec<CheckpointTensor>,
    /// Config, tokenizer and index.
    pub files: Vec<Companion>,
    /// What its user should know of.
    pub warnings: Vec<crate::Warning>,
}

/// One safetensors file.
#[derive(Debug)]
pub struct Shard {
    /// Its name in the folder.
    pub name: PathBuf,
    /// All before the data: the header's length and the header.
    pub head: Vec<u8>,
    /// Of the whole file.
    pub bytes: u64,
}

/// A tensor's place.
#[derive(Clone, Debug)]
pub struct CheckpointTensor {
    /// Which tensor of the model it is.
    pub key: TensorKey,
    /// Its published name.
    pub name: String,
    /// Row-major: the slowest axis first.
    pub shape: Vec<usize>,
    /// Which of the shards, from 0.
    pub shard: usize,
    /// Bytes from the start of that file.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

impl Checkpoint {
    /// Lays out a folder whose tensors are all `dtype` (F32, F16 or BF16), in files of at most `shard_bytes` of data where
    /// no single tensor is larger.
    ///
    /// # Errors
    /// A tensor that has no published name or whose size overflows; files of the model that cannot be read.
    pub fn new(model: &Model, dtype: DType, shard_bytes: u64) -> Result<Checkpoint> {
        let mut tensors = Vec::new();
        let (mut shard, mut end) = (0, 0u64);
        for tensor in &model.tensors {
            let name = tensor.key.hugging_face_name();
            let name = name.ok_or_else(|| Error::NoPublishedName { tensor: tensor.key.gguf_name() })?;
            let size = || dtype.encoded_len(tensor.values()).map(|bytes| bytes as u64);
            let bytes = size().ok_or_else(|| Error::TensorSize { tensor: name.clone() })?;
            if end > 0 && end + bytes > shard_bytes {
                (shard, end) = (shard + 1, 0);
            }
            let shape = tensor.shape.clone();
            tensors.push(CheckpointTensor { key: tensor.key, name, shape, shard, offset: end, bytes });
            end += bytes;
        }
        let count = shard + 1;
        let shards: Vec<Shard> = (0..count).map(|index| Shard::new(&tensors, dtype, index, count)).collect();
        for tensor in &mut tensors {
            tensor.offset += shards[tensor.shard].head.len() as u64;
        }
        let Companions { mut files, warnings } = checkpoint_companions(model, dtype)?;
        if count > 1 {
            files.push(index(&tensors, &shards));
        }
        Ok(Checkpoint { shards, tensors, files, warnings })
    }
}

impl Shard {
    /// Of `tensors`, whose offsets are still those in the data, those of shard `index` of `count`.
    fn new(tensors: &[CheckpointTensor], dtype: DType, index: usize, count: usize) -> Shard {
        let name = match count {
            1 => "model.safetensors".to_string(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", index + 1),
        };
        let mut header = Map::new();
        header.insert("__metadata__".into(), json!({ "format": "pt", (WRITER.0): WRITER.1 }));
        let mut end = 0;
        for tensor in tensors.iter().filter(|tensor| tensor.shard == index) {
            end = tensor.offset + tensor.bytes;
            header.insert(
                tensor.name.clone(),
                json!({ "dtype": dtype.name(), "shape": tensor.shape, "data_offsets": [tensor.offset, end] }),
            );
        }
        let mut json = Value::Object(header).to_string().into_bytes();
        // Data starts at a multiple of eight bytes.
        json.resize(json.len().next_multiple_of(8), b' ');
        let mut head = (json.len() as u64).to_le_bytes().to_vec();
        head.extend_from_slice(&json);
        let bytes = head.len() as u64 + end;
        Shard { name: name.into(), head, bytes }
    }
}

fn index(tensors: &[CheckpointTensor], shards: &[Shard]) -> Companion {
    let total: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    let file =
        |tensor: &CheckpointTensor| Value::from(shards[tensor.shard].name.to_string_lossy().into_owned());
    let map: Map<String, Value> = tensors.iter().map(|tensor| (tensor.name.clone(), file(tensor))).collect();
    Companion::json(INDEX, &json!({ "metadata": { "total_size": total }, "weight_map": map }))
}
