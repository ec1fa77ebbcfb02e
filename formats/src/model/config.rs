//! A PLM's hyperparameters, read from config.json or GGUF metadata and checked once.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::fields::{Fields, bad_value, missing};
use crate::gguf::Metadata;
use crate::limits::MAX_TOKENS;
use crate::model::Layout;
use crate::model::layout::HeadSizes;

/// The hyperparameters that shape the network. Names are those of the published config.json.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Tokens, unused ids that pad the embedding included.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Neurons of a feed-forward network.
    pub intermediate_size: usize,
    /// Transformer layers.
    pub num_hidden_layers: usize,
    /// Attention heads; MLA expands as many keys and values.
    pub num_attention_heads: usize,
    /// Width between the two query projections, where there are two.
    pub q_lora_rank: Option<usize>,
    /// Width of the latent that keys and values are made from.
    pub kv_lora_rank: usize,
    /// Values of a query or key head that RoPE leaves alone.
    pub qk_nope_head_dim: usize,
    /// Values of a query or key head that RoPE rotates; even.
    pub qk_rope_head_dim: usize,
    /// Values of a value head.
    pub v_head_dim: usize,
    /// Tokens of context, the longest position plus one.
    pub max_position_embeddings: usize,
    /// What RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Base of the geometric series of RoPE's wavelengths.
    pub rope_theta: f32,
    /// Pairs of RoPE lie side by side (`true`, PLM's published code) or half a head apart.
    pub rope_interleave: bool,
    /// What the config says; whether the head really equals the embedding is seen in the tensors.
    pub tie_word_embeddings: bool,
    /// Which tensors the model consists of; a checkpoint's is [`Layout::Plm`].
    pub layout: Layout,
}

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// Not JSON, a key that is missing, zero or not a number, or a setting that no PLM graph has (another activation,
    /// biases, RoPE scaling, untied embeddings, fewer key-value heads than heads).
    pub fn from_json(path: &Path, bytes: Vec<u8>) -> Result<Config> {
        let fields = Fields::parse(path, bytes)?;
        fields.refuse_what_no_graph_has()?;
        let config = Config {
            vocab_size: fields.size("vocab_size")?,
            hidden_size: fields.size("hidden_size")?,
            intermediate_size: fields.size("intermediate_size")?,
            num_hidden_layers: fields.size("num_hidden_layers")?,
            num_attention_heads: fields.size("num_attention_heads")?,
            q_lora_rank: fields.optional_size("q_lora_rank")?,
            kv_lora_rank: fields.size("kv_lora_rank")?,
            qk_nope_head_dim: fields.size("qk_nope_head_dim")?,
            qk_rope_head_dim: fields.size("qk_rope_head_dim")?,
            v_head_dim: fields.size("v_head_dim")?,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            rms_norm_eps: fields.number("rms_norm_eps")? as f32,
            rope_theta: fields.rope_theta()? as f32,
            rope_interleave: fields.flag("rope_interleave")?.unwrap_or(true),
            tie_word_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(true),
            layout: Layout::Plm,
        };
        if let Some(kv_heads) = fields.optional_size("num_key_value_heads")?
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
            ("vocab_size", self.vocab_size, MAX_TOKENS),
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
}

