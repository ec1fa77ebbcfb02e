//! Multi-head latent attention, in its two forms.

use rayon::prelude::*;

use crate::attention::Head;
use crate::buffers::Buffer;
use crate::error::Result;
use crate::evaluator::{Attention, Evaluator, check_finite};
use crate::forward::Forward;
use crate::linear::{Linear, Rows, Target};
use crate::site::Point;
use crate::state::LayerCache;
use crate::weights::{KvB, Layer, Query};

/// Keys and values of one layer, for the tokens of the batch.
struct KeyValues {
    keys: Buffer<f32>,
    values: Buffer<f32>,
}

impl Forward<'_, '_, '_, '_> {
    /// The attention block's contribution: `[tokens, hidden_size]`.
    pub(crate) fn attention(&mut self, index: usize, layer: &Layer, x: &[f32]) -> Result<Buffer<f32>> {
        let config = &self.evaluator.config;
        let linear = &self.evaluator.linear;
        let normalized = self.rms_norm(x, &layer.attention_norm);
        check_finite(&normalized, config.hidden_size, index, Point::AttentionInput)?;
        self.observe(Some(index), Point::AttentionInput, &normalized);
        let input = linear.prepare(Rows::all(&normalized, config.hidden_size));
        let mut queries = match &layer.query {
            Query::Direct(matrix) => self.product(matrix, &input),
            Query::LowRank { a, norm, b } => {
                let latent = self.rms_norm(&self.product(a, &input), norm);
                self.observe(Some(index), Point::QueryLatent, &latent);
                self.product(b, &linear.prepare(Rows::all(&latent, norm.len())))
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
        let heads = match self.evaluator.options.attention {
            Attention::Expanded => self.expanded(index, &layer.kv_b, queries, &latents),
            Attention::Absorbed => self.absorbed(index, &layer.kv_b, queries, latents),
        };
        check_finite(&heads, heads.len() / self.positions.len(), index, Point::AttentionOutput)?;
        self.observe(Some(index), Point::AttentionOutput, &heads);
        let input = linear.prepare(Rows::all(&heads, config.num_attention_heads * config.v_head_dim));
        Ok(self.product(&layer.attention_output, &input))
    }

    /// Normalizes the latent and turns the shared key. `latents`: `[tokens, kv_lora_rank + rope]`.
    fn finish_latents(&self, layer: &Layer, latents: &mut [f32]) {
        let evaluator = self.evaluator;
        let rank = evaluator.config.kv_lora_rank;
        let stride = rank + evaluator.config.qk_rope_head_dim;
        latents.par_chunks_exact_mut(stride).zip(&self.positions).for_each(|(row, &position)| {
            let (latent, key) = row.split_at_mut(rank);
            let scale = evaluator.rms_scale(latent);
            for (x, w) in latent.iter_mut().zip(&layer.kv_a_norm) {
                *x = *x * scale * w;
            }
            evaluator.rope.apply(position, key);
        });
    }

    /// Turns the last `rope` values of every head. `queries`: `[tokens, heads * (nope + rope)]`.
    fn rotate_queries(&self, queries: &mut [f32]) {
        let Evaluator { config, rope, .. } = self.evaluator;
        let (nope, qk) = (config.qk_nope_head_dim, config.qk_head_dim());
        let rows = queries.par_chunks_exact_mut(config.num_attention_heads * qk).zip(&self.positions);
        rows.for_each(|(row, &position)| {
            for head in row.chunks_exact_mut(qk) {
                rope.apply(position, &mut head[nope..]);
            }
        });
    }

    /// Attention over the keys and values of every head: `[tokens, heads * v]`.
    fn expanded(&mut self, index: usize, kv_b: &KvB, queries: Buffer<f32>, latents: &[f32]) -> Buffer<f32> {
        let config = &self.evaluator.config;
        let new = self.expand(kv_b, latents);
        let (qk, v) = (config.qk_head_dim(), config.v_head_dim);
        self.attend(index, &queries, new, qk, |head| (head * qk, head * v), v)
    }

    /// Keys `[tokens, heads * (nope + rope)]` and values `[tokens, heads * v]` from latents.
    fn expand(&self, kv_b: &KvB, latents: &[f32]) -> KeyValues {
        let config = &self.evaluator.config;
        let (nope, v, qk) = (config.qk_nope_head_dim, config.v_head_dim, config.qk_head_dim());
        let (heads, rank) = (config.num_attention_heads, config.kv_lora_rank);
        let tokens = self.positions.len();
        let stride = rank + config.qk_rope_head_dim;
        let rows = Rows { data: latents, stride, offset: 0, width: rank };
        let input = self.evaluator.linear.prepare(rows);
        let mut keys = self.evaluator.linear.floats.take(tokens * heads * qk);
        let values = match kv_b {
            KvB::Joint(matrix) => {
                let joint = self.product(matrix, &input);
                let mut values = self.evaluator.linear.floats.take(tokens * heads * v);
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
                    self.evaluator.linear.transposed_product_into(
                        key,
                        rows,
                        rows_of(latents, stride, 0, rank),
                        &mut keys,
                        target,
                    );
                }
                self.product(value, &input)
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
        latents: Buffer<f32>,
    ) -> Buffer<f32> {
        let config = &self.evaluator.config;
        let linear = &self.evaluator.linear;
        let (nope, rope, v) = (config.qk_nope_head_dim, config.qk_rope_head_dim, config.v_head_dim);
        let (heads, rank, qk) = (config.num_attention_heads, config.kv_lora_rank, config.qk_head_dim());
        let tokens = self.positions.len();
        let wide = rank + rope;
        let mut latent_queries = linear.floats.take(tokens * heads * wide);
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
                    linear.product_into(key, rows, &linear.prepare(query), &mut latent_queries, target);
                }
            }
        }
        latent_queries
            .par_chunks_exact_mut(wide)
            .zip(queries.par_chunks_exact(qk))
            .for_each(|(wide, query)| wide[rank..].copy_from_slice(&query[nope..]));
        let new = KeyValues { keys: latents, values: linear.floats.take(0) };
        let mixed = self.attend(index, &latent_queries, new, wide, |_| (0, 0), rank);
        let mut out = linear.floats.take(tokens * heads * v);
        for head in 0..heads {
            let input = linear.prepare(rows_of(&mixed, heads * rank, head * rank, rank));
            let target = Target { stride: heads * v, offset: head * v };
            let (matrix, first) = match kv_b {
                KvB::Joint(matrix) => (matrix, head * (nope + v) + nope),
                KvB::Split { value, .. } => (value, head * v),
            };
            linear.product_into(matrix, first..first + v, &input, &mut out, target);
        }
        out
    }

