//! Where a tensor's values come from: rows of encoded bytes, read on demand.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::DType;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;

/// A matrix that can be read some rows at a time. A model is made of these, so no stage ever holds a
/// whole model: it asks for the rows it works on and lets go of them.
///
/// A pass that rewrites weights wraps the source it rewrites; what it yields is again encoded rows.
pub trait RowSource: fmt::Debug + Send + Sync {
    /// The type that [`read_rows`](Self::read_rows) yields.
    fn dtype(&self) -> DType;
    /// Number of rows. A tensor of more than two axes counts all but its last as rows.
    fn rows(&self) -> usize;
    /// Values per row.
    fn cols(&self) -> usize;
    /// Replaces `out` by the encoded bytes of `rows`, row-major, in [`dtype`](Self::dtype).
    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()>;

    /// Encoded bytes of one row.
    fn row_bytes(&self) -> usize {
        self.dtype()
            .encoded_len(self.cols())
            .expect("a source's rows are whole blocks, checked on construction")
    }

    /// Encoded bytes of all rows.
    fn stored_bytes(&self) -> u64 {
        (self.row_bytes() * self.rows()) as u64
    }
}

/// A row-major shape as rows and columns: the last axis is the columns, all others together are the rows, and a
/// vector is one row. `None` if the number of rows overflows.
pub(crate) fn rows_and_columns(shape: &[usize]) -> Option<[usize; 2]> {
    let (&columns, outer) = shape.split_last().unwrap_or((&1, &[]));
    let rows = outer.iter().try_fold(1usize, |product, &axis| product.checked_mul(axis))?;
    Some([rows, columns])
}

/// An open model file. Reads are positional, so threads share it without a lock and nothing is mapped:
/// the resident set stays at what the stages hold, and a file truncated meanwhile is an error, not a signal.
#[derive(Debug)]
pub struct InputFile {
    path: PathBuf,
    file: File,
    len: u64,
    fingerprint: Option<Fingerprint>,
}

impl InputFile {
    /// Opens `path` for positional reads.
    ///
    /// # Errors
    /// What is not a regular file, and two things that are often where a file should be: a git-lfs pointer and a web
    /// page.
    pub fn open(path: impl Into<PathBuf>) -> Result<Arc<InputFile>> {
        let path = path.into();
        // Before it is opened: that would wait for someone to write into a pipe.
        let metadata = std::fs::metadata(&path).map_err(Error::io(&path))?;
        if let Some(kind) = irregular(metadata.file_type()) {
            return Err(Error::NotAFile { path, kind });
        }
        let file = File::open(&path).map_err(Error::io(&path))?;
        let file = InputFile::from_file(path, file)?;
        file.refuse_stand_ins()?;
        Ok(file)
    }

    /// A file that is open already, such as an output that has no name yet; errors call it `path`.
    pub fn from_file(path: impl Into<PathBuf>, file: File) -> Result<Arc<InputFile>> {
        let path = path.into();
        let metadata = file.metadata().map_err(Error::io(&path))?;
        let fingerprint = Fingerprint::from_metadata(&path, &metadata);
        Ok(Arc::new(InputFile { len: metadata.len(), path, file, fingerprint }))
    }

    /// What it was when it was opened; `None` of what is not a regular file.
    pub fn fingerprint(&self) -> Option<&Fingerprint> {
        self.fingerprint.as_ref()
    }

    fn refuse_stand_ins(&self) -> Result<()> {
        let mut start = [0; 64];
        let start = &mut start[..self.len.min(64) as usize];
        self.read_exact_at(start, 0)?;
        if start.starts_with(b"version https://git-lfs.github.com/spec/") {
            return Err(Error::LfsPointer { path: self.path.clone() });
        }
        let text = start.trim_ascii_start().to_ascii_lowercase();
        if [&b"<!doctype html"[..], b"<html>", b"<html "].iter().any(|tag| text.starts_with(tag)) {
            return Err(Error::WebPage { path: self.path.clone() });
        }
        Ok(())
    }

