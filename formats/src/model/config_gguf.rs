//! Hyperparameters from GGUF metadata.

use std::path::Path;

use super::config::AttentionSizes;
use super::layout::LatentSizes;
use super::{AttentionKind, Config, Layout, Yarn};
use crate::error::Result;
use crate::fields::{bad_value, missing};
use crate::gguf::{GgufFile, Metadata};

/// The tensor that a head of its own has.
const OUTPUT: &str = "output.weight";

impl Config {
    /// Reads the hyperparameters of an opened GGUF.
    ///
    /// # Errors
    /// As [`from_gguf`](Self::from_gguf).
    pub fn of_file(file: &GgufFile) -> Result<Config> {
        let config = Config::from_gguf(file.path(), &file.metadata)?;
        Ok(Config { tie_word_embeddings: file.tensor(OUTPUT).is_none(), ..config })
    }

    /// Reads the hyperparameters of a GGUF of either layout. Whether the head is the embedding is not among them.
    ///
    /// # Errors
    /// An architecture that plmconv does not know, a key that is missing or that no model has so.
    pub fn from_gguf(path: &Path, metadata: &Metadata) -> Result<Config> {
        let (architecture, layout) = Layout::from_gguf(path, metadata)?;
        let keys = Keys { path, metadata, prefix: layout.architecture(architecture) };
        let sizes = match architecture.attention {
            AttentionKind::Latent => keys.latent(layout)?,
            AttentionKind::Grouped => keys.grouped()?,
        };
        let AttentionSizes { num_key_value_heads, q_lora_rank, kv_lora_rank, .. } = sizes;
        let config = Config {
            architecture,
            vocab_size: match keys.optional("vocab_size") {
                Some(n) => n,
                None => metadata.array_len("tokenizer.ggml.tokens").unwrap_or(0),
            },
            hidden_size: keys.size("embedding_length")?,
            intermediate_size: keys.size("feed_forward_length")?,
            num_hidden_layers: keys.size("block_count")?,
            num_attention_heads: keys.size("attention.head_count")?,
            num_key_value_heads,
            q_lora_rank,
            kv_lora_rank,
            qk_nope_head_dim: sizes.qk_nope_head_dim,
            qk_rope_head_dim: sizes.qk_rope_head_dim,
            v_head_dim: sizes.v_head_dim,
            max_position_embeddings: keys.size("context_length")?,
            norm_eps: keys.float("attention.layer_norm_rms_epsilon")?,
            rope_theta: keys.float("rope.freq_base")?,
            rope_scaling: Yarn::from_gguf(path, metadata, architecture)?,
            rope_interleave: true,
            tie_word_embeddings: true,
            layout,
        };
        config.check(path)?;
        Ok(config)
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    path: &'a Path,
    metadata: &'a Metadata,
    prefix: &'static str,
}

impl Keys<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    fn optional(&self, key: &str) -> Option<usize> {
        self.metadata.unsigned(&self.key(key))
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional(key).ok_or_else(|| missing(self.path, &self.key(key)))
    }

    fn float(&self, key: &str) -> Result<f32> {
        self.metadata.float(&self.key(key)).ok_or_else(|| missing(self.path, &self.key(key)))
    }

    fn latent(&self, layout: Layout) -> Result<AttentionSizes> {
        let qk_rope_head_dim = self.size("rope.dimension_count")?;
        let heads = LatentSizes::read(layout, |key| self.size(key))?;
        Ok(AttentionSizes {
            num_key_value_heads: self.size("attention.head_count")?,
            q_lora_rank: heads.q_lora_rank,
            kv_lora_rank: Some(self.size("attention.kv_lora_rank")?),
            qk_nope_head_dim: self.unrotated(heads.qk_head_dim_key, heads.qk_head_dim, qk_rope_head_dim)?,
            qk_rope_head_dim,
            v_head_dim: heads.v_head_dim,
        })
    }

    /// llama.cpp's defaults stand where a file does not say it.
    fn grouped(&self) -> Result<AttentionSizes> {
        let heads = self.size("attention.head_count")?;
        let key_length = match self.optional("attention.key_length") {
            Some(length) => length,
            None => self.size("embedding_length")? / heads.max(1),
        };
        let value_length = self.optional("attention.value_length").unwrap_or(key_length);
        if value_length != key_length {
            let key = self.key("attention.value_length");
            return Err(bad_value(self.path, &key, value_length, format!("{key_length}, as of keys")));
        }
        let qk_rope_head_dim = self.optional("rope.dimension_count").unwrap_or(key_length);
        Ok(AttentionSizes {
            num_key_value_heads: self.optional("attention.head_count_kv").unwrap_or(heads),
            q_lora_rank: None,
            kv_lora_rank: None,
            qk_nope_head_dim: self.unrotated("attention.key_length", key_length, qk_rope_head_dim)?,
            qk_rope_head_dim,
            v_head_dim: value_length,
        })
    }

    fn unrotated(&self, key: &str, qk_head_dim: usize, rotated: usize) -> Result<usize> {
        let expected = || format!("at least {rotated}");
        let too_few = || bad_value(self.path, &self.key(key), qk_head_dim, expected());
        qk_head_dim.checked_sub(rotated).ok_or_else(too_few)
    }
}
