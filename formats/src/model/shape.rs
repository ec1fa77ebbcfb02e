//! The shape of every tensor, from the hyperparameters: the one place that knows it.

use super::{Config, Layout, Role, TensorKey};
use crate::source::rows_and_columns;

impl Config {
    /// Values of one query or key head: `qk_nope_head_dim + qk_rope_head_dim`.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// Rows of kv_b for one head, first those of its key, then those of its value: `qk_nope_head_dim + v_head_dim`.
    pub fn kv_b_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.v_head_dim
    }

    /// Values of one token's latent with the RoPE key that all heads share, which is what kv_a makes and what a
    /// latent cache keeps: `kv_lora_rank + qk_rope_head_dim`.
    pub fn latent_dim(&self) -> usize {
        self.kv_lora_rank + self.qk_rope_head_dim
    }

    /// Values of one token's keys and values for every head, which is what an expanded cache keeps.
    pub fn expanded_dim(&self) -> usize {
        self.num_attention_heads * (self.qk_head_dim() + self.v_head_dim)
    }

    /// The row-major shape of a role's tensor, or `None` where a model of this config has no such tensor.
    pub fn shape_of(&self, role: Role) -> Option<Vec<usize>> {
        let heads = self.num_attention_heads;
        let query_rows = heads * self.qk_head_dim();
        let latent = self.layout == Layout::Latent;
        Some(match role {
            Role::TokenEmbedding => vec![self.vocab_size, self.hidden_size],
            Role::AttentionNorm | Role::FfnNorm | Role::OutputNorm => vec![self.hidden_size],
            Role::Query if self.q_lora_rank.is_none() => vec![query_rows, self.hidden_size],
            Role::QueryA => vec![self.q_lora_rank?, self.hidden_size],
            Role::QueryANorm => vec![self.q_lora_rank?],
            Role::QueryB => vec![query_rows, self.q_lora_rank?],
            Role::KvA => vec![self.latent_dim(), self.hidden_size],
            Role::KvANorm => vec![self.kv_lora_rank],
            Role::KvB if !latent => vec![heads * self.kv_b_head_dim(), self.kv_lora_rank],
            Role::KeyB if latent => vec![heads, self.kv_lora_rank, self.qk_nope_head_dim],
            Role::ValueB if latent => vec![heads, self.v_head_dim, self.kv_lora_rank],
            Role::AttentionOutput => vec![self.hidden_size, heads * self.v_head_dim],
            Role::FfnGate if latent => vec![self.intermediate_size, self.hidden_size],
            Role::FfnUp => vec![self.intermediate_size, self.hidden_size],
            Role::FfnDown => vec![self.hidden_size, self.intermediate_size],
            Role::Query | Role::KvB | Role::KeyB | Role::ValueB | Role::FfnGate => return None,
        })
    }

    /// Where a checkpoint's RoPE pairs lie half a head apart, the order of a role's rows in which they lie side by side:
    /// output 2i takes row i, output 2i + 1 takes row i + half, in every query head and in the shared key. `None` for
    /// rows that stay where they are.
    pub fn moved_rows(&self, role: Role) -> Option<Vec<u32>> {
        let (nope, rope) = (self.qk_nope_head_dim, self.qk_rope_head_dim);
        let interleaved =
            |first: usize| (0..rope).map(move |i| (first + (i % 2) * (rope / 2) + i / 2) as u32);
        let rows = |range: std::ops::Range<usize>| range.map(|row| row as u32);
        match role {
            _ if self.rope_interleave => None,
            Role::Query | Role::QueryB => {
                let heads = (0..self.num_attention_heads).map(|head| head * (nope + rope));
                Some(
                    heads
                        .flat_map(|start| rows(start..start + nope).chain(interleaved(start + nope)))
                        .collect(),
                )
            }
            Role::KvA => Some(rows(0..self.kv_lora_rank).chain(interleaved(self.kv_lora_rank)).collect()),
            _ => None,
        }
    }

    /// Rows and columns of a role's tensor as a [`RowSource`](crate::source::RowSource) has them, or `None` where a
    /// model of this config has no such tensor.
    pub fn matrix_shape(&self, role: Role) -> Option<[usize; 2]> {
        rows_and_columns(&self.shape_of(role)?)
    }

    /// The tensors that a model of this config consists of, in file order, with their row-major shapes.
    pub fn expected_tensors(&self) -> Vec<(TensorKey, Vec<usize>)> {
        let layers = (0..self.num_hidden_layers).flat_map(|layer| {
            let roles = Role::all().filter(|role| role.is_per_layer());
            roles.map(move |role| TensorKey::in_layer(layer, role))
        });
        std::iter::once(TensorKey::global(Role::TokenEmbedding))
            .chain(layers)
            .chain([TensorKey::global(Role::OutputNorm)])
            .filter_map(|key| Some((key, self.shape_of(key.role)?)))
            .collect()
    }
}
