//! The graph's companions: the files beside it, which each client reads before it opens the model.

mod source;

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use self::source::{SourceCompanions, may_come_along};
use super::spec::{ExportSpec, Profile};
use crate::DType;
use crate::error::Result;
use crate::model::Model;
use crate::warning::Warning;

/// A small file of the output folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Companion {
    /// Relative to the output folder.
    pub path: PathBuf,
    /// The whole file.
    pub bytes: Vec<u8>,
}

/// Everything but the graph and its data.
#[derive(Debug)]
pub struct Companions {
    /// In the order in which they are written.
    pub files: Vec<Companion>,
    /// What their user should know of.
    pub warnings: Vec<Warning>,
}

/// Files that [`companions`] writes itself.
const WRITTEN: [&str; 2] = ["config.json", "genai_config.json"];

/// Whether an output folder may bring a file of this name along.
pub(crate) fn is_companion(name: &str) -> bool {
    may_come_along(name) || WRITTEN.contains(&name)
}

/// Everything but the graph and its data, for an export with `data_files` external data files.
///
/// # Errors
/// Unreadable files of the checkpoint.
pub fn companions(model: &Model, spec: &ExportSpec, data_files: usize) -> Result<Companions> {
    let SourceCompanions { mut files, config, generation, warnings } = SourceCompanions::of(model)?;
    let ids = TokenIds::of(&generation, &config);
    let config = if config.is_empty() { plain_config(model, &generation) } else { config };
    match spec.profile {
        Profile::Latent => push_json(&mut files, "config.json", Value::Object(config)),
        Profile::Genai => {
            push_json(&mut files, "config.json", Value::Object(config));
            push_json(&mut files, "genai_config.json", genai_config(model, spec, &ids));
        }
        Profile::Hf => push_json(&mut files, "config.json", hf_config(model, spec, config, data_files)),
    }
    Ok(Companions { files, warnings })
}

/// Everything but the weights of a checkpoint in `dtype`: its pairs of RoPE lie side by side, as the model's do whatever
/// it was read from.
///
/// # Errors
/// Unreadable files of the model.
pub fn checkpoint_companions(model: &Model, dtype: DType) -> Result<Companions> {
    let SourceCompanions { mut files, config, generation, warnings } = SourceCompanions::of(model)?;
    let mut config = if config.is_empty() { plain_config(model, &generation) } else { config };
    let torch_dtype = match dtype {
        DType::F16 => "float16",
        DType::Bf16 => "bfloat16",
        _ => "float32",
    };
    // The newer name of the key would be ignored by what reads the published modelling code.
    config.remove("dtype");
    config.insert("torch_dtype".into(), torch_dtype.into());
    config.insert("rope_interleave".into(), true.into());
    config.insert("tie_word_embeddings".into(), true.into());
    push_json(&mut files, "config.json", Value::Object(config));
    Ok(Companions { files, warnings })
}

impl Companion {
    /// A file of JSON as somebody would write it.
    pub(crate) fn json(name: &str, value: &Value) -> Companion {
        let mut text = serde_json::to_string_pretty(value).expect("a JSON value prints");
        text.push('\n');
        Companion { path: name.into(), bytes: text.into_bytes() }
    }
}

fn push_json(files: &mut Vec<Companion>, name: &str, value: Value) {
    files.push(Companion::json(name, &value));
}

/// The ids that start, end and pad a text.
struct TokenIds {
    bos: Option<u64>,
    eos: Vec<u64>,
    pad: Option<u64>,
}

impl TokenIds {
    /// generation_config.json before config.json, as transformers does.
    fn of(generation: &Map<String, Value>, config: &Map<String, Value>) -> TokenIds {
        let all = |key: &str| -> Vec<u64> {
            match generation.get(key).or_else(|| config.get(key)) {
                Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
                Some(id) => id.as_u64().into_iter().collect(),
                None => Vec::new(),
            }
        };
        let first = |key: &str| all(key).first().copied();
        TokenIds { bos: first("bos_token_id"), eos: all("eos_token_id"), pad: first("pad_token_id") }
    }
}