    /// Softmax attention of every sequence and head: `[tokens, heads * value_width]`.
    ///
    /// `query_width` is also the keys' width; `columns(head)` says where a head's key and value start.
    /// Without values of their own, values are the first columns of the keys.
    fn attend(
        &mut self,
        index: usize,
        queries: &[f32],
        new: KeyValues,
        query_width: usize,
        columns: impl Fn(usize) -> (usize, usize) + Sync,
        value_width: usize,
    ) -> Buffer<f32> {
        let config = &self.evaluator.config;
        let heads = config.num_attention_heads;
        let tokens = self.positions.len();
        let (key_stride, value_stride) = (new.keys.len() / tokens, new.values.len() / tokens);
        let scale = (1.0 / (config.qk_head_dim() as f64).sqrt()) as f32;
        let mut mixed = self.evaluator.linear.floats.take(tokens * heads * value_width);
        let (mut tasks, mut rest, mut first) = (Vec::new(), &mut mixed[..], 0);
        for sequence in self.batch.iter_mut() {
            let count = sequence.tokens.len();
            let rows = first..first + count;
            let (keys, values, past) = remember(
                sequence.cache.as_deref_mut().map(|cache| (cache.len(), &mut cache.layers[index])),
                &new.keys[rows.start * key_stride..rows.end * key_stride],
                &new.values[rows.start * value_stride..rows.end * value_stride],
            );
            let queries = &queries[rows.start * heads * query_width..rows.end * heads * query_width];
            for head in 0..heads {
                let (out, others) = rest.split_at_mut(count * value_width);
                rest = others;
                let (key_column, value_column) = columns(head);
                let keys = Rows { data: keys, stride: key_stride, offset: key_column, width: query_width };
                let values = if values.is_empty() {
                    Rows { width: value_width, ..keys }
                } else {
                    Rows { data: values, stride: value_stride, offset: value_column, width: value_width }
                };
                let queries = rows_of(queries, heads * query_width, head * query_width, query_width);
                tasks.push((Head { queries, keys, values, past, scale }, out));
            }
            first += count;
        }
        let Linear { kernels, floats, .. } = &self.evaluator.linear;
        tasks.into_par_iter().for_each(|(head, out)| head.attend(kernels, floats, out));
        self.by_token(&mixed, value_width)
    }

    /// From `[sequences][heads][tokens][width]` to `[tokens, heads * width]`.
    fn by_token(&self, mixed: &[f32], width: usize) -> Buffer<f32> {
        let heads = self.evaluator.config.num_attention_heads;
        let mut out = self.evaluator.linear.floats.take(mixed.len());
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
