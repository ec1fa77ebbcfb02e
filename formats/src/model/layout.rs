//! The two GGUF layouts a PLM can have: llama.cpp's own architecture, and a dense `deepseek2`.
//!
//! llama.cpp's `plm` graph expands keys and values for every head and caches those. Its `deepseek2` graph caches
//! the latent that they are made from. A PLM fits into it when the per-head halves of kv_b are separate tensors and when the
//! FFN's squared ReLU is written as `silu(gate) * up` (see [`crate::model::Role::FfnGate`]).

use std::path::Path;

use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value, ValueType};
use crate::model::Config;

/// Which tensors a model consists of, and which architecture of llama.cpp runs it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A checkpoint's tensors; in GGUF the architecture `plm`.
    #[default]
    Plm,
    /// Keys and values absorbed into queries and outputs, so that the cache holds the latent; in GGUF the
    /// architecture `deepseek2`.
    Latent,
}

/// Tells a PLM in the latent layout from any other dense `deepseek2`, whose FFN means something else.
/// Runtimes ignore keys they do not know.
const MARK: &str = "plmconv.layout";
/// Per layer, how steep the sigmoid is that stands in for ReLU: the gate's pre-activation over the neuron's.
const SHARPNESS: &str = "plmconv.ffn_sharpness";
/// Per layer, what the FFN's norm was multiplied by, and its two matrices divided by: a power of two.
const NORM_SCALE: &str = "plmconv.ffn_norm_scale";
const LATENT_MARK: &str = "latent";

/// Layer counts, with the vocabulary where it matters, at which llama.cpp's `deepseek2` loader takes the model for
/// one with a single query matrix and does not look at `q_lora_rank` (src/models/deepseek2.cpp, `is_lite`).
const COUNTS_WITHOUT_QUERY_RANK: [(usize, Option<usize>); 3] = [(26, None), (27, None), (48, Some(128_256))];
/// `LLAMA_EXPERT_GATING_FUNC_TYPE_SOFTMAX`. A dense model has no experts, but where the key is missing the loader
/// guesses from the layer count (47 and 48); a key leaves nothing to guess.
const GATING_SOFTMAX: u32 = 1;

impl Layout {
    /// The value of `general.architecture`.
    pub fn architecture(self) -> &'static str {
        match self {
            Layout::Plm => "plm",
            Layout::Latent => "deepseek2",
        }
    }

    /// The layout of a GGUF file with this metadata.
    ///
    /// # Errors
    /// An architecture that is not PLM's, or a `deepseek2` that is not marked as a PLM.
    pub fn from_gguf(path: &Path, metadata: &Metadata) -> Result<Layout> {
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        match architecture {
            "plm" => Ok(Layout::Plm),
            "deepseek2" if metadata.string(MARK) == Some(LATENT_MARK) => Ok(Layout::Latent),
            other => Err(Error::Architecture { path: path.to_path_buf(), found: other.into() }),
        }
    }
}

impl Config {
    /// Values one token and layer takes in llama.cpp's cache: keys and values.
    pub fn cache_values_per_token(&self) -> usize {
        match self.layout {
            Layout::Plm => self.expanded_dim(),
            Layout::Latent => self.latent_dim(),
        }
    }

    /// Whether llama.cpp's loader would read a model of this config in `layout` as what it is.
    ///
    /// # Errors
    /// [`Error::Inexpressible`], with the reason.
    pub fn check_layout(&self, path: &Path, layout: Layout) -> Result<()> {
        let Some(rank) = self.q_lora_rank else { return Ok(()) };
        let refuse =
            |what| Err(Error::Inexpressible { path: path.into(), target: layout.architecture(), what });
        match layout {
            Layout::Plm => refuse(format!(
                "low-rank queries (`q_lora_rank: {rank}`): its graph has one query matrix; \
                 the latent layout has room for them"
            )),
            Layout::Latent => {
                let taken_for_lite = COUNTS_WITHOUT_QUERY_RANK.iter().any(|&(layers, vocab)| {
                    layers == self.num_hidden_layers && vocab.is_none_or(|v| v == self.vocab_size)
                });
                if !taken_for_lite {
                    return Ok(());
                }
                refuse(format!(
                    "low-rank queries (`q_lora_rank: {rank}`) in a model of {} layers and {} tokens: llama.cpp \
                     takes that for a model with one query matrix",
                    self.num_hidden_layers, self.vocab_size
                ))
            }
        }
    }
}

