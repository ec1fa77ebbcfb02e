//! What makes a layer's queries, keys and values.

use plmconv_formats::model::AttentionKind;
use plmconv_formats::{Layout, Model, Role, TensorKey};

use super::{Matrix, load_vector};
use crate::error::Result;
use crate::site::Point;

/// The weights of one kind of attention.
#[derive(Debug)]
pub(crate) enum AttentionWeights {
    Latent(LatentWeights),
    Grouped(GroupedWeights),
}

/// Keys and values come from a latent.
#[derive(Debug)]
pub(crate) struct LatentWeights {
    pub query: Query,
    pub kv_a: Matrix,
    pub kv_a_norm: Vec<f32>,
    pub kv_b: KvB,
}

/// Keys and values come from the layer's input.
#[derive(Debug)]
pub(crate) struct GroupedWeights {
    pub query: Matrix,
    pub key: Matrix,
    pub value: Matrix,
}

/// Queries from the layer's input: at once, or through a latent of `q_lora_rank`.
#[derive(Debug)]
pub(crate) enum Query {
    Direct(Matrix),
    LowRank { a: Matrix, norm: Vec<f32>, b: Matrix },
}

/// Keys and values from the latent.
#[derive(Debug)]
pub(crate) enum KvB {
    /// `[heads * (nope + v), kv_lora_rank]`, per head first the key's rows, then the value's.
    Joint(Matrix),
    /// Latent layout: `key` is `[heads * kv_lora_rank, nope]` (transposed), `value` `[heads * v, kv_lora_rank]`.
    Split { key: Matrix, value: Matrix },
}

impl AttentionWeights {
    pub fn load(model: &Model, layer: usize) -> Result<AttentionWeights> {
        let matrix = |role| Matrix::load(model, TensorKey::in_layer(layer, role));
        Ok(match model.config.architecture.attention {
            AttentionKind::Latent => AttentionWeights::Latent(LatentWeights::load(model, layer)?),
            AttentionKind::Grouped => AttentionWeights::Grouped(GroupedWeights {
                query: matrix(Role::Query)?,
                key: matrix(Role::Key)?,
                value: matrix(Role::Value)?,
            }),
        })
    }

    /// Bytes held.
    pub fn byte_len(&self) -> usize {
        match self {
            AttentionWeights::Latent(weights) => weights.byte_len(),
            AttentionWeights::Grouped(GroupedWeights { query, key, value }) => {
                query.byte_len() + key.byte_len() + value.byte_len()
            }
        }
    }

    /// The matrices that are multiplied with what an observer sees at `point`.
    ///
    /// The latent layout multiplies its split kv_b with queries and weighted latents, which no observer sees.
    pub fn readers(&self, point: Point) -> Vec<(Role, &Matrix)> {
        match (self, point) {
            (AttentionWeights::Latent(weights), _) => weights.readers(point),
            (AttentionWeights::Grouped(GroupedWeights { query, key, value }), Point::AttentionInput) => {
                vec![(Role::Query, query), (Role::Key, key), (Role::Value, value)]
            }
            (AttentionWeights::Grouped(_), _) => Vec::new(),
        }
    }
}

impl LatentWeights {
    fn load(model: &Model, layer: usize) -> Result<LatentWeights> {
        let config = &model.config;
        let key = |role| TensorKey::in_layer(layer, role);
        let matrix = |role| Matrix::load(model, key(role));
        let query = match config.q_lora_rank {
            None => Query::Direct(matrix(Role::Query)?),
            Some(_) => Query::LowRank {
                a: matrix(Role::QueryA)?,
                norm: load_vector(model, key(Role::QueryANorm))?,
                b: matrix(Role::QueryB)?,
            },
        };
        let kv_b = match config.layout {
            Layout::Own => KvB::Joint(matrix(Role::KvB)?),
            Layout::Latent => KvB::Split { key: matrix(Role::KeyB)?, value: matrix(Role::ValueB)? },
        };
        let kv_a_norm = load_vector(model, key(Role::KvANorm))?;
        Ok(LatentWeights { query, kv_a: matrix(Role::KvA)?, kv_a_norm, kv_b })
    }

    fn byte_len(&self) -> usize {
        let query = match &self.query {
            Query::Direct(m) => m.byte_len(),
            Query::LowRank { a, b, .. } => a.byte_len() + b.byte_len(),
        };
        let kv_b = match &self.kv_b {
            KvB::Joint(m) => m.byte_len(),
            KvB::Split { key, value } => key.byte_len() + value.byte_len(),
        };
        query + kv_b + self.kv_a.byte_len()
    }

    fn readers(&self, point: Point) -> Vec<(Role, &Matrix)> {
        match (point, &self.query, &self.kv_b) {
            (Point::AttentionInput, Query::Direct(matrix), _) => {
                vec![(Role::Query, matrix), (Role::KvA, &self.kv_a)]
            }
            (Point::AttentionInput, Query::LowRank { a, .. }, _) => {
                vec![(Role::QueryA, a), (Role::KvA, &self.kv_a)]
            }
            (Point::QueryLatent, Query::LowRank { b, .. }, _) => vec![(Role::QueryB, b)],
            (Point::KvLatent, _, KvB::Joint(matrix)) => vec![(Role::KvB, matrix)],
            _ => Vec::new(),
        }
    }
}
