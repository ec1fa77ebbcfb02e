//! A PLM's hyperparameters, read from config.json or GGUF metadata and checked once.

use std::path::Path;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::json;
use crate::model::layout::HeadSizes;
use crate::model::{Layout, Role, TensorKey};

/// The hyperparameters that shape the network. Names are those of the published config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub q_lora_rank: Option<usize>,
    pub kv_lora_rank: usize,
    pub qk_nope_head_dim: usize,
    pub qk_rope_head_dim: usize,
    pub v_head_dim: usize,
    pub max_position_embeddings: usize,
    pub rms_norm_eps: f32,
    pub rope_theta: f32,
    /// Pairs of RoPE lie side by side (`true`, PLM's published code) or half a head apart.
    pub rope_interleave: bool,
    /// What the config says; whether the head really equals the embedding is seen in the tensors.
    pub tie_word_embeddings: bool,
    /// Which tensors the model consists of; a checkpoint's is [`Layout::Plm`].
    pub layout: Layout,
}

/// config.json as it stands; every field that changes the meaning of the weights is looked at.
#[derive(Deserialize)]
struct RawConfig {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Vec<String>,
    vocab_size: Option<usize>,
    hidden_size: Option<usize>,
    intermediate_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    num_key_value_heads: Option<usize>,
    q_lora_rank: Option<usize>,
    kv_lora_rank: Option<usize>,
    qk_nope_head_dim: Option<usize>,
    qk_rope_head_dim: Option<usize>,
    v_head_dim: Option<usize>,
    max_position_embeddings: Option<usize>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    rope_parameters: Option<serde_json::Value>,
    rope_interleave: Option<bool>,
    hidden_act: Option<String>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// Not JSON, a missing or zero key, or a setting that no PLM graph has (another activation, biases,
    /// RoPE scaling, untied embeddings, fewer key-value heads than heads).
    pub fn from_json(path: &Path, bytes: Vec<u8>) -> Result<Config> {
        let raw: RawConfig = json::parse(path, bytes)?;
        raw.refuse_what_no_graph_has(path)?;
        let need = |key: &str, value: Option<usize>| match value {
            None => Err(missing(path, key)),
            Some(0) => Err(bad_value(path, key, "0", "a positive number")),
            Some(n) => Ok(n),
        };
        let config = Config {
            vocab_size: need("vocab_size", raw.vocab_size)?,
            hidden_size: need("hidden_size", raw.hidden_size)?,
            intermediate_size: need("intermediate_size", raw.intermediate_size)?,
            num_hidden_layers: need("num_hidden_layers", raw.num_hidden_layers)?,
            num_attention_heads: need("num_attention_heads", raw.num_attention_heads)?,
            q_lora_rank: raw.q_lora_rank.map(|n| need("q_lora_rank", Some(n))).transpose()?,
            kv_lora_rank: need("kv_lora_rank", raw.kv_lora_rank)?,
            qk_nope_head_dim: need("qk_nope_head_dim", raw.qk_nope_head_dim)?,
            qk_rope_head_dim: need("qk_rope_head_dim", raw.qk_rope_head_dim)?,
            v_head_dim: need("v_head_dim", raw.v_head_dim)?,
            max_position_embeddings: need("max_position_embeddings", raw.max_position_embeddings)?,
            rms_norm_eps: raw.rms_norm_eps.ok_or_else(|| missing(path, "rms_norm_eps"))? as f32,
            rope_theta: raw.rope_theta_value(path)? as f32,
            rope_interleave: raw.rope_interleave.unwrap_or(true),
            tie_word_embeddings: raw.tie_word_embeddings.unwrap_or(true),
            layout: Layout::Plm,
        };
        if let Some(kv_heads) = raw.num_key_value_heads
            && kv_heads != config.num_attention_heads
        {
            let expected = format!("{} (MLA expands K and V for every head)", config.num_attention_heads);
            return Err(bad_value(path, "num_key_value_heads", kv_heads, expected));
        }
        config.check(path)?;
        Ok(config)
    }

    /// Reads the hyperparameters of a PLM GGUF of either layout.
    pub fn from_gguf(path: &Path, metadata: &Metadata) -> Result<Config> {
        let layout = Layout::from_gguf(path, metadata)?;
        let key_of = |key: &str| format!("{}.{key}", layout.architecture());
        let need = |key: &str| metadata.unsigned(&key_of(key)).ok_or_else(|| missing(path, &key_of(key)));
        let float = |key: &str| metadata.float(&key_of(key)).ok_or_else(|| missing(path, &key_of(key)));
        let qk_rope_head_dim = need("rope.dimension_count")?;
        let heads = HeadSizes::read(layout, need)?;
        let qk_nope_head_dim = heads.qk_head_dim.checked_sub(qk_rope_head_dim).ok_or_else(|| {
            let expected = format!("at least {qk_rope_head_dim}");
            bad_value(path, heads.qk_head_dim_key, heads.qk_head_dim, expected)
        })?;
        let config = Config {
            vocab_size: match metadata.unsigned(&key_of("vocab_size")) {
                Some(n) => n,
                None => metadata.array_len("tokenizer.ggml.tokens").unwrap_or(0),
            },
            hidden_size: need("embedding_length")?,
            intermediate_size: need("feed_forward_length")?,
            num_hidden_layers: need("block_count")?,
            num_attention_heads: need("attention.head_count")?,
            q_lora_rank: heads.q_lora_rank,
            kv_lora_rank: need("attention.kv_lora_rank")?,
            qk_nope_head_dim,
            qk_rope_head_dim,
            v_head_dim: heads.v_head_dim,
            max_position_embeddings: need("context_length")?,
            rms_norm_eps: float("attention.layer_norm_rms_epsilon")?,
            rope_theta: float("rope.freq_base")?,
            rope_interleave: true,
            tie_word_embeddings: true,
            layout,
        };
        config.check(path)?;
        Ok(config)
    }

