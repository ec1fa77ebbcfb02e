//! Random checkpoints of any shape, with the tiny PLM's tokenizer.

use std::path::Path;

use plmconv_interop::golden;
use safetensors::tensor::{Dtype, TensorView};

/// The sizes a checkpoint has. The vocabulary is the tiny PLM's.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub layers: usize,
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub q_lora_rank: Option<usize>,
    pub kv_lora_rank: usize,
    pub nope: usize,
    pub rope: usize,
    pub v: usize,
}

const VOCAB: usize = 4096;

/// Numbers between -1 and 1 from a linear congruence (Knuth's MMIX constants).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl Shape {
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Shape { hidden, intermediate, heads, kv_lora_rank, nope, rope, v, .. } = *self;
        let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![VOCAB, hidden])];
        for layer in 0..self.layers {
            let mut add = |name: &str, shape: &[usize]| {
                all.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            let queries = heads * (nope + rope);
            add("input_layernorm", &[hidden]);
            match self.q_lora_rank {
                None => add("self_attn.q_proj", &[queries, hidden]),
                Some(rank) => {
                    add("self_attn.q_a_proj", &[rank, hidden]);
                    add("self_attn.q_a_layernorm", &[rank]);
                    add("self_attn.q_b_proj", &[queries, rank]);
                }
            }
            add("self_attn.kv_a_proj_with_mqa", &[kv_lora_rank + rope, hidden]);
            add("self_attn.kv_a_layernorm", &[kv_lora_rank]);
            add("self_attn.kv_b_proj", &[heads * (nope + v), kv_lora_rank]);
            add("self_attn.o_proj", &[hidden, heads * v]);
            add("post_attention_layernorm", &[hidden]);
            add("mlp.up_proj", &[intermediate, hidden]);
            add("mlp.down_proj", &[hidden, intermediate]);
        }
        all.push(("model.norm.weight".to_owned(), vec![hidden]));
        all
    }

    fn config(&self) -> serde_json::Value {
        serde_json::json!({
            "architectures": ["PLMForCausalLM"],
            "model_type": "plm",
            "vocab_size": VOCAB,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "kv_lora_rank": self.kv_lora_rank,
            "q_lora_rank": self.q_lora_rank,
            "qk_rope_head_dim": self.rope,
            "qk_nope_head_dim": self.nope,
            "v_head_dim": self.v,
            "hidden_act": "relu2",
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 100000.0,
            "rope_scaling": null,
            "tie_word_embeddings": true,
            "attention_bias": false,
            "rope_interleave": true,
            "bos_token_id": 4090,
            "eos_token_id": 4090
        })
    }

    /// Writes the checkpoint, f32, into `folder`. Every call with this shape writes the same.
    pub fn write(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("the folder can be made");
        for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            let from = golden::fixtures().join("tiny-plm").join(file);
            std::fs::copy(&from, folder.join(file)).expect("the tiny PLM has a tokenizer");
        }
        let config = serde_json::to_vec_pretty(&self.config()).expect("JSON can be written");
        std::fs::write(folder.join("config.json"), config).expect("the folder is writable");
        let mut noise = Noise(11);
        let data: Vec<(String, Vec<usize>, Vec<u8>)> = self
            .tensors()
            .into_iter()
            .map(|(name, shape)| {
                let scale = match (shape.as_slice(), name.contains("embed")) {
                    ([_], _) => None,
                    (_, true) => Some(1.0),
                    // Products keep the size of their input; the sum over layers stays bounded.
                    ([.., cols], _) => Some(1.5 / (*cols as f32).sqrt() / (self.layers as f32).sqrt()),
                    _ => unreachable!("every tensor has an axis"),
                };
                let value = |noise: &mut Noise| match scale {
                    None => 1.0 + 0.2 * noise.next(),
                    Some(scale) => scale * noise.next(),
                };
                let count: usize = shape.iter().product();
                let bytes = (0..count).flat_map(|_| value(&mut noise).to_le_bytes()).collect();
                (name, shape, bytes)
            })
            .collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).expect("bytes fit the shape");
            (name.as_str(), view)
        });
        safetensors::serialize_to_file(views, None, &folder.join("model.safetensors"))
            .expect("the folder is writable");
    }
}
