//! One layer forward, and the gradients of all its matrices.

use plmconv_formats::{Model, Role, TensorKey};
use plmconv_quant::product::SparseMatrix;
use plmconv_validate::network::{Buffer, Matrix, Products, Rows, rectify};
use rayon::prelude::*;

use super::attention::{self, Head};
use super::moments::{Samples, SiteMoments};
use super::products::{Neurons, Weight, transposed};
use super::rows::{Shape, read_vector, rms_norm, rms_norm_backward};
use crate::error::Result;

/// A layer's weights, each in the forms that its products take.
pub(super) struct LayerWeights {
    attention_norm: Vec<f32>,
    query: Weight,
    kv_a: Weight,
    kv_a_norm: Vec<f32>,
    kv_b: Weight,
    attention_output: Weight,
    ffn_norm: Vec<f32>,
    up: Matrix,
    /// `[neurons, hidden]`: what makes a neuron fire.
    up_neurons: Neurons,
    /// `[neurons, hidden]`: what a neuron adds to the output.
    down_neurons: Neurons,
}

impl LayerWeights {
    pub fn load(model: &Model, index: usize) -> Result<LayerWeights> {
        let key = |role| TensorKey::in_layer(index, role);
        let weight = |role| Weight::load(model, key(role));
        let vector = |role| read_vector(model, key(role));
        let up = Matrix::load(model, key(Role::FfnUp))?;
        let down = Matrix::load(model, key(Role::FfnDown))?;
        Ok(LayerWeights {
            attention_norm: vector(Role::AttentionNorm)?,
            query: weight(Role::Query)?,
            kv_a: weight(Role::KvA)?,
            kv_a_norm: vector(Role::KvANorm)?,
            kv_b: weight(Role::KvB)?,
            attention_output: weight(Role::AttentionOutput)?,
            ffn_norm: vector(Role::FfnNorm)?,
            up_neurons: Neurons::new(&up),
            up,
            down_neurons: Neurons::new(&transposed(&down, key(Role::FfnDown))?),
        })
    }

    /// Neurons of the feed-forward network.
    pub fn neurons(&self) -> usize {
        self.up.rows()
    }
}

/// What the backward run needs of the forward run; every field is `[tokens, width]`.
pub(super) struct State {
    attention_input: Buffer<f32>,
    /// The latent before its norm, without the RoPE key.
    latent: Buffer<f32>,
    kv_input: Buffer<f32>,
    heads: Vec<Head>,
    heads_output: Buffer<f32>,
    /// The residual stream between attention and FFN.
    middle: Buffer<f32>,
    ffn_input: Buffer<f32>,
    /// The up projection's result where it is positive: the neurons that fire.
    pub rectified: SparseMatrix,
}

impl State {
    /// The residual stream after the layer; the backward run has no need of it.
    pub fn output(&self, products: &Products, w: &LayerWeights, out: &mut [f32]) {
        let mut ffn = products.zeros(out.len());
        w.down_neurons.add_product(&self.activation(), &mut ffn);
        out.par_iter_mut().zip(&self.middle[..]).zip(&ffn[..]).for_each(|((out, a), b)| *out = a + b);
    }

    /// Squared ReLU of the up projection's result.
    fn activation(&self) -> SparseMatrix {
        let mut activation = self.rectified.clone();
        activation.change(|_, u| u * u);
        activation
    }
}