/// Rewrites the metadata of a `plm` file into those of the same model in the latent layout.
///
/// `sharpness` and `norm_scale` have one value per layer: see the functions of these names. Everything that is not the architecture's (tokenizer,
/// general keys) stays in its place.
pub fn latent_metadata(plm: &Metadata, config: &Config, sharpness: &[f32], norm_scale: &[f32]) -> Metadata {
    let mut latent: Metadata = plm
        .iter()
        .map(|(key, value)| match key.strip_prefix("plm.") {
            Some(rest) => (format!("deepseek2.{rest}"), value.clone()),
            None => (key.to_string(), value.clone()),
        })
        .collect();
    latent.set("general.architecture", Value::String(Layout::Latent.architecture().into()));
    let number = |n: usize| Value::U32(n as u32);
    let numbers = [
        ("vocab_size", config.vocab_size),
        ("leading_dense_block_count", config.num_hidden_layers),
        ("expert_feed_forward_length", config.intermediate_size),
        ("expert_shared_count", 0),
        ("expert_gating_func", GATING_SOFTMAX as usize),
        ("attention.head_count_kv", 1),
        ("attention.q_lora_rank", config.q_lora_rank.unwrap_or(0)),
        ("attention.kv_lora_rank", config.kv_lora_rank),
        ("attention.key_length", config.latent_dim()),
        ("attention.value_length", config.kv_lora_rank),
        ("attention.key_length_mla", config.qk_head_dim()),
        ("attention.value_length_mla", config.v_head_dim),
        ("rope.dimension_count", config.qk_rope_head_dim),
    ];
    for (key, n) in numbers {
        latent.set(format!("deepseek2.{key}"), number(n));
    }
    latent.set(MARK, Value::String(LATENT_MARK.into()));
    for (key, per_layer) in [(SHARPNESS, sharpness), (NORM_SCALE, norm_scale)] {
        let values = per_layer.iter().map(|&value| Value::F32(value)).collect();
        let array = crate::gguf::MetadataArray::new(ValueType::F32, values).expect("all elements are f32");
        latent.set(key, Value::Array(Box::new(array)));
    }
    latent
}

/// Per layer of a file in the latent layout: b, where the gate is b times the neuron's pre-activation u, so that
/// the FFN computes `u² · sigmoid(b u)` for `relu(u)²`.
pub fn sharpness(metadata: &Metadata) -> Option<Vec<f32>> {
    floats(metadata, SHARPNESS)
}

/// Per layer of a file in the latent layout: what its FFN's norm is to the checkpoint's. Files of earlier versions do not
/// say it.
pub fn norm_scale(metadata: &Metadata) -> Option<Vec<f32>> {
    floats(metadata, NORM_SCALE)
}

fn floats(metadata: &Metadata, key: &str) -> Option<Vec<f32>> {
    let values = &metadata.array(key)?.values;
    values.iter().map(|v| Some(v.as_f64()? as f32)).collect()
}

/// The hyperparameters that the two layouts write under different keys, or with another meaning.
pub(super) struct HeadSizes {
    pub q_lora_rank: Option<usize>,
    pub qk_head_dim: usize,
    pub qk_head_dim_key: &'static str,
    pub v_head_dim: usize,
}

