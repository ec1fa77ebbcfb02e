//! The matrices that make queries, keys and values of a layer's input, forward and backward.

use plmconv_formats::model::AttentionKind;
use plmconv_formats::{Model, Role, TensorKey};
use plmconv_validate::network::{Buffer, Rows};
use rayon::prelude::*;

use super::attention::{self, Head, KeyValueGradients, KeyValues};
use super::moments::{Samples, SiteMoments};
use super::products::Weight;
use super::rows::{Shape, read_vector, rms_norm, rms_norm_backward};
use crate::error::Result;

/// A layer's matrices, of one kind of attention.
pub(super) enum Projections {
    Latent(Latent),
    Grouped(Grouped),
}

/// Keys and values come from a latent.
pub(super) struct Latent {
    query: Weight,
    kv_a: Weight,
    kv_a_norm: Vec<f32>,
    kv_b: Weight,
}

/// Keys and values come from the layer's input.
pub(super) struct Grouped {
    query: Weight,
    key: Weight,
    value: Weight,
}

/// What the backward run needs of the forward run beside the block's input.
pub(super) struct State {
    heads: Vec<Head>,
    /// `[tokens, latent]`: before and after its norm. Empty without a latent.
    latent: Buffer<f32>,
    kv_input: Buffer<f32>,
}

impl Projections {
    pub fn load(model: &Model, index: usize) -> Result<Projections> {
        let weight = |role| Weight::load(model, TensorKey::in_layer(index, role));
        Ok(match model.config.architecture.attention {
            AttentionKind::Latent => Projections::Latent(Latent {
                query: weight(Role::Query)?,
                kv_a: weight(Role::KvA)?,
                kv_a_norm: read_vector(model, TensorKey::in_layer(index, Role::KvANorm))?,
                kv_b: weight(Role::KvB)?,
            }),
            AttentionKind::Grouped => Projections::Grouped(Grouped {
                query: weight(Role::Query)?,
                key: weight(Role::Key)?,
                value: weight(Role::Value)?,
            }),
        })
    }

    /// The matrices with their roles, in file order.
    fn weights(&self) -> [(Role, &Weight); 3] {
        match self {
            Projections::Latent(Latent { query, kv_a, kv_b, .. }) => {
                [(Role::Query, query), (Role::KvA, kv_a), (Role::KvB, kv_b)]
            }
            Projections::Grouped(Grouped { query, key, value }) => {
                [(Role::Query, query), (Role::Key, key), (Role::Value, value)]
            }
        }
    }

    /// No statistics yet of any matrix, in the order of [`weights`](Self::weights).
    pub fn sites(&self, index: usize) -> [SiteMoments; 3] {
        self.weights().map(|(role, weight)| {
            let (rows, cols) = (weight.forward.rows(), weight.forward.cols());
            SiteMoments::new(TensorKey::in_layer(index, role), Some(rows), cols)
        })
    }

    /// Also the heads' outputs, `[tokens, heads * value]`. `input`: `[tokens, hidden]`.
    pub fn forward(&self, shape: &Shape, input: &[f32]) -> (State, Buffer<f32>) {
        match self {
            Projections::Latent(weights) => weights.forward(shape, input),
            Projections::Grouped(weights) => weights.forward(shape, input),
        }
    }

    /// The gradient by `input`, given that by the heads' outputs; adds up what passes the matrices.
    pub fn backward(
        &self,
        shape: &Shape,
        state: &State,
        input: &[f32],
        by_heads: &[f32],
        sites: &mut [SiteMoments; 3],
    ) -> Buffer<f32> {
        match self {
            Projections::Latent(weights) => weights.backward(shape, state, input, by_heads, sites),
            Projections::Grouped(weights) => weights.backward(shape, state, input, by_heads, sites),
        }
    }
}

