//! A model's hyperparameters, checked once. Readers are in config_json.rs and config_gguf.rs.

use std::path::Path;

use super::{Architecture, AttentionKind, HeadKind, Layout, PLM, Role, Yarn};
use crate::error::{Error, Result};
use crate::fields::bad_value;
use crate::limits::MAX_TOKENS;

/// The hyperparameters that shape the network. Names are those of PLM's published config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The network that they are of.
    pub architecture: &'static Architecture,
    /// Tokens, unused ids that pad the embedding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Neurons of a feed-forward network.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads.
    pub num_attention_heads: usize,
    /// Heads of keys and values: a divisor of the former; MLA expands as many.
    pub num_key_value_heads: usize,
    /// Width between the two query projections, where there are two.
    pub q_lora_rank: Option<usize>,
    /// Width of the latent that keys and values are made from, where they are.
    pub kv_lora_rank: Option<usize>,
    /// Values of a query or key head that RoPE leaves alone.
    pub qk_nope_head_dim: usize,
    /// Values of a query or key head that RoPE rotates; even.
    pub qk_rope_head_dim: usize,
    /// Values of a value head.
    pub v_head_dim: usize,
    /// Tokens of context, the longest position plus one.
    pub max_position_embeddings: usize,
    /// What a norm adds to the mean square.
    pub norm_eps: f32,
    /// Base of the geometric series of RoPE's wavelengths.
    pub rope_theta: f32,
    /// How that series is scaled for longer texts.
    pub rope_scaling: Option<Yarn>,
    /// Pairs of RoPE lie side by side (`true`, PLM's published code) or half a head apart.
    pub rope_interleave: bool,
    /// The output head is the embedding. Of a PLM it is what the config says; whether the head really equals the
    /// embedding is seen in the tensors.
    pub tie_word_embeddings: bool,
    /// Which tensors the model consists of; a checkpoint's is [`Layout::Own`].
    pub layout: Layout,
}

/// The sizes that kinds of attention say by different keys.
pub(super) struct AttentionSizes {
    pub num_key_value_heads: usize,
    pub q_lora_rank: Option<usize>,
    pub kv_lora_rank: Option<usize>,
    pub qk_nope_head_dim: usize,
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
}

impl Config {
    /// Width of the latent that keys and values are made from; 0 where they are not.
    pub fn latent_rank(&self) -> usize {
        self.kv_lora_rank.unwrap_or_default()
    }

    /// Query heads that share a head of keys and values.
    pub fn query_heads_per_kv_head(&self) -> usize {
        self.num_attention_heads / self.num_key_value_heads
    }

    /// Whether the model has an output matrix beside its embedding.
    pub fn has_own_head(&self) -> bool {
        self.architecture.head == HeadKind::Own && !self.tie_word_embeddings
    }

    /// Refuses what is not known of PLM's relatives: `what` with its verb, as "an ONNX export is".
    ///
    /// # Errors
    /// [`Error::OnlyOfPlm`] for any other network.
    pub fn require_plm(&self, path: &Path, what: &'static str) -> Result<()> {
        if self.architecture == &PLM {
            return Ok(());
        }
        Err(Error::OnlyOfPlm { path: path.into(), a_model: self.architecture.a_model, what })
    }

    /// The matrix that makes logits.
    pub fn head_role(&self) -> Role {
        if self.has_own_head() { Role::Output } else { Role::TokenEmbedding }
    }

    /// Bounds that make every later product of two hyperparameters fit into `usize`.
    pub(super) fn check(&self, path: &Path) -> Result<()> {
        let is_latent = self.architecture.attention == AttentionKind::Latent;
        let limits = [
            ("vocab_size", self.vocab_size, MAX_TOKENS),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 12),
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1), 1 << 20),
            ("kv_lora_rank", self.kv_lora_rank.unwrap_or(1), 1 << 20),
            // Grouped heads may be rotated whole.
            ("qk_nope_head_dim", if is_latent { self.qk_nope_head_dim } else { 1 }, 1 << 16),
            ("qk_rope_head_dim", self.qk_rope_head_dim, 1 << 16),
            ("v_head_dim", self.v_head_dim, 1 << 16),
            ("max_position_embeddings", self.max_position_embeddings, 1 << 31),
        ];
        for (key, value, limit) in limits {
            if value == 0 || value > limit {
                return Err(bad_value(path, key, value, format!("a number from 1 to {limit}")));
            }
        }
        if !self.qk_rope_head_dim.is_multiple_of(2) {
            return Err(bad_value(path, "qk_rope_head_dim", self.qk_rope_head_dim, "an even number"));
        }
        if !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            let expected = format!("a divisor of {} heads", self.num_attention_heads);
            return Err(bad_value(path, "num_key_value_heads", self.num_key_value_heads, expected));
        }
        for (key, value) in [("rms_norm_eps", self.norm_eps), ("rope_theta", self.rope_theta)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(bad_value(path, key, value, "a positive number"));
            }
        }
        Ok(())
    }
}