    /// The path it was opened by.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Length in bytes when it was opened.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from byte `offset` on.
    pub fn read_exact_at(&self, out: &mut [u8], offset: u64) -> Result<()> {
        read_exact_at(&self.file, out, offset).map_err(|source| match source.kind() {
            std::io::ErrorKind::UnexpectedEof => Error::Truncated {
                path: self.path.clone(),
                what: "a read".into(),
                end: offset + out.len() as u64,
                len: self.len,
            },
            _ => Error::Io { path: self.path.clone(), source },
        })
    }
}

/// What a path names that no model file can be.
fn irregular(kind: std::fs::FileType) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a pipe");
        }
        if kind.is_char_device() || kind.is_block_device() {
            return Some("a device");
        }
        if kind.is_socket() {
            return Some("a socket");
        }
    }
    if kind.is_dir() { Some("a folder") } else { None }
}

#[cfg(unix)]
fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut out: &mut [u8], mut offset: u64) -> std::io::Result<()> {
    while !out.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, out, offset)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => {
                out = &mut out[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// A tensor that lies in a file as it is.
#[derive(Clone, Debug)]
pub struct StoredTensor {
    file: Arc<InputFile>,
    name: String,
    dtype: DType,
    rows: usize,
    cols: usize,
    offset: u64,
}

impl StoredTensor {
    /// A tensor of `shape` (row-major) whose first byte lies at `offset` of `file`.
    ///
    /// # Errors
    /// Rows that are not whole blocks, sizes that overflow, bytes past the end of the file.
    pub fn new(
        file: Arc<InputFile>,
        name: impl Into<String>,
        dtype: DType,
        shape: &[usize],
        offset: u64,
    ) -> Result<StoredTensor> {
        let name = name.into();
        let overflow = || Error::OffsetOverflow {
            path: file.path.clone(),
            tensor: name.clone(),
            offset,
            bytes: u64::MAX,
        };
        let [rows, cols] = rows_and_columns(shape).ok_or_else(overflow)?;
        let row_bytes = dtype.encoded_len(cols).ok_or_else(|| Error::RowLength {
            tensor: name.clone(),
            cols,
            dtype,
            block: dtype.block_len(),
        })?;
        let bytes = row_bytes.checked_mul(rows).ok_or_else(overflow)? as u64;
        let end = offset.checked_add(bytes).ok_or_else(overflow)?;
        if end > file.len {
            return Err(Error::Truncated {
                path: file.path.clone(),
                what: format!("tensor `{name}`"),
                end,
                len: file.len,
            });
        }
        Ok(StoredTensor { file, name, dtype, rows, cols, offset })
    }

    /// The name it has in its file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file it lies in.
    pub fn file(&self) -> &Arc<InputFile> {
        &self.file
    }

    /// Offset of its first byte.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// All its bytes' count.
    pub fn byte_len(&self) -> u64 {
        (self.row_bytes() * self.rows) as u64
    }

    /// Some runs of whole blocks, spread evenly from the first to the last; together all of a small tensor, and
    /// bounded whatever its size. Offsets count from the start of the file.
    pub fn sample(&self) -> impl Iterator<Item = Range<u64>> + use<> {
        let block = self.dtype.block_bytes() as u64;
        let run = (SAMPLE_BYTES / block).max(1) * block;
        let (offset, len) = (self.offset, self.byte_len());
        let runs = len.div_ceil(run).min(SAMPLE_RUNS);
        (0..runs).map(move |i| {
            let last = len.saturating_sub(run) / block;
            let start = offset + if runs == 1 { 0 } else { last * i / (runs - 1) * block };
            start..(start + run).min(offset + len)
        })
    }
}

/// Of a sample: how many runs, and the length of one. Full-size models have some hundred tensors, so all of it stays
/// in a few megabytes.
const SAMPLE_RUNS: u64 = 16;
const SAMPLE_BYTES: u64 = 4096;

impl RowSource for StoredTensor {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let row_bytes = self.row_bytes();
        out.resize(rows.len() * row_bytes, 0);
        self.file.read_exact_at(out, self.offset + (rows.start * row_bytes) as u64)
    }
}

/// A tensor of doubles, each rounded to the nearest f32 as PyTorch and llama.cpp's converter do. No format that is
/// written has doubles.
#[derive(Debug)]
pub struct RoundedDoubles {
    doubles: StoredTensor,
}

impl RoundedDoubles {
    /// The rows of `doubles`, which are F64, as F32.
    pub fn new(doubles: StoredTensor) -> RoundedDoubles {
        assert_eq!(doubles.dtype(), DType::F64, "only doubles are rounded");
        RoundedDoubles { doubles }
    }
}

impl RowSource for RoundedDoubles {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn rows(&self) -> usize {
        self.doubles.rows()
    }

    fn cols(&self) -> usize {
        self.doubles.cols()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        self.doubles.read_rows(rows, out)?;
        let (half, mut at) = (out.len() / 2, 0);
        while at < half {
            let double: [u8; 8] = out[2 * at..2 * at + 8].try_into().expect("eight bytes");
            out[at..at + 4].copy_from_slice(&(f64::from_le_bytes(double) as f32).to_le_bytes());
            at += 4;
        }
        out.truncate(half);
        Ok(())
    }
}

/// The rows of another source in another order (or a selection of them). Moves bytes only.
#[derive(Debug)]
pub struct GatheredRows {
    source: Arc<dyn RowSource>,
    order: Vec<u32>,
}

impl GatheredRows {
    /// Row `r` of the result is row `order[r]` of `source`.
    pub fn new(source: Arc<dyn RowSource>, order: Vec<u32>) -> GatheredRows {
        assert!(order.iter().all(|&r| (r as usize) < source.rows()), "gather order points past the last row");
        GatheredRows { source, order }
    }
}

impl RowSource for GatheredRows {
    fn dtype(&self) -> DType {
        self.source.dtype()
    }

    fn rows(&self) -> usize {
        self.order.len()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let mut row = Vec::new();
        for &r in &self.order[rows] {
            self.source.read_rows(r as usize..r as usize + 1, &mut row)?;
            out.extend_from_slice(&row);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_whole_blocks_from_the_first_to_the_last() {
        let file = tempfile::NamedTempFile::new().expect("file");
        file.as_file().set_len(1 << 22).expect("sparse");
        let input = InputFile::open(file.path()).expect("opens");
        for (dtype, shape) in [
            (DType::F32, vec![1]),
            (DType::F32, vec![3, 5000]),
            (DType::Q4K, vec![700, 1024]),
            (DType::Q8_0, vec![1, 32]),
        ] {
            let tensor = StoredTensor::new(Arc::clone(&input), "t", dtype, &shape, 96).expect("inside");
            let runs: Vec<_> = tensor.sample().collect();
            let end = 96 + tensor.byte_len();
            assert_eq!((runs[0].start, runs.last().expect("some").end), (96, end), "{shape:?}");
            assert!(runs.len() <= 16);
            let block = dtype.block_bytes() as u64;
            for run in runs {
                assert!(run.start < run.end && run.end <= end);
                assert_eq!(((run.start - 96) % block, (run.end - run.start) % block), (0, 0), "{shape:?}");
            }
        }
    }

    #[test]
    fn the_last_axis_is_the_columns() {
        for (shape, expected) in [
            (&[][..], Some([1, 1])),
            (&[7], Some([1, 7])),
            (&[3, 7], Some([3, 7])),
            (&[2, 3, 7], Some([6, 7])),
            (&[0, 7], Some([0, 7])),
            (&[usize::MAX, 2, 7], None),
        ] {
            assert_eq!(rows_and_columns(shape), expected, "{shape:?}");
        }
    }
}
