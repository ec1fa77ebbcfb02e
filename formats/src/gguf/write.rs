//! The head of a GGUF file and where each tensor's data will be, known before a byte is written.

use super::{DEFAULT_ALIGNMENT, MAGIC, Metadata, VERSION};
use crate::DType;
use crate::error::{Error, Result};
use crate::source::rows_and_columns;

/// A tensor to be written.
#[derive(Clone, Debug)]
pub struct DirectoryEntry {
    /// Its name in the file.
    pub name: String,
    /// How its values are encoded.
    pub dtype: DType,
    /// Row-major: the slowest axis first.
    pub shape: Vec<usize>,
    /// Bytes from the start of the file to the data.
    pub offset: u64,
    /// Bytes of data.
    pub bytes: u64,
}

/// Layout of a whole GGUF file: its head in bytes, each tensor's place, the total size.
#[derive(Debug)]
pub struct Directory {
    /// The tensors, in file order.
    pub entries: Vec<DirectoryEntry>,
    /// Everything before the data, padding included.
    pub head: Vec<u8>,
    /// Bytes of the whole file.
    pub file_bytes: u64,
}

impl Directory {
    /// Lays out a file with these tensors in this order, aligned to [`DEFAULT_ALIGNMENT`]: metadata of another file
    /// comes [without its layout](Metadata::without_layout).
    ///
    /// # Errors
    /// A tensor whose rows are not whole blocks of its type, or sizes that overflow; metadata that GGUF
    /// cannot hold.
    pub fn new(
        metadata: &Metadata,
        tensors: impl IntoIterator<Item = (String, DType, Vec<usize>)>,
    ) -> Result<Directory> {
        let mut next = 0u64;
        let mut entries = Vec::new();
        for (name, dtype, shape) in tensors {
            let bytes = data_len(&name, dtype, &shape)?;
            entries.push(DirectoryEntry { name, dtype, shape, offset: next, bytes });
            next = (next + bytes).next_multiple_of(DEFAULT_ALIGNMENT);
        }
        let head = encode_head(metadata, &entries)?;
        for entry in &mut entries {
            entry.offset += head.len() as u64;
        }
        Ok(Directory { entries, file_bytes: head.len() as u64 + next, head })
    }
}

/// Bytes of a tensor's data.
fn data_len(name: &str, dtype: DType, shape: &[usize]) -> Result<u64> {
    let overflow = || Error::TensorSize { tensor: name.to_string() };
    let [rows, cols] = rows_and_columns(shape).ok_or_else(overflow)?;
    let row_bytes = dtype.encoded_len(cols).ok_or_else(|| Error::RowLength {
        tensor: name.to_string(),
        cols,
        dtype,
        block: dtype.block_len(),
    })?;
    Ok(rows.checked_mul(row_bytes).ok_or_else(overflow)? as u64)
}

/// Header, metadata and directory, padded to the alignment. Offsets in it count from the start of the data.
fn encode_head(metadata: &Metadata, entries: &[DirectoryEntry]) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    head.extend_from_slice(&MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(entries.len() as u64).to_le_bytes());
    head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut head, key);
        head.extend_from_slice(&(value.value_type() as u32).to_le_bytes());
        value
            .write_to(&mut head)
            .map_err(|e| Error::Metadata { key: key.to_string(), detail: e.to_string() })?;
    }
    for entry in entries {
        put_string(&mut head, &entry.name);
        head.extend_from_slice(&(entry.shape.len() as u32).to_le_bytes());
        for &n in entry.shape.iter().rev() {
            head.extend_from_slice(&(n as u64).to_le_bytes());
        }
        head.extend_from_slice(&entry.dtype.ggml_id().to_le_bytes());
        head.extend_from_slice(&entry.offset.to_le_bytes());
    }
    let padded = (head.len() as u64).next_multiple_of(DEFAULT_ALIGNMENT) as usize;
    head.resize(padded, 0);
    Ok(head)
}

fn put_string(out: &mut Vec<u8>, s: &str) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s.as_bytes());
}
