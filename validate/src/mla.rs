//! Multi-head latent attention, in its two forms.

use rayon::prelude::*;

use crate::arithmetic::ActivationRounding;
use crate::buffers::Buffer;
use crate::error::Result;
use crate::forward::Forward;
use crate::linear::{Rows, Target};
use crate::loaded::Loaded;
use crate::network::{Head, attention_scale, rms_norm_row};
use crate::site::{Point, check_finite};
use crate::state::{Attention, LayerCache};
use crate::weights::{KvB, Layer, Query};

/// Keys and values of one layer, for the tokens of the batch.
struct KeyValues {
    keys: Buffer<f32>,
    values: Buffer<f32>,
}

/// How many values a head has in the rows that attention sees.
#[derive(Clone, Copy)]
struct Widths {
    /// Of a query and of a key.
    key: usize,
    value: usize,
    /// All heads see the same keys and values.
    shared: bool,
}

impl Forward<'_, '_, '_, '_> {
    /// The attention block's contribution: `[tokens, hidden_size]`.
    pub(crate) fn attention(&mut self, index: usize, layer: &Layer, x: &[f32]) -> Result<Buffer<f32>> {
        let config = &self.model.config;
        let linear = &self.model.linear;
        let normalized = self.rms_norm(x, &layer.attention_norm);
        check_finite(&normalized, config.hidden_size, index, Point::AttentionInput)?;
        self.observe(Some(index), Point::AttentionInput, &normalized);
        let query = match &layer.query {
            Query::Direct(matrix) | Query::LowRank { a: matrix, .. } => matrix,
        };
        let rows = Rows::all(&normalized, config.hidden_size);
        let input = linear.prepare(rows, &[query, &layer.kv_a]);
        let mut queries = match &layer.query {
            Query::Direct(matrix) => self.product(matrix, &input),
            Query::LowRank { a, norm, b } => {
                let latent = self.rms_norm(&self.product(a, &input), norm);
                self.observe(Some(index), Point::QueryLatent, &latent);
                self.product(b, &linear.prepare(Rows::all(&latent, norm.len()), &[b]))
            }
        };
        let mut latents = self.product(&layer.kv_a, &input);
        drop(input);
        self.finish_latents(layer, &mut latents);
        if self.observer.is_some() {
            let rank = config.kv_lora_rank;
            let stride = rank + config.qk_rope_head_dim;
            let only: Vec<f32> = latents.chunks_exact(stride).flat_map(|row| &row[..rank]).copied().collect();
            self.observe(Some(index), Point::KvLatent, &only);
        }
        self.rotate_queries(&mut queries);
        let heads = match self.model.attention {
            Attention::Expanded => self.expanded(index, &layer.kv_b, queries, &latents),
            Attention::Absorbed => self.absorbed(index, &layer.kv_b, queries, latents),
        };
        check_finite(&heads, heads.len() / self.positions.len(), index, Point::AttentionOutput)?;
        self.observe(Some(index), Point::AttentionOutput, &heads);
        let rows = Rows::all(&heads, config.num_attention_heads * config.v_head_dim);
        let input = linear.prepare(rows, &[&layer.attention_output]);
        Ok(self.product(&layer.attention_output, &input))
    }

    /// Normalizes the latent and rotates the shared key. `latents`: `[tokens, kv_lora_rank + rope]`.
    fn finish_latents(&self, layer: &Layer, latents: &mut [f32]) {
        let Loaded { config, rope, .. } = self.model;
        let stride = config.kv_lora_rank + config.qk_rope_head_dim;
        latents.par_chunks_exact_mut(stride).zip(&self.positions).for_each(|(row, &position)| {
            let (latent, key) = row.split_at_mut(config.kv_lora_rank);
            rms_norm_row(latent, &layer.kv_a_norm, config.rms_norm_eps);
            rope.rotate(position, key);
        });
    }

    /// Rotates the last `rope` values of every head. `queries`: `[tokens, heads * (nope + rope)]`.
    fn rotate_queries(&self, queries: &mut [f32]) {
        let Loaded { config, rope, .. } = self.model;
        let (nope, qk) = (config.qk_nope_head_dim, config.qk_head_dim());
        let rows = queries.par_chunks_exact_mut(config.num_attention_heads * qk).zip(&self.positions);
        rows.for_each(|(row, &position)| {
            for head in row.chunks_exact_mut(qk) {
                rope.rotate(position, &mut head[nope..]);
            }
        });
    }

    /// Attention over the keys and values of every head: `[tokens, heads * v]`.
    fn expanded(
        &mut self,
        index: usize,
        kv_b: &KvB,
        mut queries: Buffer<f32>,
        latents: &[f32],
    ) -> Buffer<f32> {
        let config = &self.model.config;
        let mut new = self.expand(kv_b, latents);
        self.round_to_cache(&mut queries);
        self.round_to_cache(&mut new.keys);
        self.round_to_cache(&mut new.values);
        let widths = Widths { key: config.qk_head_dim(), value: config.v_head_dim, shared: false };
        self.attend(index, &queries, new, widths)
    }