impl Latent {
    fn forward(&self, shape: &Shape, input: &[f32]) -> (State, Buffer<f32>) {
        let products = &shape.products;
        let prepared = products.prepare(Rows::all(input, shape.hidden));
        let query = self.query.forward(products, &prepared);
        let kv_a = self.kv_a.forward(products, &prepared);
        drop(prepared);
        let mut latent = products.buffer(input.len() / shape.hidden * shape.latent);
        let rows = latent.chunks_exact_mut(shape.latent).zip(kv_a.chunks_exact(shape.latent + shape.rope));
        rows.for_each(|(out, row)| out.copy_from_slice(&row[..shape.latent]));
        let kv_input = rms_norm(shape, &latent, &self.kv_a_norm);
        let key_value = self.kv_b.forward(products, &products.prepare(Rows::all(&kv_input, shape.latent)));
        let from = KeyValues::Latent { kv_a: &kv_a, key_value: &key_value };
        let (heads, outputs) = attention::forward(shape, &query, from);
        (State { heads, latent, kv_input }, outputs)
    }

    fn backward(
        &self,
        shape: &Shape,
        state: &State,
        input: &[f32],
        by_heads: &[f32],
        [query, kv_a, kv_b]: &mut [SiteMoments; 3],
    ) -> Buffer<f32> {
        let products = &shape.products;
        let by = attention::backward(shape, &state.heads, by_heads);
        let KeyValueGradients { keys: rope_key, values: key_value } = by.key_values;
        kv_b.add(Samples::Dense(&state.kv_input), Samples::Dense(&key_value));
        let by_kv_input = self.kv_b.backward(products, &key_value);
        let width = shape.latent + shape.rope;
        let mut by_kv_a = products.zeros(state.latent.len() / shape.latent * width);
        for (row, shared) in by_kv_a.chunks_exact_mut(width).zip(rope_key.chunks_exact(shape.rope)) {
            row[shape.latent..].copy_from_slice(shared);
        }
        rms_norm_backward(&state.latent, &self.kv_a_norm, shape.eps, &by_kv_input, &mut by_kv_a, width);
        kv_a.add(Samples::Dense(input), Samples::Dense(&by_kv_a));
        query.add(Samples::Dense(input), Samples::Dense(&by.query));
        let mut by_input = self.kv_a.backward(products, &by_kv_a);
        add(&mut by_input, &self.query.backward(products, &by.query));
        by_input
    }
}

impl Grouped {
    fn forward(&self, shape: &Shape, input: &[f32]) -> (State, Buffer<f32>) {
        let products = &shape.products;
        let prepared = products.prepare(Rows::all(input, shape.hidden));
        let query = self.query.forward(products, &prepared);
        let keys = self.key.forward(products, &prepared);
        let values = self.value.forward(products, &prepared);
        drop(prepared);
        let from = KeyValues::Grouped { keys: &keys, values: &values };
        let (heads, outputs) = attention::forward(shape, &query, from);
        (State { heads, latent: products.buffer(0), kv_input: products.buffer(0) }, outputs)
    }

    fn backward(
        &self,
        shape: &Shape,
        state: &State,
        input: &[f32],
        by_heads: &[f32],
        [query, key, value]: &mut [SiteMoments; 3],
    ) -> Buffer<f32> {
        let products = &shape.products;
        let by = attention::backward(shape, &state.heads, by_heads);
        let KeyValueGradients { keys, values } = by.key_values;
        query.add(Samples::Dense(input), Samples::Dense(&by.query));
        key.add(Samples::Dense(input), Samples::Dense(&keys));
        value.add(Samples::Dense(input), Samples::Dense(&values));
        let mut by_input = self.query.backward(products, &by.query);
        add(&mut by_input, &self.key.backward(products, &keys));
        add(&mut by_input, &self.value.backward(products, &values));
        by_input
    }
}

fn add(sum: &mut [f32], part: &[f32]) {
    sum.par_iter_mut().zip(part).for_each(|(sum, g)| *sum += g);
}
