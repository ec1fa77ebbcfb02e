//! What a model would take in each layout: its file, and llama.cpp's cache.

use plmconv_formats::{Config, DType, Layout};
use plmconv_quant::policy::{FileType, ModelShape, Policy, TensorDesc};
use serde::Serialize;

/// Bytes of a value in llama.cpp's cache, f16 unless told otherwise.
const CACHE_VALUE_BYTES: u64 = 2;

/// Sizes of one layout, as `q4`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LayoutSizes {
    pub layout: &'static str,
    pub architecture: &'static str,
    /// Bytes of all tensors as `q4`.
    pub tensor_bytes: u64,
    /// Bytes of a token in the f16 cache, all layers.
    pub cache_bytes_per_token: u64,
}

impl LayoutSizes {
    /// Bytes of the tensors and of a cache of `tokens`.
    pub fn with_cache(&self, tokens: u64) -> u64 {
        self.tensor_bytes + tokens * self.cache_bytes_per_token
    }

    /// What a user has to know to run it.
    pub fn runs_in(&self) -> &'static str {
        match self.layout {
            "plm" => "llama.cpp; today's only with -fa off",
            _ => "llama.cpp that reads q_lora_rank = 0 (2026), flash attention on or off",
        }
    }
}

/// The layouts that can hold a model of this config.
pub fn sizes(config: &Config) -> Vec<LayoutSizes> {
    let holds = |layout: &Layout| config.check_layout("".as_ref(), *layout).is_ok();
    [Layout::Plm, Layout::Latent].into_iter().filter(holds).filter_map(|layout| of(config, layout)).collect()
}

/// `None` where the shapes fit no type.
fn of(config: &Config, layout: Layout) -> Option<LayoutSizes> {
    let config = Config { layout, ..config.clone() };
    let tensors: Vec<TensorDesc> = config
        .expected_tensors()
        .into_iter()
        .map(|(key, shape)| TensorDesc { name: key.gguf_name(), shape, source: DType::F32 })
        .collect();
    let shape = ModelShape { layers: config.num_hidden_layers, query_heads_per_kv_head: 1 };
    let types = Policy::preset(FileType::Q4KM).assign(&tensors, shape).ok()?;
    let bytes = tensors.iter().zip(types).map(|(tensor, assigned)| {
        let values = tensor.shape.iter().product();
        assigned.dtype.encoded_len(values).map(|bytes| bytes as u64)
    });
    let per_token = config.cache_values_per_token() * config.num_hidden_layers;
    Some(LayoutSizes {
        layout: match layout {
            Layout::Plm => "plm",
            Layout::Latent => "latent",
        },
        architecture: layout.architecture(),
        tensor_bytes: bytes.sum::<Option<u64>>()?,
        cache_bytes_per_token: per_token as u64 * CACHE_VALUE_BYTES,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plm_1_8b() -> Config {
        Config {
            vocab_size: 151_936,
            hidden_size: 2048,
            intermediate_size: 8192,
            num_hidden_layers: 32,
            num_attention_heads: 16,
            q_lora_rank: None,
            kv_lora_rank: 512,
            qk_nope_head_dim: 128,
            qk_rope_head_dim: 64,
            v_head_dim: 128,
            max_position_embeddings: 4096,
            rms_norm_eps: 1e-6,
            rope_theta: 1e5,
            rope_interleave: true,
            tie_word_embeddings: true,
            layout: Layout::Plm,
        }
    }

    #[test]
    fn at_the_shape_of_plm_1_8b_the_latent_layout_keeps_its_promises() {
        let [plm, latent] = sizes(&plm_1_8b()).try_into().expect("both layouts hold it");
        assert_eq!(plm.cache_bytes_per_token, 32 * 5120 * 2);
        assert_eq!(latent.cache_bytes_per_token, 32 * 576 * 2);
        assert!(latent.tensor_bytes as f64 <= 1.15 * plm.tensor_bytes as f64, "{latent:?} {plm:?}");
        assert!(latent.with_cache(4096) as f64 <= 0.62 * plm.with_cache(4096) as f64);
    }

    #[test]
    fn low_rank_queries_fit_one_layout_only() {
        let config = Config { q_lora_rank: Some(512), ..plm_1_8b() };
        let found: Vec<_> = sizes(&config).into_iter().map(|s| s.layout).collect();
        assert_eq!(found, ["latent"]);
    }
}
