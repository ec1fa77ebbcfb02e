//! One layer forward, and the gradients of all its matrices.

use plmconv_formats::{Model, Role, TensorKey};
use plmconv_quant::product::SparseMatrix;
use plmconv_validate::network::{Buffer, Matrix, Products, Rows, rectify};
use rayon::prelude::*;

use super::moments::{Samples, SiteMoments};
use super::products::{Neurons, Weight, transposed};
use super::projections::{self, Projections};
use super::rows::{Shape, read_vector, rms_norm, rms_norm_backward};
use crate::error::Result;

/// A layer's weights, each in the forms that its products take.
pub(super) struct LayerWeights {
    attention_norm: Vec<f32>,
    projections: Projections,
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
        let vector = |role| read_vector(model, key(role));
        let up = Matrix::load(model, key(Role::FfnUp))?;
        let down = Matrix::load(model, key(Role::FfnDown))?;
        Ok(LayerWeights {
            attention_norm: vector(Role::AttentionNorm)?,
            projections: Projections::load(model, index)?,
            attention_output: Weight::load(model, key(Role::AttentionOutput))?,
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
    attention: projections::State,
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
    let (attention, heads_output) = w.projections.forward(shape, &attention_input);
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
    State { attention_input, attention, heads_output, middle, ffn_input, rectified }
}

/// Statistics of a layer's matrices.
pub(super) struct Sites {
    projections: [SiteMoments; 3],
    attention_output: SiteMoments,
    up: SiteMoments,
    down: SiteMoments,
}

impl Sites {
    pub fn new(index: usize, w: &LayerWeights) -> Sites {
        let new = |role, rows, cols| SiteMoments::new(TensorKey::in_layer(index, role), Some(rows), cols);
        let output = &w.attention_output.forward;
        Sites {
            projections: w.projections.sites(index),
            attention_output: new(Role::AttentionOutput, output.rows(), output.cols()),
            up: new(Role::FfnUp, w.up.rows(), w.up.cols()),
            down: new(Role::FfnDown, w.down_neurons.width(), w.down_neurons.count()),
        }
    }

    pub fn into_vec(self) -> Vec<SiteMoments> {
        let rest = [self.attention_output, self.up, self.down];
        self.projections.into_iter().chain(rest).collect()
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
    let (attention, input) = (&state.attention, &state.attention_input);
    let by_input = w.projections.backward(shape, attention, input, &by_heads, &mut sites.projections);
    rms_norm_backward(hidden, &w.attention_norm, shape.eps, &by_input, gradient, shape.hidden);
}
