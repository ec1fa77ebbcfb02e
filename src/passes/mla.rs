//! The latent layout's attention: kv_b taken apart per head, its key half transposed.
//!
//! Per head, `k = K c` and `v = V c` with `[K; V]` the head's rows of kv_b and `c` the normalized latent. A query
//! meets a key in `q·(K c) = (Kᵀ q)·c`, and the heads' output is `V Σ p c`: with `Kᵀ` and `V` as matrices of
//! their own, attention runs over the latent alone.

use std::ops::Range;
use std::sync::Arc;

use plmconv_formats::model::{Model, Tensor};
use plmconv_formats::source::{GatheredRows, RowSource};
use plmconv_formats::{Config, Layout, Result, Role, TensorKey};

use super::values::{Decoded, Exact, Values, source};

/// Rows of kv_b transposed within each head: `[heads * kv_lora_rank, qk_nope]`.
#[derive(Debug)]
struct TransposedKeys {
    kv_b: Decoded,
    kv_lora_rank: usize,
    qk_nope: usize,
    /// Rows of kv_b from one head's keys to the next one's.
    head_rows: usize,
    heads: usize,
}

impl Values for TransposedKeys {
    fn rows(&self) -> usize {
        self.heads * self.kv_lora_rank
    }

    fn cols(&self) -> usize {
        self.qk_nope
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.reserve(rows.len() * self.qk_nope);
        let mut keys = Vec::new();
        let mut row = rows.start;
        while row < rows.end {
            let head = row / self.kv_lora_rank;
            let end = rows.end.min((head + 1) * self.kv_lora_rank);
            let first = head * self.head_rows;
            self.kv_b.read(first..first + self.qk_nope, &mut keys)?;
            for latent in row % self.kv_lora_rank..end - head * self.kv_lora_rank {
                out.extend(keys[latent..].iter().step_by(self.kv_lora_rank));
            }
            row = end;
        }
        Ok(())
    }
}

/// Puts attn_k_b and attn_v_b in kv_b's place. The layout is complete once the FFN has its gate
/// ([`super::gate::add`]).
pub fn split_kv_b(config: &Config, kv_b: &Tensor) -> [Tensor; 2] {
    let layer = kv_b.key.layer.expect("kv_b belongs to a layer");
    let latent = Config { layout: Layout::Latent, ..config.clone() };
    let part = |role, source: Arc<dyn RowSource>| Tensor {
        key: TensorKey::in_layer(layer, role),
        shape: latent.shape_of(role).expect("the latent layout has both halves of kv_b"),
        source,
    };
    let head_rows = config.kv_b_head_dim();
    let keys = TransposedKeys {
        kv_b: Decoded::of(kv_b),
        kv_lora_rank: config.kv_lora_rank,
        qk_nope: config.qk_nope_head_dim,
        head_rows,
        heads: config.num_attention_heads,
    };
    let key = TensorKey::in_layer(layer, Role::KeyB);
    let value_rows = (0..config.num_attention_heads).flat_map(|head| {
        (head * head_rows + config.qk_nope_head_dim..(head + 1) * head_rows).map(|r| r as u32)
    });
    let values = GatheredRows::new(Arc::clone(&kv_b.source), value_rows.collect());
    [
        part(Role::KeyB, source(key, kv_b.source.dtype(), Exact::Moved, keys)),
        part(Role::ValueB, Arc::new(values)),
    ]
}

/// Folds kv_a_layernorm's weight into the columns of kv_b; the weight becomes one.
///
/// After this the latent only has to keep its norm, so [`super::rotate::latent`] may rotate it.
pub fn fold_latent_norm(mut model: Model) -> Result<Model> {
    for layer in 0..model.config.num_hidden_layers {
        let norm = super::tensor_mut(&mut model, layer, Role::KvANorm)?;
        let weight: Arc<[f32]> = Decoded::of(norm).read_all()?.into();
        let cols = norm.source.cols();
        super::values::replace(norm, Exact::No, |_| super::values::Constant { value: 1.0, rows: 1, cols });
        let kv_b = super::tensor_mut(&mut model, layer, Role::KvB)?;
        super::values::replace(kv_b, Exact::No, |source| super::values::Scaled {
            source,
            factor: 1.0,
            row_factors: None,
            column_factors: Some(weight),
        });
    }
    Ok(model)
}
