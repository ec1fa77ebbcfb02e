//! A model's weights in memory, in the encoding they have on disk.

mod decode;

use std::ops::Range;

use plmconv_formats::{Config, DType, Model, Role, TensorKey};

use crate::error::{Error, Result};

/// Bytes read at a time while loading.
const READ_BYTES: usize = 4 << 20;

/// An encoded matrix, row-major.
#[derive(Debug)]
pub(crate) struct Matrix {
    pub dtype: DType,
    pub rows: usize,
    pub cols: usize,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl Matrix {
    fn load(model: &Model, key: TensorKey, expected: [usize; 2]) -> Result<Matrix> {
        let tensor = model.tensor(key).ok_or(Error::MissingTensor { tensor: key })?;
        let source = &tensor.source;
        let found = [source.rows(), source.cols()];
        if found != expected {
            return Err(Error::Shape { tensor: key, found, expected });
        }
        if !decode::is_supported(source.dtype()) {
            return Err(Error::UnsupportedType { tensor: key, dtype: source.dtype() });
        }
        let row_bytes = source.row_bytes();
        let mut bytes = Vec::with_capacity(row_bytes * source.rows());
        let step = (READ_BYTES / row_bytes.max(1)).max(1);
        let mut chunk = Vec::new();
        for start in (0..source.rows()).step_by(step) {
            source.read_rows(start..(start + step).min(source.rows()), &mut chunk)?;
            bytes.extend_from_slice(&chunk);
        }
        Ok(Matrix { dtype: source.dtype(), rows: found[0], cols: found[1], row_bytes, bytes })
    }

    /// Decodes columns `cols` (whole blocks) of row `row`.
    pub fn decode(&self, row: usize, cols: Range<usize>, out: &mut [f32]) {
        let at = |col: usize| self.dtype.encoded_len(col).expect("callers cut at block boundaries");
        let start = row * self.row_bytes;
        decode::decode(self.dtype, &self.bytes[start + at(cols.start)..start + at(cols.end)], out);
    }

    /// Decodes a whole row.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        self.decode(row, 0..self.cols, out);
    }

    /// A row as it is stored.
    pub fn encoded_row(&self, row: usize) -> &[u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }

    /// Bytes held.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }
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
        let embedding = [config.vocab_size, config.hidden_size];
        Ok(Weights {
            embedding: Matrix::load(model, TensorKey::global(Role::TokenEmbedding), embedding)?,
            layers: (0..config.num_hidden_layers).map(|i| Layer::load(model, i)).collect::<Result<_>>()?,
            output_norm: load_vector(model, TensorKey::global(Role::OutputNorm), config.hidden_size)?,
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
        let has = |role| model.tensor(key(role)).is_some();
        let matrix = |role, rows, cols| Matrix::load(model, key(role), [rows, cols]);
        let vector = |role, len| load_vector(model, key(role), len);
        let Config { hidden_size, intermediate_size, kv_lora_rank, v_head_dim, .. } = *config;
        let heads = config.num_attention_heads;
        let query_rows = heads * config.qk_head_dim();
        let query = match config.q_lora_rank {
            None => Query::Direct(matrix(Role::Query, query_rows, hidden_size)?),
            Some(rank) => Query::LowRank {
                a: matrix(Role::QueryA, rank, hidden_size)?,
                norm: vector(Role::QueryANorm, rank)?,
                b: matrix(Role::QueryB, query_rows, rank)?,
            },
        };
        let kv_b = if has(Role::KeyB) {
            KvB::Split {
                key: matrix(Role::KeyB, heads * kv_lora_rank, config.qk_nope_head_dim)?,
                value: matrix(Role::ValueB, heads * v_head_dim, kv_lora_rank)?,
            }
        } else {
            let rows = heads * (config.qk_nope_head_dim + v_head_dim);
            KvB::Joint(matrix(Role::KvB, rows, kv_lora_rank)?)
        };
        let gate = has(Role::FfnGate).then(|| matrix(Role::FfnGate, intermediate_size, hidden_size));
        Ok(Layer {
            attention_norm: vector(Role::AttentionNorm, hidden_size)?,
            query,
            kv_a: matrix(Role::KvA, kv_lora_rank + config.qk_rope_head_dim, hidden_size)?,
            kv_a_norm: vector(Role::KvANorm, kv_lora_rank)?,
            kv_b,
            attention_output: matrix(Role::AttentionOutput, hidden_size, heads * v_head_dim)?,
            ffn_norm: vector(Role::FfnNorm, hidden_size)?,
            ffn: Ffn {
                gate: gate.transpose()?,
                up: matrix(Role::FfnUp, intermediate_size, hidden_size)?,
                down: matrix(Role::FfnDown, hidden_size, intermediate_size)?,
            },
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
fn load_vector(model: &Model, key: TensorKey, len: usize) -> Result<Vec<f32>> {
    let matrix = Matrix::load(model, key, [1, len])?;
    let mut values = vec![0.0; len];
    matrix.decode_row(0, &mut values);
    Ok(values)
}
