//! Hyperparameters from config.json. Every key that changes the meaning of the weights is looked at, and errors name it.

use std::path::Path;

use serde_json::{Map, Value};

use super::config::AttentionSizes;
use super::{Architecture, AttentionKind, Config, FfnKind, Layout, Pairing, Yarn};
use crate::error::{Error, Result};
use crate::fields::{Fields, bad_value, missing};

impl Config {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// Not JSON, another network than those in [`ARCHITECTURES`](super::ARCHITECTURES), a key that is missing, zero or not
    /// a number, or a setting that the network's graph does not have (another activation, biases, a form of RoPE,
    /// fewer key-value heads than heads).
    pub fn from_json(path: &Path, bytes: Vec<u8>) -> Result<Config> {
        let fields = Fields::parse(path, bytes)?;
        let architecture = fields.architecture()?;
        fields.refuse_what_no_graph_has(architecture)?;
        let rope_scaling = fields.rope_scaling(architecture)?;
        let sizes = match architecture.attention {
            AttentionKind::Latent => fields.latent()?,
            AttentionKind::Grouped => fields.grouped()?,
        };
        let AttentionSizes { num_key_value_heads, q_lora_rank, kv_lora_rank, .. } = sizes;
        let interleaved = architecture.pairing == Pairing::Interleaved;
        let config = Config {
            architecture,
            vocab_size: fields.size("vocab_size")?,
            hidden_size: fields.size("hidden_size")?,
            intermediate_size: fields.size("intermediate_size")?,
            num_hidden_layers: fields.size("num_hidden_layers")?,
            num_attention_heads: fields.size("num_attention_heads")?,
            num_key_value_heads,
            q_lora_rank,
            kv_lora_rank,
            qk_nope_head_dim: sizes.qk_nope_head_dim,
            qk_rope_head_dim: sizes.qk_rope_head_dim,
            v_head_dim: sizes.v_head_dim,
            max_position_embeddings: fields.size("max_position_embeddings")?,
            norm_eps: fields.number("rms_norm_eps")? as f32,
            rope_theta: fields.rope_theta()? as f32,
            rope_scaling,
            rope_interleave: fields.flag("rope_interleave")?.unwrap_or(interleaved),
            tie_word_embeddings: fields
                .flag("tie_word_embeddings")?
                .unwrap_or(architecture.ties_by_default()),
            layout: Layout::Own,
        };
        config.check(path)?;
        Ok(config)
    }
}

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

    fn latent(&self) -> Result<AttentionSizes> {
        let heads = self.size("num_attention_heads")?;
        if let Some(kv_heads) = self.optional_size("num_key_value_heads")?
            && kv_heads != heads
        {
            let expected = format!("{heads} (MLA expands K and V for every head)");
            return Err(bad_value(self.path, "num_key_value_heads", kv_heads, expected));
        }
        Ok(AttentionSizes {
            num_key_value_heads: heads,
            q_lora_rank: self.optional_size("q_lora_rank")?,
            kv_lora_rank: Some(self.size("kv_lora_rank")?),
            qk_nope_head_dim: self.size("qk_nope_head_dim")?,
            qk_rope_head_dim: self.size("qk_rope_head_dim")?,
            v_head_dim: self.size("v_head_dim")?,
        })
    }

    fn grouped(&self) -> Result<AttentionSizes> {
        let (heads, hidden) = (self.size("num_attention_heads")?, self.size("hidden_size")?);
        let head_dim = match self.optional_size("head_dim")? {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                return Err(bad_value(
                    self.path,
                    "hidden_size",
                    hidden,
                    format!("a multiple of {heads} heads"),
                ));
            }
        };
        Ok(AttentionSizes {
            num_key_value_heads: self.optional_size("num_key_value_heads")?.unwrap_or(heads),
            q_lora_rank: None,
            kv_lora_rank: None,
            qk_nope_head_dim: 0,
            qk_rope_head_dim: head_dim,
            v_head_dim: head_dim,
        })
    }

    /// `architectures` counts too: fine-tunes have types of their own.
    fn architecture(&self) -> Result<&'static Architecture> {
        let model_type = self.text("model_type").unwrap_or_default();
        let architectures = self.get("architectures").and_then(Value::as_array);
        let class = architectures.and_then(|list| list.first()?.as_str()).unwrap_or_default();
        Architecture::from_config(model_type, class).ok_or_else(|| {
            let found = if class.is_empty() { model_type } else { class };
            Error::Architecture { path: self.path.to_path_buf(), found: found.into() }
        })
    }

    fn inexpressible(&self, architecture: &Architecture, what: String) -> Error {
        Error::Inexpressible { path: self.path.to_path_buf(), target: architecture.gguf, what }
    }

    fn refuse_what_no_graph_has(&self, architecture: &Architecture) -> Result<()> {
        let refuse = |what: String| Err(self.inexpressible(architecture, what));
        let FfnKind::SquaredRelu = architecture.ffn;
        match self.text("hidden_act") {
            None | Some("relu2" | "relu_squared") => {}
            Some(other) => {
                return refuse(format!(
                    "hidden_act `{other}` (the FFN of {} is relu2)",
                    architecture.a_model
                ));
            }
        }
        if self.flag("attention_bias")? == Some(true) {
            return refuse("attention biases (`attention_bias: true`)".into());
        }
        if self.flag("mlp_bias")? == Some(true) {
            return refuse("FFN biases (`mlp_bias: true`)".into());
        }
        Ok(())
    }

    /// # Errors
    /// A form of scaling that the network's graph does not have.
    fn rope_scaling(&self, architecture: &Architecture) -> Result<Option<Yarn>> {
        let Some(object) = self.scaling_object() else { return Ok(None) };
        let yarn = Yarn::from_json(self, architecture, object)?;
        yarn.map_or_else(
            || Err(self.inexpressible(architecture, format!("RoPE scaling ({object})"))),
            |yarn| Ok(Some(yarn)),
        )
    }

    /// The scaling object, unless it says in one of the usual ways that there is none.
    fn scaling_object(&self) -> Option<&Value> {
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
