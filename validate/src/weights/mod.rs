//! A model's weights in memory, in the encoding they have on disk.

mod decode;

use std::ops::Range;

use plmconv_formats::{DType, Layout, Model, Role, TensorKey};
use rayon::prelude::*;

use crate::error::{Error, Result};

/// Bytes read at a time while loading.
const READ_BYTES: usize = 4 << 20;

/// An encoded matrix, row-major.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) dtype: DType,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl Matrix {
    /// A tensor of a model.
    ///
    /// # Errors
    /// A tensor that is missing, of another shape than the config says, or of a type that is not decoded here;
    /// unreadable rows.
    pub fn load(model: &Model, key: TensorKey) -> Result<Matrix> {
        let rows = model.config.matrix_shape(key.role).map_or(0, |[rows, _]| rows);
        Matrix::load_rows(model, key, 0..rows)
    }

    /// Some rows of it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_rows(model: &Model, key: TensorKey, rows: Range<usize>) -> Result<Matrix> {
        let missing = || Error::MissingTensor { tensor: key };
        let expected = model.config.matrix_shape(key.role).ok_or_else(missing)?;
        let source = &model.tensor(key).ok_or_else(missing)?.source;
        let found = [source.rows(), source.cols()];
        if found != expected {
            return Err(Error::Shape { tensor: key, found, expected });
        }
        if !decode::is_supported(source.dtype()) {
            return Err(Error::UnsupportedType { tensor: key, dtype: source.dtype() });
        }
        let row_bytes = source.row_bytes();
        let mut bytes = Vec::with_capacity(row_bytes * rows.len());
        let step = (READ_BYTES / row_bytes.max(1)).max(1);
        let mut chunk = Vec::new();
        for start in rows.clone().step_by(step) {
            source.read_rows(start..(start + step).min(rows.end), &mut chunk)?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(Matrix { dtype: source.dtype(), rows: rows.len(), cols: found[1], row_bytes, bytes })
    }

    /// How values are encoded.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// `[rows, cols]` in f32.
    pub fn values(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.cols];
        values.par_chunks_mut(self.cols).enumerate().for_each(|(row, out)| self.decode_row(row, out));
        values
    }

    /// Its columns as rows, in the same encoding, or `None` if values are encoded together.
    pub fn transposed(&self) -> Option<Matrix> {
        let width = self.dtype.block_bytes();
        let bytes = match width {
            _ if self.dtype.block_len() != 1 => return None,
            2 => transposed::<2>(&self.bytes, self.rows, self.cols),
            4 => transposed::<4>(&self.bytes, self.rows, self.cols),
            8 => transposed::<8>(&self.bytes, self.rows, self.cols),
            _ => return None,
        };
        Some(Matrix {
            dtype: self.dtype,
            rows: self.cols,
            cols: self.rows,
            row_bytes: self.rows * width,
            bytes,
        })
    }

    /// Decodes columns `cols` (whole blocks) of row `row`.
    pub(crate) fn decode(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let at = |col: usize| self.dtype.encoded_len(col).expect("callers cut at block boundaries");
        let start = row * self.row_bytes;
        decode::decode(self.dtype, &self.bytes[start + at(cols.start)..start + at(cols.end)], out);
    }

    /// Decodes a whole row.
    pub(crate) fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.decode(row, 0..self.cols, out);
    }

    /// A row as it is stored.
    pub(crate) fn encoded_row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// Bytes held.
    pub(crate) fn byte_len(&self) -> usize {
        self.bytes.len()
    }
}

/// `[cols, rows]` of a matrix of `W`-byte values, `[rows, cols]`.
fn transposed<const W: usize>(bytes: &[u8], rows: usize, cols: usize) -> Vec<u8> {
    /// Side of the square that is copied before it is written: rows lie powers of two apart, and would drive each
    /// other out of the cache.
    const SIDE: usize = 32;
    let (values, _) = bytes.as_chunks::<W>();
    let mut out = vec![0; bytes.len()];
    out.par_chunks_mut(SIDE * rows * W).enumerate().for_each(|(band, out)| {
        let (out, _) = out.as_chunks_mut::<W>();
        let first = band * SIDE;
        let width = SIDE.min(cols - first);
        let mut square = [[[0; W]; SIDE]; SIDE];
        for start in (0..rows).step_by(SIDE) {
            let end = (start + SIDE).min(rows);
            for (line, row) in square.iter_mut().zip(start..end) {
                line[..width].copy_from_slice(&values[row * cols + first..][..width]);
            }
            for (col, out) in out.chunks_exact_mut(rows).enumerate() {
                out[start..end].iter_mut().zip(&square).for_each(|(out, line)| *out = line[col]);
            }
        }
    });
    out
}

