//! Rows of values: normalization and its gradient, RoPE, reading weights.

use plmconv_formats::{Config, Model, Role, TensorKey};
use plmconv_quant::codec;
use plmconv_validate::network::{self, Buffer, Matrix, Products, Rope, attention_scale, rms_scale};
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
    pub products: Products,
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
            products: Products::new(false),
        }
    }

    /// Values of a query or key head.
    pub fn key(&self) -> usize {
        self.nope + self.rope
    }
}

/// A norm's weight.
pub(super) fn read_vector(model: &Model, key: TensorKey) -> Result<Vec<f32>> {
    Ok(Matrix::load(model, key)?.values())
}

/// The embeddings of `tokens` into `out`, `[tokens, hidden]`.
pub(super) fn embed(model: &Model, tokens: &[u32], out: &mut [f32]) -> Result<()> {
    let key = TensorKey::global(Role::TokenEmbedding);
    for (out, &token) in out.chunks_exact_mut(model.config.hidden_size).zip(tokens) {
        let row = token as usize..token as usize + 1;
        out.copy_from_slice(&Matrix::load_rows(model, key, row)?.values());
    }
    Ok(())
}

pub(super) fn all_finite(values: &[f32]) -> bool {
    codec::first_non_finite(values).is_none()
}

/// [`network::rms_norm`] into a vector of its own.
pub(super) fn rms_norm(shape: &Shape, x: &[f32], weight: &[f32]) -> Buffer<f32> {
    let mut out = shape.products.buffer(x.len());
    network::rms_norm(x, weight, shape.eps, &mut out);
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
