//! A small matrix with rows and columns exchanged.

use std::ops::Range;

use crate::DType;
use crate::error::Result;
use crate::source::RowSource;

/// The transpose of a source of a float type, held in memory: of an adapter's matrices one side is the rank.
#[derive(Debug)]
pub(super) struct TransposedRows {
    dtype: DType,
    rows: usize,
    cols: usize,
    bytes: Vec<u8>,
}

impl TransposedRows {
    /// Reads all of `source`. Moves bytes only.
    ///
    /// # Errors
    /// Unreadable rows.
    pub fn of(source: &dyn RowSource) -> Result<TransposedRows> {
        let (dtype, rows, cols) = (source.dtype(), source.cols(), source.rows());
        let value = dtype.block_bytes();
        let mut bytes = vec![0; rows * cols * value];
        let mut row = Vec::new();
        for col in 0..cols {
            source.read_rows(col..col + 1, &mut row)?;
            for (r, v) in row.chunks_exact(value).enumerate() {
                bytes[(r * cols + col) * value..][..value].copy_from_slice(v);
            }
        }
        Ok(TransposedRows { dtype, rows, cols, bytes })
    }
}

impl RowSource for TransposedRows {
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
        let row_bytes = self.row_bytes();
        out.clear();
        out.extend_from_slice(&self.bytes[rows.start * row_bytes..rows.end * row_bytes]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_transposed_is_the_same() {
        let bytes: Vec<u8> = (0..12).collect();
        let matrix = TransposedRows { dtype: DType::F16, rows: 2, cols: 3, bytes: bytes.clone() };
        let transposed = TransposedRows::of(&matrix).expect("is read");
        assert_eq!((transposed.rows(), transposed.cols()), (3, 2));
        assert_eq!(transposed.bytes, [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]);
        assert_eq!(TransposedRows::of(&transposed).expect("is read").bytes, bytes);
    }
}