/// Queries from the layer's input: at once, or through a latent of `q_lora_rank`.
#[derive(Debug)]
pub(crate) enum Query {
    Direct(Matrix),
    LowRank { a: Matrix, norm: Vec<f32>, b: Matrix },
}

/// Keys and values from the latent.
#[derive(Debug)]
pub(crate) enum KvB {
    /// `[heads * (nope + v), kv_lora_rank]`, per head first the key's rows, then the value's.
    Joint(Matrix),
    /// Latent layout: `key` is `[heads * kv_lora_rank, nope]` (transposed), `value` `[heads * v, kv_lora_rank]`.
    Split { key: Matrix, value: Matrix },
}

/// The feed-forward network: `down(relu(up x)^2)`, or with a gate `down(silu(gate x) * up x)`.
#[derive(Debug)]
pub(crate) struct Ffn {
    pub gate: Option<Matrix>,
    pub up: Matrix,
    pub down: Matrix,
}

/// One layer's weights.
#[derive(Debug)]
pub(crate) struct Layer {
    pub attention_norm: Vec<f32>,
    pub query: Query,
    pub kv_a: Matrix,
    pub kv_a_norm: Vec<f32>,
    pub kv_b: KvB,
    pub attention_output: Matrix,
    pub ffn_norm: Vec<f32>,
    pub ffn: Ffn,
}

/// All weights of a model.
#[derive(Debug)]
pub(crate) struct Weights {
    /// Also the output head.
    pub embedding: Matrix,
    pub layers: Vec<Layer>,
    pub output_norm: Vec<f32>,
}

impl Weights {
    pub fn load(model: &Model) -> Result<Weights> {
        let config = &model.config;
        Ok(Weights {
            embedding: Matrix::load(model, TensorKey::global(Role::TokenEmbedding))?,
            layers: (0..config.num_hidden_layers).map(|i| Layer::load(model, i)).collect::<Result<_>>()?,
            output_norm: load_vector(model, TensorKey::global(Role::OutputNorm))?,
        })
    }

    /// Bytes held.
    pub fn byte_len(&self) -> usize {
        self.embedding.byte_len() + self.layers.iter().map(Layer::byte_len).sum::<usize>()
    }
}

impl Layer {
    fn load(model: &Model, layer: usize) -> Result<Layer> {
        let config = &model.config;
        let key = |role| TensorKey::in_layer(layer, role);
        let matrix = |role| Matrix::load(model, key(role));
        let vector = |role| load_vector(model, key(role));
        let query = match config.q_lora_rank {
            None => Query::Direct(matrix(Role::Query)?),
            Some(_) => Query::LowRank {
                a: matrix(Role::QueryA)?,
                norm: vector(Role::QueryANorm)?,
                b: matrix(Role::QueryB)?,
            },
        };
        let (kv_b, gate) = match config.layout {
            Layout::Plm => (KvB::Joint(matrix(Role::KvB)?), None),
            Layout::Latent => {
                let kv_b = KvB::Split { key: matrix(Role::KeyB)?, value: matrix(Role::ValueB)? };
                (kv_b, Some(matrix(Role::FfnGate)?))
            }
        };
        Ok(Layer {
            attention_norm: vector(Role::AttentionNorm)?,
            query,
            kv_a: matrix(Role::KvA)?,
            kv_a_norm: vector(Role::KvANorm)?,
            kv_b,
            attention_output: matrix(Role::AttentionOutput)?,
            ffn_norm: vector(Role::FfnNorm)?,
            ffn: Ffn { gate, up: matrix(Role::FfnUp)?, down: matrix(Role::FfnDown)? },
        })
    }

    fn byte_len(&self) -> usize {
        let query = match &self.query {
            Query::Direct(m) => m.byte_len(),
            Query::LowRank { a, b, .. } => a.byte_len() + b.byte_len(),
        };
        let kv_b = match &self.kv_b {
            KvB::Joint(m) => m.byte_len(),
            KvB::Split { key, value } => key.byte_len() + value.byte_len(),
        };
        let ffn = self.ffn.gate.as_ref().map_or(0, Matrix::byte_len)
            + self.ffn.up.byte_len()
            + self.ffn.down.byte_len();
        query + kv_b + ffn + self.kv_a.byte_len() + self.attention_output.byte_len()
    }
}

/// A one-axis tensor, decoded.
fn load_vector(model: &Model, key: TensorKey) -> Result<Vec<f32>> {
    let matrix = Matrix::load(model, key)?;
    let mut values = vec![0.0; matrix.cols];
    matrix.decode_row(0, &mut values);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_become_rows() {
        let (rows, cols) = (70, 45);
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| (i as u16).to_le_bytes()).collect();
        let found = transposed::<2>(&bytes, rows, cols);
        for (at, value) in found.as_chunks::<2>().0.iter().enumerate() {
            assert_eq!(usize::from(u16::from_le_bytes(*value)), at % rows * cols + at / rows);
        }
    }
}
