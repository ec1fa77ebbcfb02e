//! llama.cpp's importance matrices: per matrix, sums of squares of each input column. Both forms are read: the GGUF
//! of llama-imatrix today, and the older `.dat`.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::path::Path;

use crate::DType;
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, MAGIC, TensorInfo};
use crate::limits::{self, MAX_TENSORS};
use crate::source::RowSource;

/// Sums over one matrix's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct ImatrixEntry {
    /// The matrix's GGUF name.
    pub name: String,
    /// Per column (and expert) the sum of squares.
    pub sums: Vec<f32>,
    /// By what the sums are divided, one number for each equal part of them.
    pub counts: Vec<f32>,
}

/// An importance matrix.
#[derive(Clone, Debug, PartialEq)]
pub struct Imatrix {
    /// One per matrix, in file order.
    pub entries: Vec<ImatrixEntry>,
    /// The texts it was made from.
    pub datasets: Vec<String>,
    /// Chunks of text that the sums are over.
    pub chunks: u32,
}

impl ImatrixEntry {
    /// Sums of squares and numbers of tokens are finite, and not negative.
    fn check(&self, path: &Path) -> Result<()> {
        for (values, what) in [(&self.sums, "sum"), (&self.counts, "count")] {
            if let Some(at) = values.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
                let detail = format!("`{}`: {what} number {at} is {}", self.name, values[at]);
                return Err(Error::Header { path: path.to_path_buf(), detail });
            }
        }
        Ok(())
    }
}

impl Imatrix {
    /// Reads either form.
    ///
    /// # Errors
    /// Neither form, truncation, an entry without its counts or that appears twice, values that no sum of squares has.
    pub fn open(path: impl AsRef<Path>) -> Result<Imatrix> {
        let path = path.as_ref();
        let mut magic = [0; 4];
        let mut file = std::fs::File::open(path).map_err(Error::io(path))?;
        let is_gguf = file.read_exact(&mut magic).is_ok() && magic == MAGIC;
        let imatrix = if is_gguf { from_gguf(path)? } else { from_dat(path)? };
        let mut seen = HashSet::new();
        for entry in &imatrix.entries {
            entry.check(path)?;
            if !seen.insert(entry.name.as_str()) {
                return Err(Error::DuplicateTensor { path: path.to_path_buf(), tensor: entry.name.clone() });
            }
        }
        Ok(imatrix)
    }
}

fn malformed(path: &Path, offset: u64, detail: String) -> Error {
    Error::Malformed { path: path.to_path_buf(), offset, detail }
}

fn from_gguf(path: &Path) -> Result<Imatrix> {
    let file = GgufFile::open(path)?;
    let by_name: HashMap<&str, &TensorInfo> = file.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut entries = Vec::new();
    for tensor in &file.tensors {
        let Some(name) = tensor.name.strip_suffix(".in_sum2") else { continue };
        let counts = format!("{name}.counts");
        let Some(counts) = by_name.get(counts.as_str()) else {
            return Err(Error::MissingTensor { path: path.to_path_buf(), tensor: counts });
        };
        let (sums, counts) = (read_floats(path, &tensor.data)?, read_floats(path, &counts.data)?);
        if counts.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            let detail = format!("`{name}` has {} counts for {} sums", counts.len(), sums.len());
            return Err(Error::Header { path: path.to_path_buf(), detail });
        }
        entries.push(ImatrixEntry { name: name.to_string(), sums, counts });
    }
    if entries.is_empty() {
        let detail = "no tensor is called `….in_sum2`: not an importance matrix".into();
        return Err(Error::Header { path: path.to_path_buf(), detail });
    }
    let key = "imatrix.chunk_count";
    let chunks = file.metadata.unsigned(key);
    let chunks = chunks.ok_or_else(|| Error::MissingKey { path: path.to_path_buf(), key: key.into() })?;
    let datasets = file.metadata.strings("imatrix.datasets").unwrap_or_default();
    let datasets = datasets.into_iter().map(str::to_string).collect();
    Ok(Imatrix { entries, datasets, chunks: chunks.try_into().unwrap_or(u32::MAX) })
}