/// config.json as it is. Every key that changes the meaning of the weights is looked at, and errors name it.
impl Fields<'_> {
    fn optional_size(&self, key: &str) -> Result<Option<usize>> {
        let read = |value: &Value| {
            let size = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|&n| n > 0);
            size.ok_or_else(|| self.bad(key, value, "a positive whole number"))
        };
        self.get(key).map(read).transpose()
    }

    fn size(&self, key: &str) -> Result<usize> {
        self.optional_size(key)?.ok_or_else(|| self.absent(key))
    }

    fn number(&self, key: &str) -> Result<f64> {
        let value = self.get(key).ok_or_else(|| self.absent(key))?;
        value.as_f64().ok_or_else(|| self.bad(key, value, "a number"))
    }

    /// The error for a key without a value. What JSON has no number for has become a null (see [`json`]).
    fn absent(&self, key: &str) -> Error {
        match self.map.contains_key(key) {
            true => bad_value(self.path, key, "null, NaN or infinite", "a number"),
            false => missing(self.path, key),
        }
    }

    fn refuse_what_no_graph_has(&self) -> Result<()> {
        let model_type = self.text("model_type").unwrap_or_default();
        let architectures = self.get("architectures").and_then(Value::as_array);
        let first = architectures.and_then(|list| list.first()?.as_str()).unwrap_or_default();
        if model_type != "plm" && !first.to_ascii_lowercase().starts_with("plm") {
            let found = if first.is_empty() { model_type } else { first };
            return Err(Error::Architecture { path: self.path.to_path_buf(), found: found.into() });
        }
        let refuse =
            |what: String| Err(Error::Inexpressible { path: self.path.to_path_buf(), target: "plm", what });
        match self.text("hidden_act") {
            None | Some("relu2" | "relu_squared") => {}
            Some(other) => return refuse(format!("hidden_act `{other}` (PLM's FFN is relu2)")),
        }
        if self.flag("attention_bias")? == Some(true) {
            return refuse("attention biases (`attention_bias: true`)".into());
        }
        if self.flag("mlp_bias")? == Some(true) {
            return refuse("FFN biases (`mlp_bias: true`)".into());
        }
        if let Some(scaling) = self.rope_scaling() {
            return refuse(format!("RoPE scaling ({scaling})"));
        }
        Ok(())
    }

    /// The scaling object, unless it says in one of the usual ways that there is none.
    fn rope_scaling(&self) -> Option<&Value> {
        let of_all = |object: &Map<String, Value>| {
            object.get("partial_rotary_factor").and_then(Value::as_f64).is_none_or(|factor| factor == 1.0)
        };
        let is_scaling = |value: &&Value| {
            let Some(object) = value.as_object() else { return true };
            let kind = object.get("rope_type").or_else(|| object.get("type"));
            let harmless = ["rope_theta", "partial_rotary_factor"];
            !of_all(object)
                || match kind.and_then(Value::as_str) {
                    Some(kind) => kind != "default",
                    None => object.keys().any(|key| !harmless.contains(&key.as_str())),
                }
        };
        ["rope_scaling", "rope_parameters"].into_iter().filter_map(|key| self.get(key)).find(is_scaling)
    }

    /// Newer transformers move `rope_theta` into `rope_parameters`, which then counts.
    fn rope_theta(&self) -> Result<f64> {
        let moved = self.get("rope_parameters").and_then(|parameters| parameters.get("rope_theta"));
        match moved.filter(|theta| !theta.is_null()) {
            Some(theta) => theta.as_f64().ok_or_else(|| self.bad("rope_theta", theta, "a number")),
            None => self.number("rope_theta"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The config of a small PLM with this instead of one of its lines.
    fn config(instead: &str, line: &str) -> Result<Config> {
        let text = r#"{
            "model_type": "plm",
            "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 1024,
            "num_hidden_layers": 6, "num_attention_heads": 4, "kv_lora_rank": 256,
            "qk_nope_head_dim": 64, "qk_rope_head_dim": 32, "v_head_dim": 64,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": 100000.0
        }"#;
        assert!(text.contains(instead), "{instead}");
        Config::from_json(Path::new("config.json"), text.replacen(instead, line, 1).into_bytes())
    }

    #[test]
    fn what_python_writes_is_read() {
        let plain = config("", "").expect("a PLM");
        for line in [
            r#""model_type": "plm", "x": NaN, "time_step_limit": [0.0, Infinity], "q_lora_rank": null"#,
            r#""model_type": "plm", "architectures": null, "rope_scaling": null, "rope_interleave": null"#,
            r#""model_type": "plm", "rope_scaling": {"rope_type": "default"}, "pad_token_id": -1"#,
            r#""model_type": "llama", "model_type": "plm", "torch_dtype": "bfloat16", "num_key_value_heads": 4"#,
        ] {
            assert_eq!(config(r#""model_type": "plm""#, line).expect(line), plain, "{line}");
        }
    }

    #[test]
    fn rope_parameters_of_newer_transformers() {
        let theta = |line: &str| config(r#""rope_theta": 100000.0"#, line).map(|c| c.rope_theta);
        for line in [
            r#""rope_parameters": {"rope_theta": 50000, "rope_type": "default"}"#,
            r#""rope_parameters": {"rope_theta": 5e4}, "rope_theta": 1.0"#,
            r#""rope_parameters": {"rope_theta": 50000.0, "rope_type": "default", "partial_rotary_factor": 1.0}"#,
            r#""rope_parameters": {"rope_theta": null, "rope_type": "default"}, "rope_theta": 50000"#,
        ] {
            assert_eq!(theta(line).expect(line), 50000.0, "{line}");
        }
        for line in [
            r#""rope_parameters": {"rope_theta": 50000.0, "rope_type": "yarn", "factor": 4.0}"#,
            r#""rope_parameters": {"rope_theta": 50000.0, "rope_type": "default", "partial_rotary_factor": 0.5}"#,
            r#""rope_theta": 1.0, "rope_scaling": {"type": "linear", "factor": 2.0}"#,
            r#""rope_theta": 1.0, "rope_scaling": "dynamic""#,
        ] {
            assert!(matches!(theta(line), Err(Error::Inexpressible { .. })), "{line}");
        }
        assert!(matches!(theta(r#""x": 1"#), Err(Error::MissingKey { key, .. }) if key == "rope_theta"));
    }

    #[test]
    fn a_number_that_is_none_is_named() {
        for (instead, line) in [
            (r#""rms_norm_eps": 1e-6"#, r#""rms_norm_eps": NaN"#),
            (r#""rms_norm_eps": 1e-6"#, r#""rms_norm_eps": null"#),
            (r#""rms_norm_eps": 1e-6"#, r#""rms_norm_eps": -1e-6"#),
            (r#""rms_norm_eps": 1e-6"#, r#""rms_norm_eps": "1e-6""#),
            (r#""rope_theta": 100000.0"#, r#""rope_theta": Infinity"#),
            (r#""rope_theta": 100000.0"#, r#""rope_theta": 1e39"#),
            (r#""hidden_size": 256"#, r#""hidden_size": -1"#),
            (r#""hidden_size": 256"#, r#""hidden_size": 0"#),
            (r#""hidden_size": 256"#, r#""hidden_size": 256.5"#),
            (r#""hidden_size": 256"#, r#""hidden_size": "256""#),
            (r#""hidden_size": 256"#, r#""hidden_size": {"__float__": "Infinity"}"#),
        ] {
            let name = line.split('"').nth(1).expect("a key");
            let error = config(instead, line).expect_err(line);
            assert!(matches!(&error, Error::BadValue { key, .. } if key == name), "{line}: {error}");
        }
    }
}