/// What the hyperparameters say of a checkpoint's config.json, with the ids of `generation`.
fn plain_config(model: &Model, generation: &Map<String, Value>) -> Map<String, Value> {
    let c = &model.config;
    let Value::Object(mut config) = json!({
        "architectures": ["PLMForCausalLM"],
        "model_type": "plm",
        "vocab_size": c.vocab_size,
        "hidden_size": c.hidden_size,
        "intermediate_size": c.intermediate_size,
        "num_hidden_layers": c.num_hidden_layers,
        "num_attention_heads": c.num_attention_heads,
        "num_key_value_heads": c.num_attention_heads,
        "kv_lora_rank": c.kv_lora_rank,
        "q_lora_rank": c.q_lora_rank,
        "qk_rope_head_dim": c.qk_rope_head_dim,
        "qk_nope_head_dim": c.qk_nope_head_dim,
        "v_head_dim": c.v_head_dim,
        "hidden_act": "relu2",
        "max_position_embeddings": c.max_position_embeddings,
        "rms_norm_eps": c.rms_norm_eps,
        "rope_theta": c.rope_theta,
        "rope_interleave": c.rope_interleave,
        "tie_word_embeddings": true,
    }) else {
        unreachable!("it is an object")
    };
    let ids = generation.iter().filter(|(key, _)| key.ends_with("_token_id"));
    config.extend(ids.map(|(key, id)| (key.clone(), id.clone())));
    config
}

/// config.json for optimum and transformers.js: labelled with an architecture that both know to have keys
/// and values of different widths. The graph does the work; the label only shapes the cache.
fn hf_config(model: &Model, spec: &ExportSpec, config: Map<String, Value>, data_files: usize) -> Value {
    let (c, mut config) = (&model.config, config);
    config.insert("architectures".into(), json!(["DeepseekV3ForCausalLM"]));
    config.insert("model_type".into(), json!("deepseek_v3"));
    config.insert("num_key_value_heads".into(), json!(c.num_attention_heads));
    config.insert("qk_head_dim".into(), json!(c.qk_head_dim()));
    config.insert("head_dim".into(), json!(c.qk_head_dim()));
    let mut js = Map::new();
    js.insert("use_external_data_format".into(), json!({ spec.file_name.as_str(): data_files }));
    if spec.float == DType::F16 {
        js.insert("kv_cache_dtype".into(), json!({ "fp16": "float16", "q4f16": "float16" }));
    }
    config.insert("transformers.js_config".into(), Value::Object(js));
    Value::Object(config)
}

fn genai_config(model: &Model, spec: &ExportSpec, ids: &TokenIds) -> Value {
    let c = &model.config;
    let context = c.max_position_embeddings;
    let eos = match ids.eos.as_slice() {
        [one] => json!(one),
        many => json!(many),
    };
    let first_eos = ids.eos.first().copied();
    json!({
        "model": {
            "bos_token_id": ids.bos.or(first_eos).unwrap_or(0),
            "context_length": context,
            "decoder": {
                "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
                "filename": spec.file_name,
                "head_size": c.latent_dim() / 2,
                "hidden_size": c.hidden_size,
                "inputs": {
                    "input_ids": "input_ids",
                    "attention_mask": "attention_mask",
                    "position_ids": "position_ids",
                    "past_key_names": "past_key_values.%d.key",
                    "past_value_names": "past_key_values.%d.value"
                },
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value"
                },
                "num_attention_heads": c.num_attention_heads,
                "num_hidden_layers": c.num_hidden_layers,
                "num_key_value_heads": 1
            },
            "eos_token_id": eos,
            "pad_token_id": ids.pad.or(first_eos).unwrap_or(0),
            "type": "decoder",
            "vocab_size": c.vocab_size
        },
        "search": {
            "do_sample": false,
            "early_stopping": true,
            "max_length": context,
            "min_length": 0,
            "num_beams": 1,
            "num_return_sequences": 1,
            "past_present_share_buffer": false,
            "repetition_penalty": 1.0,
            "temperature": 1.0,
            "top_k": 50,
            "top_p": 1.0
        }
    })
}