/// All values of a stored f32 tensor.
///
/// # Errors
/// Another type, or what reading says.
pub fn read_floats(path: &Path, data: &crate::source::StoredTensor) -> Result<Vec<f32>> {
    if data.dtype() != DType::F32 {
        let dtype = data.dtype().to_string();
        return Err(Error::TensorType { path: path.to_path_buf(), tensor: data.name().to_string(), dtype });
    }
    let mut bytes = Vec::new();
    data.read_rows(0..data.rows(), &mut bytes)?;
    Ok(floats(&bytes))
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect()
}

/// `entries: i32`, then for each `name length: i32, name, calls: i32, values: i32, f32…`; where the file is newer,
/// `chunks: i32, length: i32, dataset`.
fn from_dat(path: &Path) -> Result<Imatrix> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let mut reader = DatReader { path, bytes: &bytes, at: 0 };
    let count = reader.length("the number of entries")?;
    limits::check(path, "matrices", count, MAX_TENSORS)?;
    let mut entries = Vec::new();
    for _ in 0..count {
        let length = reader.length("a name's length")?;
        let name = String::from_utf8_lossy(reader.take(length)?).into_owned();
        let calls = reader.length("a number of calls")?;
        let values = reader.length("a number of values")?;
        let at = reader.at as u64;
        let size = values.checked_mul(4).ok_or_else(|| malformed(path, at, "too many values".into()))?;
        let sums = floats(reader.take(size)?);
        let counts = vec![if calls > 0 { calls as f32 } else { 1.0 }];
        entries.push(ImatrixEntry { name, sums, counts });
    }
    if entries.is_empty() {
        return Err(malformed(path, 0, "no entries: not an importance matrix".into()));
    }
    let mut imatrix = Imatrix { entries, datasets: Vec::new(), chunks: 0 };
    if reader.at < bytes.len() {
        imatrix.chunks = reader.length("the number of chunks")? as u32;
        let length = reader.length("the dataset's length")?;
        imatrix.datasets.push(String::from_utf8_lossy(reader.take(length)?).into_owned());
    }
    Ok(imatrix)
}

struct DatReader<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> DatReader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(length).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| Error::Truncated {
            path: self.path.to_path_buf(),
            what: "an importance matrix's entry".into(),
            end: (self.at as u64).saturating_add(length as u64),
            len: self.bytes.len() as u64,
        })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn length(&mut self, what: &str) -> Result<usize> {
        let at = self.at as u64;
        let bytes = self.take(4)?;
        let value = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        usize::try_from(value).map_err(|_| malformed(self.path, at, format!("{what} is {value}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn golden(name: &str) -> Imatrix {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden");
        Imatrix::open(folder.join(name)).expect("llama-imatrix wrote it")
    }

    #[test]
    fn both_forms_hold_the_same_means() {
        let (new, old) = (golden("imatrix.gguf"), golden("imatrix.dat"));
        assert_eq!(new.entries.len(), 36);
        assert_eq!(old.entries.len(), 36);
        assert_eq!(new.chunks, old.chunks);
        for entry in &new.entries {
            let other = old.entries.iter().find(|e| e.name == entry.name).expect("the same matrices");
            for (a, b) in entry.sums.iter().zip(&other.sums) {
                let (a, b) = (a / entry.counts[0], b / other.counts[0]);
                assert!((a - b).abs() <= 1e-6 * a.abs(), "{}: {a} {b}", entry.name);
            }
        }
    }

    #[test]
    fn damaged_files_are_refused() {
        let bytes =
            std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden/imatrix.dat"))
                .expect("a fixture");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("imatrix.dat");
        for cut in [2, 4, 10, 100, bytes.len() - 3] {
            std::fs::write(&path, &bytes[..cut]).expect("writable");
            assert!(matches!(Imatrix::open(&path), Err(Error::Truncated { .. })), "{cut}");
        }
        std::fs::write(&path, [0; 4]).expect("writable");
        assert!(matches!(Imatrix::open(&path), Err(Error::Malformed { .. })));
        std::fs::write(&path, [255; 8]).expect("writable");
        assert!(matches!(Imatrix::open(&path), Err(Error::Malformed { .. })));
    }
}