/// Runs the layer on `hidden` (`[tokens, hidden]`, whole windows), all but its last product. `rectified` is what an
/// earlier run on the same found to fire.
pub(super) fn forward(
    shape: &Shape,
    w: &LayerWeights,
    hidden: &[f32],
    rectified: Option<SparseMatrix>,
) -> State {
    let products = &shape.products;
    let attention_input = rms_norm(shape, hidden, &w.attention_norm);
    let input = products.prepare(Rows::all(&attention_input, shape.hidden));
    let query = w.query.forward(products, &input);
    let kv_a = w.kv_a.forward(products, &input);
    drop(input);
    let mut latent = products.buffer(hidden.len() / shape.hidden * shape.latent);
    let rows = latent.chunks_exact_mut(shape.latent).zip(kv_a.chunks_exact(shape.latent + shape.rope));
    rows.for_each(|(out, row)| out.copy_from_slice(&row[..shape.latent]));
    let kv_input = rms_norm(shape, &latent, &w.kv_a_norm);
    let key_value = w.kv_b.forward(products, &products.prepare(Rows::all(&kv_input, shape.latent)));
    let (heads, heads_output) = attention::forward(shape, &query, &kv_a, &key_value);
    let input = products.prepare(Rows::all(&heads_output, shape.heads * shape.value));
    let mut middle = w.attention_output.forward(products, &input);
    drop(input);
    middle.par_iter_mut().zip(hidden).for_each(|(out, x)| *out += x);
    let ffn_input = rms_norm(shape, &middle, &w.ffn_norm);
    let rectified = rectified.unwrap_or_else(|| {
        let input = products.prepare(Rows::all(&ffn_input, shape.hidden));
        let mut up = products.product(&input, &w.up);
        up.par_chunks_mut(1 << 14).for_each(rectify);
        SparseMatrix::new(&up, w.up.rows())
    });
    State { attention_input, latent, kv_input, heads, heads_output, middle, ffn_input, rectified }
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
        let new = |role, rows, cols| SiteMoments::new(TensorKey::in_layer(index, role), Some(rows), cols);
        let site = |role, w: &Weight| new(role, w.forward.rows(), w.forward.cols());
        Sites {
            query: site(Role::Query, &w.query),
            kv_a: site(Role::KvA, &w.kv_a),
            kv_b: site(Role::KvB, &w.kv_b),
            attention_output: site(Role::AttentionOutput, &w.attention_output),
            up: new(Role::FfnUp, w.up.rows(), w.up.cols()),
            down: new(Role::FfnDown, w.down_neurons.width(), w.down_neurons.count()),
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
    let products = &shape.products;
    sites.down.add(Samples::Sparse(&state.activation()), Samples::Dense(gradient));
    // Where a neuron does not fire, its gradient is zero.
    let mut by_up = w.down_neurons.sampled_product(gradient, &state.rectified);
    by_up.multiply(&state.rectified);
    by_up.change(|_, g| 2.0 * g);
    sites.up.add(Samples::Dense(&state.ffn_input), Samples::Sparse(&by_up));
    let mut by_input = products.zeros(gradient.len());
    w.up_neurons.add_product(&by_up, &mut by_input);
    rms_norm_backward(&state.middle, &w.ffn_norm, shape.eps, &by_input, gradient, shape.hidden);

    sites.attention_output.add(Samples::Dense(&state.heads_output), Samples::Dense(gradient));
    let by_heads = w.attention_output.backward(products, gradient);
    let by = attention::backward(shape, &state.heads, &by_heads);
    sites.kv_b.add(Samples::Dense(&state.kv_input), Samples::Dense(&by.key_value));
    let by_kv_input = w.kv_b.backward(products, &by.key_value);
    let width = shape.latent + shape.rope;
    let mut by_kv_a = products.zeros(state.latent.len() / shape.latent * width);
    for (row, shared) in by_kv_a.chunks_exact_mut(width).zip(by.rope_key.chunks_exact(shape.rope)) {
        row[shape.latent..].copy_from_slice(shared);
    }
    rms_norm_backward(&state.latent, &w.kv_a_norm, shape.eps, &by_kv_input, &mut by_kv_a, width);
    sites.kv_a.add(Samples::Dense(&state.attention_input), Samples::Dense(&by_kv_a));
    sites.query.add(Samples::Dense(&state.attention_input), Samples::Dense(&by.query));
    let mut by_input = w.kv_a.backward(products, &by_kv_a);
    let by_query_input = w.query.backward(products, &by.query);
    by_input.par_iter_mut().zip(&by_query_input[..]).for_each(|(sum, g)| *sum += g);
    rms_norm_backward(hidden, &w.attention_norm, shape.eps, &by_input, gradient, shape.hidden);
}
