//! Rows of values: normalization and its gradient, RoPE, reading weights.

use plmconv_formats::{Config, Model, Role, TensorKey};
use plmconv_quant::codec;
use plmconv_quant::product::Matrix;
use plmconv_validate::Error;
use plmconv_validate::network::{self, Rope, Workspace, attention_scale, rms_scale};
use rayon::prelude::*;

use crate::error::Result;

/// Sizes of the network, the common length of the windows, and what follows from both.
pub(super) struct Shape {
    pub window: usize,
    pub layers: usize,
    pub hidden: usize,
    pub heads: usize,
    pub latent: usize,
    pub nope: usize,
    pub rope: usize,
    pub value: usize,
    pub eps: f32,
    /// What attention's scores are multiplied with.
    pub attention_scale: f32,
    pub rotations: Rope,
    pub workspace: Workspace,
}

impl Shape {
    pub fn new(config: &Config, window: usize) -> Shape {
        Shape {
            window,
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            latent: config.kv_lora_rank,
            nope: config.qk_nope_head_dim,
            rope: config.qk_rope_head_dim,
            value: config.v_head_dim,
            eps: config.rms_norm_eps,
            attention_scale: attention_scale(config.qk_head_dim()),
            rotations: Rope::new(config.qk_rope_head_dim, config.rope_theta, window),
            workspace: Workspace::best(),
        }
    }

    /// Values of a query or key head.
    pub fn key(&self) -> usize {
        self.nope + self.rope
    }
}

/// An f32 matrix, row-major.
#[derive(Debug)]
pub(super) struct Dense {
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f32>,
}

impl Dense {
    pub fn matrix(&self) -> Matrix<'_, f32> {
        Matrix::new(&self.values, self.rows, self.cols)
    }

    pub fn load(model: &Model, key: TensorKey) -> Result<Dense> {
        let tensor = model.tensor(key).ok_or(Error::MissingTensor { tensor: key })?;
        let (rows, cols) = (tensor.source.rows(), tensor.source.cols());
        Ok(Dense { rows, cols, values: read_rows(model, key, 0..rows)? })
    }

    /// Its columns as rows.
    pub fn transposed(&self) -> Dense {
        const SQUARE: usize = 32;
        let mut values = vec![0.0; self.values.len()];
        values.par_chunks_mut(SQUARE * self.rows).enumerate().for_each(|(band, out)| {
            let first = band * SQUARE;
            for start in (0..self.rows).step_by(SQUARE) {
                let rows = start..(start + SQUARE).min(self.rows);
                for (col, out) in out.chunks_exact_mut(self.rows).enumerate() {
                    for row in rows.clone() {
                        out[row] = self.values[row * self.cols + first + col];
                    }
                }
            }
        });
        Dense { rows: self.cols, cols: self.rows, values }
    }
}

/// Some rows of a tensor in f32.
fn read_rows(model: &Model, key: TensorKey, rows: std::ops::Range<usize>) -> Result<Vec<f32>> {
    let mut values = Vec::new();
    read_rows_into(model, key, rows, &mut Vec::new(), &mut values)?;
    Ok(values)
}

/// Replaces `values` by some rows of a tensor; `bytes` is scratch, kept by callers that read often.
pub(super) fn read_rows_into(
    model: &Model,
    key: TensorKey,
    rows: std::ops::Range<usize>,
    bytes: &mut Vec<u8>,
    values: &mut Vec<f32>,
) -> Result<()> {
    let tensor = model.tensor(key).ok_or(Error::MissingTensor { tensor: key })?;
    let source = &tensor.source;
    source.read_rows(rows.clone(), bytes)?;
    values.resize(rows.len() * source.cols(), 0.0);
    codec::decode(source.dtype(), bytes, values)
        .map_err(|_| Error::UnsupportedType { tensor: key, dtype: source.dtype() })?;
    Ok(())
}

/// A norm's weight.
pub(super) fn read_vector(model: &Model, key: TensorKey) -> Result<Vec<f32>> {
    Ok(Dense::load(model, key)?.values)
}

/// The embeddings of `tokens` into `out`, `[tokens, hidden]`.
pub(super) fn embed(model: &Model, tokens: &[u32], out: &mut [f32]) -> Result<()> {
    let key = TensorKey::global(Role::TokenEmbedding);
    for (out, &token) in out.chunks_exact_mut(model.config.hidden_size).zip(tokens) {
        out.copy_from_slice(&read_rows(model, key, token as usize..token as usize + 1)?);
    }
    Ok(())
}

pub(super) fn all_finite(values: &[f32]) -> bool {
    codec::first_non_finite(values).is_none()
}

/// [`network::rms_norm`] into a vector of its own.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    network::rms_norm(x, weight, eps, &mut out);
    out
}

/// Adds to `into` (rows of `stride` values) the gradient by `x` (rows of `weight.len()`), given `gradient`, that by
/// [`rms_norm`]'s result.
pub(super) fn rms_norm_backward(
    x: &[f32],
    weight: &[f32],
    eps: f32,
    gradient: &[f32],
    into: &mut [f32],
    stride: usize,
) {
    let width = weight.len();
    let rows = x.par_chunks_exact(width).zip(gradient.par_chunks_exact(width));
    into.par_chunks_exact_mut(stride).zip(rows).for_each(|(into, (x, g))| {
        let scale = rms_scale(x, eps);
        let along: f32 = x.iter().zip(g).zip(weight).map(|((x, g), w)| x * g * w).sum();
        let back = along * scale * scale * scale / width as f32;
        for (((into, x), g), w) in into.iter_mut().zip(x).zip(g).zip(weight) {
            *into += scale * w * g - back * x;
        }
    });
}
