//! The attention block, whatever its keys and values are made from.

use rayon::prelude::*;

use crate::arithmetic::ActivationRounding;
use crate::buffers::Buffer;
use crate::error::Result;
use crate::forward::Forward;
use crate::linear::Rows;
use crate::loaded::Loaded;
use crate::network::{Head, attention_scale};
use crate::site::{Point, check_finite};
use crate::state::LayerCache;
use crate::weights::{AttentionWeights, Layer};

/// Keys and values of one layer, for the tokens of the batch.
pub(crate) struct KeyValues {
    pub keys: Buffer<f32>,
    /// Empty where values are the first columns of the keys.
    pub values: Buffer<f32>,
}

/// How many values a head has in the rows that attention sees.
#[derive(Clone, Copy)]
pub(crate) struct Widths {
    /// Of a query and of a key.
    pub key: usize,
    pub value: usize,
    /// Query heads that see the same keys and values.
    pub sharing: usize,
}

impl Forward<'_, '_, '_, '_> {
    /// The attention block's contribution: `[tokens, hidden_size]`.
    pub(crate) fn attention(&mut self, index: usize, layer: &Layer, x: &[f32]) -> Result<Buffer<f32>> {
        let config = &self.model.config;
        let linear = &self.model.linear;
        let normalized = self.rms_norm(x, &layer.attention_norm);
        check_finite(&normalized, config.hidden_size, index, Point::AttentionInput)?;
        self.observe(Some(index), Point::AttentionInput, &normalized);
        let heads = match &layer.attention {
            AttentionWeights::Latent(weights) => self.latent_heads(index, weights, &normalized),
            AttentionWeights::Grouped(weights) => self.grouped_heads(index, weights, &normalized),
        };
        check_finite(&heads, heads.len() / self.positions.len(), index, Point::AttentionOutput)?;
        self.observe(Some(index), Point::AttentionOutput, &heads);
        let rows = Rows::all(&heads, config.num_attention_heads * config.v_head_dim);
        let input = linear.prepare(rows, &[&layer.attention_output]);
        Ok(self.product(&layer.attention_output, &input))
    }

    /// Rotates what RoPE rotates in every head. `heads`: `[tokens, width]`, whole heads of queries or keys.
    pub(crate) fn rotate_heads(&self, heads: &mut [f32], width: usize) {
        let Loaded { config, rope, .. } = self.model;
        let (rotated, qk) = (config.rotated(), config.qk_head_dim());
        let rows = heads.par_chunks_exact_mut(width).zip(&self.positions);
        rows.for_each(|(row, &position)| {
            for head in row.chunks_exact_mut(qk) {
                rope.rotate(position, &mut head[rotated.clone()]);
            }
        });
    }

    /// Softmax attention of every sequence and head: `[tokens, heads * widths.value]`.
    ///
    /// Without values of their own, values are the first columns of the keys.
    pub(crate) fn attend(
        &mut self,
        index: usize,
        queries: &[f32],
        new: KeyValues,
        widths: Widths,
    ) -> Buffer<f32> {
        let config = &self.model.config;
        let heads = config.num_attention_heads;
        let tokens = self.positions.len();
        let (key_stride, value_stride) = (new.keys.len() / tokens, new.values.len() / tokens);
        let scale = attention_scale(config.qk_head_dim());
        let half_shares = widths.sharing == 1 && self.model.linear.arithmetic.half_precision_cache();
        let mut mixed = self.model.linear.workspace.floats.take(tokens * heads * widths.value);
        let (mut tasks, mut rest, mut first) = (Vec::new(), &mut mixed[..], 0);
        for sequence in self.batch.iter_mut() {
            let count = sequence.tokens.len();
            let rows = first..first + count;
            let (keys, values, past) = remember(
                sequence.cache.as_deref_mut().map(|cache| (cache.len(), &mut cache.layers[index])),
                &new.keys[rows.start * key_stride..rows.end * key_stride],
                &new.values[rows.start * value_stride..rows.end * value_stride],
            );
            let queries = &queries[rows.start * heads * widths.key..rows.end * heads * widths.key];
            for head in 0..heads {
                let (out, others) = rest.split_at_mut(count * widths.value);
                rest = others;
                let column = head / widths.sharing;
                let keys = rows_of(keys, key_stride, column * widths.key, widths.key);
                let values = if values.is_empty() {
                    Rows { width: widths.value, ..keys }
                } else {
                    rows_of(values, value_stride, column * widths.value, widths.value)
                };
                let queries = rows_of(queries, heads * widths.key, head * widths.key, widths.key);
                tasks.push((Head { queries, keys, values, past, scale, half_shares }, out));
            }
            first += count;
        }
        let workspace = &self.model.linear.workspace;
        tasks.into_par_iter().for_each(|(head, out)| head.attend(workspace, None, out));
        self.by_token(&mixed, widths.value)
    }

    /// Rounds what attention keeps, in the arithmetic that is computed.
    ///
    /// llama.cpp multiplies a half-precision cache with half-precision queries and shares, except in flash attention,
    /// which computes in f32. Its graph of PLM runs without flash attention, those in which heads share keys with it.
    pub(crate) fn round_to_cache(&self, values: &mut [f32]) {
        if self.model.linear.arithmetic.half_precision_cache() {
            values.par_chunks_mut(1 << 14).for_each(|values| ActivationRounding::F16.apply(values));
        }
    }

    /// From `[sequences][heads][tokens][width]` to `[tokens, heads * width]`.
    fn by_token(&self, mixed: &[f32], width: usize) -> Buffer<f32> {
        let heads = self.model.config.num_attention_heads;
        let mut out = self.model.linear.workspace.floats.take(mixed.len());
        let (mut rest_in, mut rest_out) = (mixed, &mut out[..]);
        for sequence in self.batch.iter() {
            let count = sequence.tokens.len();
            let (input, others) = rest_in.split_at(count * heads * width);
            rest_in = others;
            let (output, others) = rest_out.split_at_mut(count * heads * width);
            rest_out = others;
            output.par_chunks_exact_mut(heads * width).enumerate().for_each(|(t, row)| {
                for (head, out) in row.chunks_exact_mut(width).enumerate() {
                    out.copy_from_slice(&input[(head * count + t) * width..][..width]);
                }
            });
        }
        out
    }
}

/// Some columns of rows of `stride` values.
pub(crate) fn rows_of(data: &[f32], stride: usize, offset: usize, width: usize) -> Rows<'_> {
    Rows { data, stride, offset, width }
}

/// Appends a layer's new keys and values to the cache; what attention then looks at, and how much is past.
fn remember<'a>(
    cache: Option<(usize, &'a mut LayerCache)>,
    keys: &'a [f32],
    values: &'a [f32],
) -> (&'a [f32], &'a [f32], usize) {
    match cache {
        None => (keys, values, 0),
        Some((past, layer)) => {
            layer.keys.extend_from_slice(keys);
            layer.values.extend_from_slice(values);
            (&layer.keys, &layer.values, past)
        }
    }
}
