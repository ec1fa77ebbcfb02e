//! Matrices computed from others: what a pass puts in a tensor's place.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use plmconv_formats::model::Tensor;
use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Error, Result, TensorKey};
use plmconv_quant::codec;

/// A matrix whose rows are computed in f32 when they are asked for.
pub trait Values: fmt::Debug + Send + Sync {
    /// Number of rows.
    fn rows(&self) -> usize;
    /// Values per row.
    fn cols(&self) -> usize;
    /// Replaces `out` by `rows`, row-major.
    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()>;
}

/// Any source, decoded. Carries the tensor's identity for messages.
#[derive(Clone, Debug)]
pub struct Decoded {
    pub key: TensorKey,
    pub source: Arc<dyn RowSource>,
}

impl Decoded {
    /// The values of a model's tensor.
    pub fn of(tensor: &Tensor) -> Decoded {
        Decoded { key: tensor.key, source: Arc::clone(&tensor.source) }
    }

    /// All of them, row-major.
    pub fn read_all(&self) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        self.read(0..self.rows(), &mut out)?;
        Ok(out)
    }
}

impl Values for Decoded {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let mut bytes = Vec::new();
        out.clear();
        out.resize(rows.len() * self.cols(), 0.0);
        self.source.read_rows(rows, &mut bytes)?;
        codec::decode(self.source.dtype(), &bytes, out).map_err(|e| rewrite_error(self.key, e))
    }
}

/// Computed values as a tensor's source.
#[derive(Debug)]
struct Computed<V> {
    key: TensorKey,
    dtype: DType,
    values: V,
}

impl<V: Values> RowSource for Computed<V> {
    fn dtype(&self) -> DType {
        self.dtype
    }

    fn rows(&self) -> usize {
        self.values.rows()
    }

    fn cols(&self) -> usize {
        self.values.cols()
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        let mut values = Vec::new();
        self.values.read(rows, &mut values)?;
        out.clear();
        out.resize(self.dtype.encoded_len(values.len()).expect("float types have blocks of one"), 0);
        codec::encode_rows(self.dtype, &values, self.cols(), None, out)
            .map_err(|e| rewrite_error(self.key, e))
    }
}

/// How much of the source's type a computation keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exact {
    /// Values only move: any float type stays.
    Moved,
    /// Values are multiplied by powers of two: types with an 8-bit exponent stay.
    PowerOfTwo,
    /// Values are rounded: f32.
    No,
}

/// The float type in which values computed from `source` are yielded: its own where that loses nothing.
fn yielded(source: DType, exact: Exact) -> DType {
    match (source, exact) {
        (DType::F32 | DType::Bf16, Exact::Moved | Exact::PowerOfTwo) | (DType::F16, Exact::Moved) => source,
        _ => DType::F32,
    }
}

/// A source that yields `values`, which were computed from a tensor of type `from`.
pub fn source(
    key: TensorKey,
    from: DType,
    exact: Exact,
    values: impl Values + 'static,
) -> Arc<dyn RowSource> {
    Arc::new(Computed { key, dtype: yielded(from, exact), values })
}

/// Puts computed values in a tensor's place; its shape stays.
pub fn replace<V: Values + 'static>(tensor: &mut Tensor, exact: Exact, rewrite: impl FnOnce(Decoded) -> V) {
    let from = tensor.source.dtype();
    tensor.source = source(tensor.key, from, exact, rewrite(Decoded::of(tensor)));
}

/// A codec's refusal, as an error that names the tensor.
pub fn rewrite_error(key: TensorKey, error: plmconv_quant::Error) -> Error {
    Error::Rewrite { tensor: key.gguf_name(), detail: error.to_string() }
}

/// Rows and columns multiplied by factors.
#[derive(Debug)]
pub struct Scaled {
    pub source: Decoded,
    /// One for all values.
    pub factor: f32,
    /// `[rows]`, if rows have factors of their own.
    pub row_factors: Option<Arc<[f32]>>,
    /// `[cols]`, if columns have factors of their own.
    pub column_factors: Option<Arc<[f32]>>,
}

impl Scaled {
    /// All values times `factor`.
    pub fn by(source: Decoded, factor: f32) -> Scaled {
        Scaled { source, factor, row_factors: None, column_factors: None }
    }
}

impl Values for Scaled {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        self.source.read(rows.clone(), out)?;
        for (row, values) in rows.zip(out.chunks_exact_mut(self.source.cols())) {
            let factor = self.factor * self.row_factors.as_ref().map_or(1.0, |f| f[row]);
            values.iter_mut().for_each(|v| *v *= factor);
            if let Some(factors) = &self.column_factors {
                values.iter_mut().zip(factors.iter()).for_each(|(v, f)| *v *= f);
            }
        }
        Ok(())
    }
}

/// Columns in another order.
#[derive(Debug)]
pub struct PermutedColumns {
    pub source: Decoded,
    /// `[cols]`: column `c` of the result is column `order[c]` of the source.
    pub order: Arc<[u32]>,
}

impl Values for PermutedColumns {
    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.order.len()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let mut stored = Vec::new();
        self.source.read(rows, &mut stored)?;
        out.clear();
        for row in stored.chunks_exact(self.source.cols()) {
            out.extend(self.order.iter().map(|&c| row[c as usize]));
        }
        Ok(())
    }
}

/// Values that are all the same.
#[derive(Debug)]
pub struct Constant {
    pub value: f32,
    pub rows: usize,
    pub cols: usize,
}

impl Values for Constant {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.resize(rows.len() * self.cols, self.value);
        Ok(())
    }
}
