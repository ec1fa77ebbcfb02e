//! Multi-head latent attention, in its two forms.

use rayon::prelude::*;

use crate::attention::{KeyValues, Widths, rows_of};
use crate::buffers::Buffer;
use crate::forward::Forward;
use crate::linear::{Rows, Target};
use crate::loaded::Loaded;
use crate::network::rms_norm_row;
use crate::site::Point;
use crate::state::Attention;
use crate::weights::{KvB, LatentWeights, Query};

impl Forward<'_, '_, '_, '_> {
    /// The heads' outputs, `[tokens, heads * v]`, for the block's normalized input.
    pub(crate) fn latent_heads(
        &mut self,
        index: usize,
        weights: &LatentWeights,
        normalized: &[f32],
    ) -> Buffer<f32> {
        let config = &self.model.config;
        let linear = &self.model.linear;
        let query = match &weights.query {
            Query::Direct(matrix) | Query::LowRank { a: matrix, .. } => matrix,
        };
        let rows = Rows::all(normalized, config.hidden_size);
        let input = linear.prepare(rows, &[query, &weights.kv_a]);
        let mut queries = match &weights.query {
            Query::Direct(matrix) => self.product(matrix, &input),
            Query::LowRank { a, norm, b } => {
                let latent = self.rms_norm(&self.product(a, &input), norm);
                self.observe(Some(index), Point::QueryLatent, &latent);
                self.product(b, &linear.prepare(Rows::all(&latent, norm.len()), &[b]))
            }
        };
        let mut latents = self.product(&weights.kv_a, &input);
        drop(input);
        self.finish_latents(weights, &mut latents);
        if self.observer.is_some() {
            let rank = config.latent_rank();
            let only: Vec<f32> =
                latents.chunks_exact(config.latent_dim()).flat_map(|row| &row[..rank]).copied().collect();
            self.observe(Some(index), Point::KvLatent, &only);
        }
        self.rotate_heads(&mut queries, config.num_attention_heads * config.qk_head_dim());
        match self.model.attention {
            Attention::Expanded => self.expanded(index, &weights.kv_b, queries, &latents),
            Attention::Absorbed => self.absorbed(index, &weights.kv_b, queries, latents),
        }
    }

    /// Normalizes the latent and rotates the shared key. `latents`: `[tokens, kv_lora_rank + rope]`.
    fn finish_latents(&self, weights: &LatentWeights, latents: &mut [f32]) {
        let Loaded { config, rope, .. } = self.model;
        let stride = config.latent_rank() + config.qk_rope_head_dim;
        latents.par_chunks_exact_mut(stride).zip(&self.positions).for_each(|(row, &position)| {
            let (latent, key) = row.split_at_mut(config.latent_rank());
            rms_norm_row(latent, &weights.kv_a_norm, config.norm_eps);
            rope.rotate(position, key);
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
        let widths = Widths { key: config.qk_head_dim(), value: config.v_head_dim, sharing: 1 };
        self.attend(index, &queries, new, widths)
    }

    /// Keys `[tokens, heads * (nope + rope)]` and values `[tokens, heads * v]` from latents.
    fn expand(&self, kv_b: &KvB, latents: &[f32]) -> KeyValues {
        let config = &self.model.config;
        let (nope, v, qk) = (config.qk_nope_head_dim, config.v_head_dim, config.qk_head_dim());
        let (heads, rank) = (config.num_attention_heads, config.latent_rank());
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
        let (heads, rank, qk) = (config.num_attention_heads, config.latent_rank(), config.qk_head_dim());
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
        let widths = Widths { key: wide, value: rank, sharing: heads };
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
}