    /// Bounds that make every later product of two hyperparameters fit into `usize`.
    fn check(&self, path: &Path) -> Result<()> {
        let limits = [
            ("vocab_size", self.vocab_size, 1 << 28),
            ("hidden_size", self.hidden_size, 1 << 20),
            ("intermediate_size", self.intermediate_size, 1 << 22),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 12),
            ("num_attention_heads", self.num_attention_heads, 1 << 12),
            ("q_lora_rank", self.q_lora_rank.unwrap_or(1), 1 << 20),
            ("kv_lora_rank", self.kv_lora_rank, 1 << 20),
            ("qk_nope_head_dim", self.qk_nope_head_dim, 1 << 16),
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
        for (key, value) in [("rms_norm_eps", self.rms_norm_eps), ("rope_theta", self.rope_theta)] {
            if !value.is_finite() || value <= 0.0 {
                return Err(bad_value(path, key, value, "a positive number"));
            }
        }
        Ok(())
    }

    /// Values of one query or key head: `qk_nope_head_dim + qk_rope_head_dim`.
    pub fn qk_head_dim(&self) -> usize {
        self.qk_nope_head_dim + self.qk_rope_head_dim
    }

    /// The tensors a model of this config consists of, in file order, with their row-major shapes.
    pub fn expected_tensors(&self) -> Vec<(TensorKey, Vec<usize>)> {
        let mut all = vec![(
            TensorKey::global(Role::TokenEmbedding),
            self.shape_of(Role::TokenEmbedding).expect("every layout has an embedding"),
        )];
        for layer in 0..self.num_hidden_layers {
            let roles = Role::all().filter(|r| r.is_per_layer());
            all.extend(
                roles.filter_map(|role| Some((TensorKey::in_layer(layer, role), self.shape_of(role)?))),
            );
        }
        all.push((TensorKey::global(Role::OutputNorm), vec![self.hidden_size]));
        all
    }

    /// The shape a role has in a model of this config, or `None` if its layout has no such tensor.
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
            Role::KvA => vec![self.kv_lora_rank + self.qk_rope_head_dim, self.hidden_size],
            Role::KvANorm => vec![self.kv_lora_rank],
            Role::KeyB if latent => vec![heads, self.kv_lora_rank, self.qk_nope_head_dim],
            Role::ValueB if latent => vec![heads, self.v_head_dim, self.kv_lora_rank],
            Role::KvB if !latent => {
                vec![heads * (self.qk_nope_head_dim + self.v_head_dim), self.kv_lora_rank]
            }
            Role::AttentionOutput => vec![self.hidden_size, heads * self.v_head_dim],
            Role::FfnGate if latent => vec![self.intermediate_size, self.hidden_size],
            Role::FfnUp => vec![self.intermediate_size, self.hidden_size],
            Role::FfnDown => vec![self.hidden_size, self.intermediate_size],
            Role::Query | Role::KvB | Role::KeyB | Role::ValueB | Role::FfnGate => return None,
        })
    }
}

impl RawConfig {
    fn refuse_what_no_graph_has(&self, path: &Path) -> Result<()> {
        let model_type = self.model_type.as_deref().unwrap_or_default();
        let architecture = self.architectures.first().map(String::as_str).unwrap_or_default();
        if model_type != "plm" && !architecture.to_ascii_lowercase().starts_with("plm") {
            let found = if architecture.is_empty() { model_type } else { architecture };
            return Err(Error::Architecture { path: path.to_path_buf(), found: found.into() });
        }
        let refuse =
            |what: String| Err(Error::Inexpressible { path: path.to_path_buf(), target: "plm", what });
        match self.hidden_act.as_deref() {
            None | Some("relu2" | "relu_squared") => {}
            Some(other) => return refuse(format!("hidden_act `{other}` (PLM's FFN is relu2)")),
        }
        if self.attention_bias == Some(true) {
            return refuse("attention biases (`attention_bias: true`)".into());
        }
        if self.mlp_bias == Some(true) {
            return refuse("FFN biases (`mlp_bias: true`)".into());
        }
        if let Some(scaling) = self.rope_scaling_value() {
            return refuse(format!("RoPE scaling ({scaling})"));
        }
        Ok(())
    }

    /// The scaling object, unless it says in one of the usual ways that there is none.
    fn rope_scaling_value(&self) -> Option<&serde_json::Value> {
        let is_scaling = |value: &&serde_json::Value| {
            let Some(object) = value.as_object() else { return !value.is_null() };
            let kind = object.get("rope_type").or_else(|| object.get("type"));
            match kind.and_then(|k| k.as_str()) {
                Some(kind) => kind != "default",
                None => object.keys().any(|key| key != "rope_theta"),
            }
        };
        [&self.rope_scaling, &self.rope_parameters].into_iter().flatten().find(is_scaling)
    }

    /// Newer transformers move `rope_theta` into `rope_parameters`, which then counts.
    fn rope_theta_value(&self, path: &Path) -> Result<f64> {
        let moved = self.rope_parameters.as_ref().and_then(|p| p.get("rope_theta")?.as_f64());
        moved.or(self.rope_theta).ok_or_else(|| missing(path, "rope_theta"))
    }
}

fn missing(path: &Path, key: &str) -> Error {
    Error::MissingKey { path: path.to_path_buf(), key: key.into() }
}

fn bad_value(path: &Path, key: &str, found: impl ToString, expected: impl ToString) -> Error {
    Error::BadValue {
        path: path.to_path_buf(),
        key: key.into(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}