    /// Keys `[tokens, heads * (nope + rope)]` and values `[tokens, heads * v]` from latents.
    fn expand(&self, kv_b: &KvB, latents: &[f32]) -> KeyValues {
        let config = &self.model.config;
        let (nope, v, qk) = (config.qk_nope_head_dim, config.v_head_dim, config.qk_head_dim());
        let (heads, rank) = (config.num_attention_heads, config.kv_lora_rank);
        let tokens = self.positions.len();
        let stride = rank + config.qk_rope_head_dim;
        let rows = Rows { data: latents, stride, offset: 0, width: rank };
        let mut keys = self.model.linear.workspace.floats.take(tokens * heads * qk);
        let values = match kv_b {
            KvB::Joint(matrix) => {
                let joint = self.product(matrix, &self.model.linear.prepare(rows, &[matrix]));
                let mut values = self.model.linear.workspace.floats.take(tokens * heads * v);
                let rows = joint.par_chunks_exact(heads * (nope + v));
                let outputs =
                    keys.par_chunks_exact_mut(heads * qk).zip(values.par_chunks_exact_mut(heads * v));
                rows.zip(outputs).for_each(|(row, (keys, values))| {
                    for (head, joint) in row.chunks_exact(nope + v).enumerate() {
                        keys[head * qk..][..nope].copy_from_slice(&joint[..nope]);
                        values[head * v..][..v].copy_from_slice(&joint[nope..]);
                    }
                });
                values
            }
            KvB::Split { key, value } => {
                for head in 0..heads {
                    let target = Target { stride: heads * qk, offset: head * qk };
                    let rows = head * rank..(head + 1) * rank;
                    self.model.linear.transposed_product_into(
                        key,
                        rows,
                        rows_of(latents, stride, 0, rank),
                        &mut keys,
                        target,
                    );
                }
                self.product(value, &self.model.linear.prepare(rows, &[value]))
            }
        };
        keys.par_chunks_exact_mut(heads * qk).zip(latents.par_chunks_exact(stride)).for_each(
            |(keys, latent)| {
                for key in keys.chunks_exact_mut(qk) {
                    key[nope..].copy_from_slice(&latent[rank..]);
                }
            },
        );
        KeyValues { keys, values }
    }

    /// The same in the latent space: queries are multiplied with the keys' weights, outputs with the values'.
    fn absorbed(
        &mut self,
        index: usize,
        kv_b: &KvB,
        queries: Buffer<f32>,
        mut latents: Buffer<f32>,
    ) -> Buffer<f32> {
        let config = &self.model.config;
        let linear = &self.model.linear;
        let (nope, rope, v) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
        let (heads, rank, qk) = (config.num_attention_heads, config.kv_lora_rank, config.qk_head_dim());
        let tokens = self.positions.len();
        let wide = rank + rope;
        let mut latent_queries = linear.workspace.floats.take(tokens * heads * wide);
        for head in 0..heads {
            let query = rows_of(&queries, heads * qk, head * qk, nope);
            let target = Target { stride: heads * wide, offset: head * wide };
            match kv_b {
                KvB::Joint(matrix) => {
                    let first = head * (nope + v);
                    let rows = first..first + nope;
                    linear.transposed_product_into(matrix, rows, query, &mut latent_queries, target);
                }
                KvB::Split { key, .. } => {
                    let rows = head * rank..(head + 1) * rank;
                    linear.product_into(
                        key,
                        rows,
                        &linear.prepare(query, &[key]),
                        &mut latent_queries,
                        target,
                    );
                }
            }
        }
        latent_queries
            .par_chunks_exact_mut(wide)
            .zip(queries.par_chunks_exact(qk))
            .for_each(|(wide, query)| wide[rank..].copy_from_slice(&query[nope..]));
        self.round_to_cache(&mut latents);
        let new = KeyValues { keys: latents, values: linear.workspace.floats.take(0) };
        let widths = Widths { key: wide, value: rank, shared: true };
        let mixed = self.attend(index, &latent_queries, new, widths);
        let mut out = linear.workspace.floats.take(tokens * heads * v);
        for head in 0..heads {
            let target = Target { stride: heads * v, offset: head * v };
            let (matrix, first) = match kv_b {
                KvB::Joint(matrix) => (matrix, head * (nope + v) + nope),
                KvB::Split { value, .. } => (value, head * v),
            };
            let input = linear.prepare(rows_of(&mixed, heads * rank, head * rank, rank), &[matrix]);
            linear.product_into(matrix, first..first + v, &input, &mut out, target);
        }
        out
    }

    /// Softmax attention of every sequence and head: `[tokens, heads * widths.value]`.
    ///
    /// Without values of their own, values are the first columns of the keys.
    fn attend(&mut self, index: usize, queries: &[f32], new: KeyValues, widths: Widths) -> Buffer<f32> {
        let config = &self.model.config;
        let heads = config.num_attention_heads;
        let tokens = self.positions.len();
        let (key_stride, value_stride) = (new.keys.len() / tokens, new.values.len() / tokens);
        let scale = attention_scale(config.qk_head_dim());
        let half_shares = !widths.shared && self.model.linear.arithmetic.half_precision_cache();
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
                let column = if widths.shared { 0 } else { head };
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
    /// which computes in f32. Its graph of PLM runs without flash attention, that of the latent layout with it.
    fn round_to_cache(&self, values: &mut [f32]) {
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

fn rows_of(data: &[f32], stride: usize, offset: usize, width: usize) -> Rows<'_> {
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