impl HeadSizes {
    /// Reads them through `need`, which fails on a missing key.
    pub(super) fn read(layout: Layout, need: impl Fn(&str) -> Result<usize>) -> Result<HeadSizes> {
        Ok(match layout {
            Layout::Plm => HeadSizes {
                q_lora_rank: None,
                qk_head_dim: need("attention.key_length")?,
                qk_head_dim_key: "plm.attention.key_length",
                v_head_dim: need("attention.value_length")?,
            },
            Layout::Latent => HeadSizes {
                q_lora_rank: Some(need("attention.q_lora_rank")?).filter(|&rank| rank > 0),
                qk_head_dim: need("attention.key_length_mla")?,
                qk_head_dim_key: "deepseek2.attention.key_length_mla",
                v_head_dim: need("attention.value_length_mla")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Role;

    fn config(layers: usize, vocab_size: usize, q_lora_rank: Option<usize>) -> Config {
        Config {
            vocab_size,
            hidden_size: 256,
            intermediate_size: 1024,
            num_hidden_layers: layers,
            num_attention_heads: 4,
            q_lora_rank,
            kv_lora_rank: 128,
            qk_nope_head_dim: 64,
            qk_rope_head_dim: 32,
            v_head_dim: 48,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-6,
            rope_theta: 1e5,
            rope_interleave: true,
            tie_word_embeddings: true,
            layout: Layout::Latent,
        }
    }

    /// The keys of a `plm` file that the latent layout keeps.
    fn plm_metadata(config: &Config) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("general.architecture", Value::String("plm".into()));
        metadata.set("general.name", Value::String("Tiny".into()));
        let numbers = [
            ("block_count", config.num_hidden_layers),
            ("context_length", config.max_position_embeddings),
            ("embedding_length", config.hidden_size),
            ("feed_forward_length", config.intermediate_size),
            ("attention.head_count", config.num_attention_heads),
            ("attention.head_count_kv", config.num_attention_heads),
            ("attention.key_length", config.qk_head_dim()),
            ("attention.value_length", config.v_head_dim),
        ];
        for (key, n) in numbers {
            metadata.set(format!("plm.{key}"), Value::U32(n as u32));
        }
        metadata.set("plm.rope.freq_base", Value::F32(config.rope_theta));
        metadata.set("plm.attention.layer_norm_rms_epsilon", Value::F32(config.rms_norm_eps));
        metadata
    }

    #[test]
    fn what_is_written_is_read_back() {
        for rank in [None, Some(96)] {
            let config = config(6, 4096, rank);
            let metadata = latent_metadata(&plm_metadata(&config), &config, &[64.0; 6], &[0.5; 6]);
            assert_eq!(Config::from_gguf(Path::new("x.gguf"), &metadata).unwrap(), config);
            assert_eq!(sharpness(&metadata), Some(vec![64.0; 6]));
            assert_eq!(norm_scale(&metadata), Some(vec![0.5; 6]));
            assert!(metadata.iter().all(|(key, _)| !key.starts_with("plm.")));
            assert_eq!(metadata.string("general.name"), Some("Tiny"));
        }
    }

    #[test]
    fn a_deepseek2_that_is_no_plm_is_refused() {
        let config = config(6, 4096, None);
        let mut metadata = latent_metadata(&plm_metadata(&config), &config, &[64.0; 6], &[0.5; 6]);
        metadata.remove(MARK);
        let error = Config::from_gguf(Path::new("x.gguf"), &metadata).unwrap_err();
        assert!(matches!(error, Error::Architecture { found, .. } if found == "deepseek2"));
    }

    #[test]
    fn the_latent_layout_has_its_own_tensors() {
        let config = config(1, 4096, Some(96));
        let expected = config.expected_tensors();
        let shape = |role| expected.iter().find(|(key, _)| key.role == role).map(|(_, shape)| shape.clone());
        assert_eq!(shape(Role::KeyB), Some(vec![4, 128, 64]));
        assert_eq!(shape(Role::ValueB), Some(vec![4, 48, 128]));
        assert_eq!(shape(Role::FfnGate), Some(vec![1024, 256]));
        assert_eq!(shape(Role::QueryB), Some(vec![4 * 96, 96]));
        assert_eq!(shape(Role::KvB), None);
        let plm = Config { layout: Layout::Plm, ..config.clone() };
        assert!(plm.expected_tensors().iter().any(|(key, _)| key.role == Role::KvB));
        assert_eq!((plm.cache_values_per_token(), config.cache_values_per_token()), (4 * 144, 160));
    }

    #[test]
    fn layer_counts_the_loader_takes_for_another_model_are_refused_where_it_matters() {
        let check =
            |layers, vocab, rank| config(layers, vocab, rank).check_layout(Path::new("x"), Layout::Latent);
        for layers in [26, 27, 32, 47, 48, 60, 61] {
            for vocab in [4096, 128_256, 154_880] {
                // One query matrix is what the loader assumes at these counts anyway.
                check(layers, vocab, None).unwrap();
                let refused = matches!((layers, vocab), (26 | 27, _) | (48, 128_256));
                assert_eq!(
                    check(layers, vocab, Some(96)).is_err(),
                    refused,
                    "{layers} layers, {vocab} tokens"
                );
            }
        }
    }

    #[test]
    fn low_rank_queries_need_the_latent_layout() {
        let config = config(6, 4096, Some(96));
        assert!(config.check_layout(Path::new("x"), Layout::Plm).is_err());
        config.check_layout(Path::new("x"), Layout::Latent).unwrap();
    }
}
