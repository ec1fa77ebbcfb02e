//! Digests that say which model statistics belong to, and what a result was made from.

use plmconv_formats::adapter::AdapterIdentity;
use plmconv_formats::source::RowSource;
use plmconv_formats::{Config, Model, hex};
use plmconv_quant::codec;
use sha2::{Digest, Sha256};

use crate::error::Result;

/// A digest of the model's hyperparameters, and of the first, middle and last row of every tensor in f32: equal for
/// a checkpoint and its float GGUFs wherever they lie, and found without reading gigabytes.
///
/// # Errors
/// Unreadable rows.
pub fn model_digest(model: &Model) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(hyperparameters(&model.config));
    let mut tensors: Vec<_> = model.tensors.iter().collect();
    tensors.sort_by_key(|t| t.key);
    for tensor in tensors {
        add_rows(&mut hash, &tensor.key.gguf_name(), &*tensor.source)?;
    }
    // Rows are a sample, in which an adapter that changes few of them might not be seen.
    for AdapterIdentity { weights, config, scale } in &model.adapters {
        hash.update(format!("adapter {weights} {config} {:016x}\n", scale.to_bits()));
    }
    Ok(hex(hash.finalize()))
}

/// Every hyperparameter that the function depends on, one way of writing each.
fn hyperparameters(config: &Config) -> String {
    // All fields are named, so that a new one is a decision here.
    let Config {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_hidden_layers,
        num_attention_heads,
        q_lora_rank,
        kv_lora_rank,
        qk_nope_head_dim,
        qk_rope_head_dim,
        v_head_dim,
        // How long a text may be, not what becomes of it.
        max_position_embeddings: _,
        rms_norm_eps,
        rope_theta,
        // Rows are in one order, and the head is the embedding, in whatever was read.
        rope_interleave: _,
        tie_word_embeddings: _,
        // Statistics are of the `plm` layout.
        layout: _,
    } = *config;
    let q_lora_rank = q_lora_rank.unwrap_or(0);
    format!(
        "vocab_size {vocab_size}\nhidden_size {hidden_size}\nintermediate_size {intermediate_size}\n\
         num_hidden_layers {num_hidden_layers}\nnum_attention_heads {num_attention_heads}\n\
         q_lora_rank {q_lora_rank}\nkv_lora_rank {kv_lora_rank}\nqk_nope_head_dim {qk_nope_head_dim}\n\
         qk_rope_head_dim {qk_rope_head_dim}\nv_head_dim {v_head_dim}\nrms_norm_eps {:08x}\nrope_theta {:08x}\n",
        rms_norm_eps.to_bits(),
        rope_theta.to_bits()
    )
}

/// Adds a matrix's name, its size, and its first, middle and last row in f32.
///
/// # Errors
/// Unreadable rows.
pub fn add_rows(hash: &mut Sha256, name: &str, source: &dyn RowSource) -> Result<()> {
    let (rows, cols) = (source.rows(), source.cols());
    hash.update(format!("{name} {rows} {cols}\n"));
    let (mut bytes, mut values) = (Vec::new(), vec![0.0; cols]);
    for row in [0, rows / 2, rows - 1] {
        source.read_rows(row..row + 1, &mut bytes)?;
        codec::decode(source.dtype(), &bytes, &mut values)?;
        values.iter().for_each(|x| hash.update(x.to_le_bytes()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn each_hyperparameter_of_the_function_changes_the_digest() {
        let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-plm");
        let config = Model::open(tiny).expect("a fixture").config;
        let changes: [fn(&mut Config); 12] = [
            |c| c.vocab_size += 1,
            |c| c.hidden_size += 1,
            |c| c.intermediate_size += 1,
            |c| c.num_hidden_layers += 1,
            |c| c.num_attention_heads += 1,
            |c| c.q_lora_rank = Some(1),
            |c| c.kv_lora_rank += 1,
            |c| c.qk_nope_head_dim += 1,
            |c| c.qk_rope_head_dim += 1,
            |c| c.v_head_dim += 1,
            |c| c.rms_norm_eps *= 1.0 + f32::EPSILON,
            |c| c.rope_theta *= 1.0 + f32::EPSILON,
        ];
        let mut seen = std::collections::BTreeSet::from([hyperparameters(&config)]);
        for change in changes {
            let mut changed = config.clone();
            change(&mut changed);
            assert!(seen.insert(hyperparameters(&changed)), "{changed:?}");
        }
        let mut same = config.clone();
        same.max_position_embeddings *= 2;
        assert!(seen.contains(&hyperparameters(&same)));
    }
}
