//! The hyperparameters in a GGUF's metadata: names, values and order.

use serde_json::{Map, Value as Json};

use super::{Config, Yarn};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value};

/// A hyperparameter as convert_hf_to_gguf.py writes it; its key follows the architecture's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetadataKey {
    /// `block_count`
    BlockCount,
    /// `context_length`
    ContextLength,
    /// `embedding_length`
    EmbeddingLength,
    /// `feed_forward_length`
    FeedForwardLength,
    /// `attention.head_count`
    HeadCount,
    /// `attention.head_count_kv`
    HeadCountKv,
    /// The same, where config.json has it.
    StatedHeadCountKv,
    /// `rope.scaling.*`, where RoPE is scaled.
    RopeScaling,
    /// `rope.freq_base`
    RopeFreqBase,
    /// `attention.layer_norm_rms_epsilon`
    LayerNormRmsEpsilon,
    /// `attention.key_length`
    KeyLength,
    /// `attention.value_length`
    ValueLength,
    /// `attention.kv_lora_rank`
    KvLoraRank,
    /// `general.file_type`
    FileType,
    /// `vocab_size`
    VocabSize,
    /// `rope.dimension_count`
    RopeDimensionCount,
}

/// Adds the hyperparameters of `config`, `raw` being its config.json as it is.
///
/// # Errors
/// Numbers that do not fit their type.
pub(crate) fn add_hyperparameters(
    metadata: &mut Metadata,
    config: &Config,
    raw: &Map<String, Json>,
    file_type: u32,
) -> Result<()> {
    let mut writer = Writer { metadata, prefix: config.architecture.gguf };
    for key in config.architecture.metadata {
        writer.put(*key, config, raw, file_type)?;
    }
    Ok(())
}

struct Writer<'a> {
    metadata: &'a mut Metadata,
    prefix: &'static str,
}

impl Writer<'_> {
    fn put(&mut self, key: MetadataKey, c: &Config, raw: &Map<String, Json>, file_type: u32) -> Result<()> {
        match key {
            MetadataKey::BlockCount => self.number("block_count", c.num_hidden_layers),
            MetadataKey::ContextLength => self.number("context_length", c.max_position_embeddings),
            MetadataKey::EmbeddingLength => self.number("embedding_length", c.hidden_size),
            MetadataKey::FeedForwardLength => self.number("feed_forward_length", c.intermediate_size),
            MetadataKey::HeadCount => self.number("attention.head_count", c.num_attention_heads),
            MetadataKey::HeadCountKv => self.number("attention.head_count_kv", c.num_key_value_heads),
            MetadataKey::StatedHeadCountKv => {
                match raw.get("num_key_value_heads").is_some_and(|n| !n.is_null()) {
                    true => self.number("attention.head_count_kv", c.num_key_value_heads),
                    false => Ok(()),
                }
            }
            MetadataKey::RopeScaling => c.rope_scaling.as_ref().map_or(Ok(()), |yarn| self.scaling(yarn)),
            MetadataKey::RopeFreqBase => self.float("rope.freq_base", c.rope_theta),
            MetadataKey::LayerNormRmsEpsilon => self.float("attention.layer_norm_rms_epsilon", c.norm_eps),
            MetadataKey::KeyLength => self.number("attention.key_length", c.qk_head_dim()),
            MetadataKey::ValueLength => self.number("attention.value_length", c.v_head_dim),
            MetadataKey::KvLoraRank => self.number("attention.kv_lora_rank", c.latent_rank()),
            MetadataKey::FileType => {
                self.metadata.set("general.file_type", Value::U32(file_type));
                Ok(())
            }
            MetadataKey::VocabSize => self.number("vocab_size", c.vocab_size),
            MetadataKey::RopeDimensionCount => self.number("rope.dimension_count", c.qk_rope_head_dim),
        }
    }

    fn scaling(&mut self, yarn: &Yarn) -> Result<()> {
        self.metadata.set(self.key("rope.scaling.type"), Value::String("yarn".into()));
        self.float("rope.scaling.factor", yarn.factor)?;
        self.number("rope.scaling.original_context_length", yarn.original_context)?;
        for (key, beta) in [("yarn_beta_fast", yarn.beta_fast), ("yarn_beta_slow", yarn.beta_slow)] {
            if let Some(beta) = beta {
                self.float(&format!("rope.scaling.{key}"), beta)?;
            }
        }
        Ok(())
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn number(&mut self, key: &str, value: usize) -> Result<()> {
        let key = self.key(key);
        let detail = |_| Error::Metadata { key: key.clone(), detail: format!("{value} is too large") };
        let value = u32::try_from(value).map_err(detail)?;
        self.metadata.set(key, Value::U32(value));
        Ok(())
    }

    fn float(&mut self, key: &str, value: f32) -> Result<()> {
        self.metadata.set(self.key(key), Value::F32(value));
        Ok(())
    }
}
