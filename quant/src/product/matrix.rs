//! Operands: a rectangle of values, in either order.

use std::ops::Range;

/// A matrix that lies in a slice, row by row or (transposed) column by column.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a, T> {
    values: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T: Copy> Matrix<'a, T> {
    /// `rows` rows of `cols` values, one after another.
    ///
    /// # Panics
    /// If there are not as many values.
    pub fn new(values: &'a [T], rows: usize, cols: usize) -> Matrix<'a, T> {
        assert_eq!(values.len(), rows * cols);
        Matrix { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The same values, rows as columns.
    pub fn transposed(self) -> Matrix<'a, T> {
        let Matrix { values, rows, cols, row_stride, col_stride } = self;
        Matrix { values, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// Some of the rows.
    ///
    /// # Panics
    /// If the range is not within them.
    pub fn rows_of(self, rows: Range<usize>) -> Matrix<'a, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows);
        let start = (rows.start * self.row_stride).min(self.values.len());
        Matrix { values: &self.values[start..], rows: rows.len(), ..self }
    }

    /// Some of the columns.
    ///
    /// # Panics
    /// If the range is not within them.
    pub fn columns(self, columns: Range<usize>) -> Matrix<'a, T> {
        self.transposed().rows_of(columns).transposed()
    }

    /// One value.
    pub(super) fn at(&self, row: usize, col: usize) -> T {
        self.values[row * self.row_stride + col * self.col_stride]
    }

    /// Row `row`, if its values lie one after another.
    pub(super) fn row(&self, row: usize) -> Option<&'a [T]> {
        (self.col_stride == 1).then(|| &self.values[row * self.row_stride..][..self.cols])
    }
}
