//! External data: what goes into it and where, known before a byte is written.

use std::ops::Range;
use std::sync::Arc;

use super::proto::{ElementType, StringStringEntryProto, TensorProto};
use super::spec::{BlockFormat, ExportSpec, QuantFormat};
use crate::DType;
use crate::error::Result;
use crate::model::TensorKey;
use crate::source::RowSource;

/// Tensors of at least this size start on a page, so that a runtime can map them.
const PAGE_ALIGNED_FROM: u64 = 64 << 10;
const PAGE: u64 = 4096;
const SMALL_ALIGNMENT: u64 = 64;

/// A run of bytes in one of the external data files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which file, see [`ExportSpec::data_name`].
    pub file: usize,
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// Where a tensor of so many bytes may start.
fn alignment(bytes: u64) -> u64 {
    if bytes >= PAGE_ALIGNED_FROM { PAGE } else { SMALL_ALIGNMENT }
}

impl Place {
    /// Length with the gap behind it, if a tensor of its size follows.
    pub fn aligned_bytes(self) -> u64 {
        self.bytes.next_multiple_of(alignment(self.bytes))
    }
}

/// One weight to be read, transformed and written.
#[derive(Clone, Debug)]
pub struct DataItem {
    /// The initializer's name.
    pub name: String,
    /// The checkpoint tensor it is made of, and `rows x cols` values of it.
    pub key: TensorKey,
    /// Where the values are read from.
    pub source: Arc<dyn RowSource>,
    /// Values are multiplied by two to this power.
    pub exponent: i32,
    /// The source's rows are the checkpoint tensor's columns.
    pub transposed: bool,
    /// How they are written, and where.
    pub content: Content,
}

/// In which form a weight's values are written.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each variant says what its places hold")]
pub enum Content {
    /// Row-major values.
    Float { dtype: DType, place: Place },
    /// As MatMulNBits wants: codes `[rows, blocks, block_bytes]`, scales `[rows, blocks]`, zero points
    /// `[rows, zero_point_bytes]`.
    NBits { format: BlockFormat, scale_type: DType, codes: Place, scales: Place, zero_points: Option<Place> },
    /// As blocked DequantizeLinear on axis 0 wants: codes `[cols, rows]`, scales `[blocks, rows]`, zero
    /// points like scales; 4-bit values are packed two to a byte over the flattened tensor.
    Qdq { format: BlockFormat, scale_type: DType, codes: Place, scales: Place, zero_points: Option<Place> },
}

/// Constant bytes in the external data.
#[derive(Clone, Debug)]
pub struct Literal {
    /// As they are written.
    pub bytes: Vec<u8>,
    /// Where they are written.
    pub place: Place,
}

/// Hands out places one after the other.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// Bytes so far, per file.
    pub file_bytes: Vec<u64>,
}

impl Places {
    pub(super) fn next(&mut self, bytes: u64, max_file: u64) -> Place {
        let alignment = alignment(bytes);
        let last = self.file_bytes.last().map(|end| end.next_multiple_of(alignment));
        let offset = match last {
            Some(offset) if offset == 0 || offset.saturating_add(bytes) <= max_file => offset,
            _ => {
                self.file_bytes.push(0);
                0
            }
        };
        let file = self.file_bytes.len() - 1;
        self.file_bytes[file] = offset + bytes;
        Place { file, offset, bytes }
    }
}

/// An initializer whose bytes lie at `place`.
pub(super) fn external_tensor(
    spec: &ExportSpec,
    name: &str,
    element: ElementType,
    dims: &[usize],
    place: Place,
) -> TensorProto {
    TensorProto {
        dims: dims.iter().map(|&n| n as i64).collect(),
        data_type: Some(element as i32),
        name: Some(name.into()),
        raw_data: None,
        external_data: vec![
            StringStringEntryProto::new("location", spec.data_name(place.file)),
            StringStringEntryProto::new("offset", place.offset),
            StringStringEntryProto::new("length", place.bytes),
        ],
        data_location: Some(1),
    }
}

impl DataItem {
    /// Total bytes that are written.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Float { place, .. } => place.bytes,
            Content::NBits { codes, scales, zero_points, .. }
            | Content::Qdq { codes, scales, zero_points, .. } => {
                codes.bytes + scales.bytes + zero_points.map_or(0, |z| z.bytes)
            }
        }
    }
}

/// Where the parts of a block-quantized weight of `rows x cols` values are.
pub(super) fn place_blocks(
    places: &mut Places,
    max_file: u64,
    quant_format: QuantFormat,
    format: BlockFormat,
    scale_type: DType,
    [rows, cols]: [usize; 2],
) -> Content {
    let blocks = format.blocks(cols);
    let scale_bytes = (rows * blocks * scale_type.block_bytes()) as u64;
    let packed = |values: usize| (values * format.bits).div_ceil(8) as u64;
    match quant_format {
        QuantFormat::NBits => Content::NBits {
            format,
            scale_type,
            codes: places.next((rows * blocks * format.block_bytes()) as u64, max_file),
            scales: places.next(scale_bytes, max_file),
            zero_points: (!format.symmetric)
                .then(|| places.next((rows * format.zero_point_bytes(cols)) as u64, max_file)),
        },
        QuantFormat::Qdq => Content::Qdq {
            format,
            scale_type,
            codes: places.next(packed(rows * cols), max_file),
            scales: places.next(scale_bytes, max_file),
            zero_points: (!format.symmetric).then(|| places.next(packed(rows * blocks), max_file)),
        },
    }
}

/// The rows of some heads of a matrix that holds several parts per head, optionally each head transposed.
/// Moves bytes only.
#[derive(Debug)]
pub struct HeadBlocks {
    /// The matrix with all heads.
    pub source: Arc<dyn RowSource>,
    /// Which heads are taken.
    pub heads: Range<usize>,
    /// Rows of the source per head, and which of them are taken.
    pub rows_per_head: usize,
    /// Rows within a head.
    pub part: Range<usize>,
    /// Whether each head's rows and columns change places.
    pub transposed: bool,
}

impl HeadBlocks {
    fn head_rows(&self) -> usize {
        if self.transposed { self.source.cols() } else { self.part.len() }
    }

    /// One head's block as it is stored.
    fn read_head(&self, head: usize, part: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let first = (self.heads.start + head) * self.rows_per_head + self.part.start;
        self.source.read_rows(first + part.start..first + part.end, out)
    }
}

impl RowSource for HeadBlocks {
    fn dtype(&self) -> DType {
        self.source.dtype()
    }

    fn rows(&self) -> usize {
        self.heads.len() * self.head_rows()
    }

    fn cols(&self) -> usize {
        if self.transposed { self.part.len() } else { self.source.cols() }
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let mut block = Vec::new();
        let mut next = rows.start;
        while next < rows.end {
            let (head, within) = (next / self.head_rows(), next % self.head_rows());
            let end = (within + rows.end - next).min(self.head_rows());
            if self.transposed {
                self.read_head(head, 0..self.part.len(), &mut block)?;
                let size = self.dtype().block_bytes();
                for col in within..end {
                    let column = block.chunks_exact(self.source.row_bytes());
                    out.extend(column.flat_map(|row| &row[col * size..(col + 1) * size]));
                }
            } else {
                self.read_head(head, within..end, &mut block)?;
                out.extend_from_slice(&block);
            }
            next += end - within;
        }
        Ok(())
    }
}
