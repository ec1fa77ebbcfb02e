//! One layer forward, and the gradients of all its matrices.

use plmconv_formats::{Model, Role, TensorKey};
use plmconv_validate::network::rectify;
use rayon::prelude::*;

use super::attention::{self, Head};
use super::moments::SiteMoments;
use super::products;
use super::rows::{Dense, Shape, read_vector, rms_norm, rms_norm_backward};
use crate::error::Result;

/// A layer's weights in f32.
pub(super) struct LayerWeights {
    attention_norm: Vec<f32>,
    query: Dense,
    kv_a: Dense,
    kv_a_norm: Vec<f32>,
    kv_b: Dense,
    attention_output: Dense,
    ffn_norm: Vec<f32>,
    up: Dense,
    down: Dense,
}

impl LayerWeights {
    pub fn load(model: &Model, index: usize) -> Result<LayerWeights> {
        let matrix = |role| Dense::load(model, TensorKey::in_layer(index, role));
        let vector = |role| read_vector(model, TensorKey::in_layer(index, role));
        Ok(LayerWeights {
            attention_norm: vector(Role::AttentionNorm)?,
            query: matrix(Role::Query)?,
            kv_a: matrix(Role::KvA)?,
            kv_a_norm: vector(Role::KvANorm)?,
            kv_b: matrix(Role::KvB)?,
            attention_output: matrix(Role::AttentionOutput)?,
            ffn_norm: vector(Role::FfnNorm)?,
            up: matrix(Role::FfnUp)?,
            down: matrix(Role::FfnDown)?,
        })
    }
}

/// What the backward run needs of the forward run; every field is `[tokens, width]`.
pub(super) struct State {
    attention_input: Vec<f32>,
    /// The latent before its norm, without the RoPE key.
    latent: Vec<f32>,
    kv_input: Vec<f32>,
    heads: Vec<Head>,
    heads_output: Vec<f32>,
    /// The residual stream between attention and FFN.
    middle: Vec<f32>,
    ffn_input: Vec<f32>,
    /// The up projection's result where positive, else zero.
    rectified: Vec<f32>,
    activation: Vec<f32>,
}

impl State {
    /// The residual stream after the layer; the backward run has no need of it.
    pub fn output(&self, w: &LayerWeights, out: &mut [f32]) {
        let ffn = products::forward(&self.activation, &w.down);
        out.par_iter_mut().zip(&self.middle).zip(&ffn).for_each(|((out, a), b)| *out = a + b);
    }
}

/// Runs the layer on `hidden` (`[tokens, hidden]`, whole windows), all but its last product.
pub(super) fn forward(shape: &Shape, w: &LayerWeights, hidden: &[f32]) -> State {
    let attention_input = rms_norm(hidden, &w.attention_norm, shape.eps);
    let query = products::forward(&attention_input, &w.query);
    let kv_a = products::forward(&attention_input, &w.kv_a);
    let latent: Vec<f32> = kv_a
        .chunks_exact(shape.latent + shape.rope)
        .flat_map(|row| row[..shape.latent].iter().copied())
        .collect();
    let kv_input = rms_norm(&latent, &w.kv_a_norm, shape.eps);
    let key_value = products::forward(&kv_input, &w.kv_b);
    let (heads, heads_output) = attention::forward(shape, &query, &kv_a, &key_value);
    let mut middle = products::forward(&heads_output, &w.attention_output);
    middle.par_iter_mut().zip(hidden).for_each(|(out, x)| *out += x);
    let ffn_input = rms_norm(&middle, &w.ffn_norm, shape.eps);
    let mut rectified = products::forward(&ffn_input, &w.up);
    rectified.par_chunks_mut(1 << 14).for_each(rectify);
    let activation: Vec<f32> = rectified.par_iter().map(|u| u * u).collect();
    State { attention_input, latent, kv_input, heads, heads_output, middle, ffn_input, rectified, activation }
}

/// Statistics of a layer's matrices.
pub(super) struct Sites {
    query: SiteMoments,
    kv_a: SiteMoments,
    kv_b: SiteMoments,
    attention_output: SiteMoments,
    up: SiteMoments,
    down: SiteMoments,
}

impl Sites {
    pub fn new(index: usize, w: &LayerWeights) -> Sites {
        let site = |role, w: &Dense| SiteMoments::new(TensorKey::in_layer(index, role), Some(w.rows), w.cols);
        Sites {
            query: site(Role::Query, &w.query),
            kv_a: site(Role::KvA, &w.kv_a),
            kv_b: site(Role::KvB, &w.kv_b),
            attention_output: site(Role::AttentionOutput, &w.attention_output),
            up: site(Role::FfnUp, &w.up),
            down: site(Role::FfnDown, &w.down),
        }
    }

    pub fn into_vec(self) -> Vec<SiteMoments> {
        vec![self.query, self.kv_a, self.kv_b, self.attention_output, self.up, self.down]
    }
}

/// Turns `gradient` by the layer's output into that by its input, `hidden`, and adds up what passes the matrices.
pub(super) fn backward(
    shape: &Shape,
    w: &LayerWeights,
    state: &State,
    hidden: &[f32],
    gradient: &mut [f32],
    sites: &mut Sites,
) {
    sites.down.add(&state.activation, gradient);
    let mut by_up = vec![0.0; state.rectified.len()];
    products::backward(gradient, &w.down, &mut by_up);
    by_up.par_iter_mut().zip(&state.rectified).for_each(|(g, u)| *g *= 2.0 * u);
    sites.up.add(&state.ffn_input, &by_up);
    let mut by_input = vec![0.0; gradient.len()];
    products::backward(&by_up, &w.up, &mut by_input);
    rms_norm_backward(&state.middle, &w.ffn_norm, shape.eps, &by_input, gradient, shape.hidden);

    sites.attention_output.add(&state.heads_output, gradient);
    let mut by_heads = vec![0.0; state.heads_output.len()];
    products::backward(gradient, &w.attention_output, &mut by_heads);
    let by = attention::backward(shape, &state.heads, &by_heads);
    sites.kv_b.add(&state.kv_input, &by.key_value);
    let mut by_kv_input = vec![0.0; state.kv_input.len()];
    products::backward(&by.key_value, &w.kv_b, &mut by_kv_input);
    let width = shape.latent + shape.rope;
    let mut by_kv_a = vec![0.0; state.latent.len() / shape.latent * width];
    for (row, shared) in by_kv_a.chunks_exact_mut(width).zip(by.rope_key.chunks_exact(shape.rope)) {
        row[shape.latent..].copy_from_slice(shared);
    }
    rms_norm_backward(&state.latent, &w.kv_a_norm, shape.eps, &by_kv_input, &mut by_kv_a, width);
    sites.kv_a.add(&state.attention_input, &by_kv_a);
    sites.query.add(&state.attention_input, &by.query);
    by_input.fill(0.0);
    products::backward(&by_kv_a, &w.kv_a, &mut by_input);
    products::backward(&by.query, &w.query, &mut by_input);
    rms_norm_backward(hidden, &w.attention_norm, shape.eps, &by_input, gradient, shape.hidden);
}
