//! Synthetic PLM checkpoints of any shape, spelling and mixture of types.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A tensor to be written.
#[derive(Clone)]
pub struct RawTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl RawTensor {
    /// Noise within a tenth of zero.
    pub fn random(noise: &mut Noise, dtype: Dtype, shape: &[usize]) -> RawTensor {
        let count: usize = shape.iter().product();
        let mut bytes = Vec::new();
        for _ in 0..count {
            let value = noise.next() * 0.1;
            match dtype {
                Dtype::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                Dtype::F16 => bytes.extend_from_slice(&half::f16::from_f32(value).to_le_bytes()),
                Dtype::BF16 => bytes.extend_from_slice(&half::bf16::from_f32(value).to_le_bytes()),
                other => panic!("no weights of {other:?}"),
            }
        }
        RawTensor { dtype, shape: shape.to_vec(), bytes }
    }

    /// Its values, exactly.
    pub fn values(&self) -> Vec<f32> {
        match self.dtype {
            Dtype::F32 => {
                self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::F16 => {
                self.bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            Dtype::BF16 => {
                self.bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
            }
            other => panic!("no weights of {other:?}"),
        }
    }
}

/// A checkpoint in memory, to be changed by a test before it is saved.
pub struct Checkpoint {
    pub config: Value,
    pub tensors: BTreeMap<String, RawTensor>,
}

/// Deterministic noise in (-1, 1): xorshift64*, good enough to fill weights.
pub struct Noise(pub u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40;
        bits as f32 / (1u64 << 23) as f32 - 1.0
    }
}

impl Checkpoint {
    /// Hidden 320 (k-quants do not divide it), FFN 896, two layers, `fc1`/`fc2`, bf16 with an f16 and an f32
    /// matrix, a copied `lm_head`; the tiny PLM's vocabulary.
    pub fn odd() -> Checkpoint {
        let config = json!({
            "architectures": ["PLMForCausalLM"], "model_type": "plm", "vocab_size": 4096,
            "hidden_size": 320, "intermediate_size": 896, "num_hidden_layers": 2,
            "num_attention_heads": 5, "num_key_value_heads": 5, "kv_lora_rank": 96, "q_lora_rank": null,
            "qk_rope_head_dim": 16, "qk_nope_head_dim": 32, "v_head_dim": 64, "hidden_act": "relu2",
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 100000.0,
            "rope_scaling": null, "tie_word_embeddings": true, "attention_bias": false,
            "rope_interleave": true, "bos_token_id": 4090, "eos_token_id": 4090
        });
        let mut noise = Noise(42);
        let mut tensors = BTreeMap::new();
        let mut put = |name: &str, dtype: Dtype, shape: &[usize]| {
            tensors.insert(name.to_string(), RawTensor::random(&mut noise, dtype, shape));
        };
        put("model.embed_tokens.weight", Dtype::BF16, &[4096, 320]);
        for layer in 0..2 {
            let name = |rest: &str| format!("model.layers.{layer}.{rest}.weight");
            put(&name("input_layernorm"), Dtype::F32, &[320]);
            put(&name("self_attn.q_proj"), Dtype::BF16, &[5 * 48, 320]);
            put(&name("self_attn.kv_a_proj_with_mqa"), Dtype::F16, &[96 + 16, 320]);
            put(&name("self_attn.kv_a_layernorm"), Dtype::BF16, &[96]);
            put(&name("self_attn.kv_b_proj"), Dtype::BF16, &[5 * 96, 96]);
            put(&name("self_attn.o_proj"), Dtype::F32, &[320, 320]);
            put(&name("post_attention_layernorm"), Dtype::F16, &[320]);
            put(&name("mlp.fc1"), Dtype::F16, &[896, 320]);
            put(&name("mlp.fc2"), Dtype::F32, &[320, 896]);
        }
        put("model.norm.weight", Dtype::BF16, &[320]);
        let copy = tensors["model.embed_tokens.weight"].clone();
        tensors.insert("lm_head.weight".into(), copy);
        Checkpoint { config, tensors }
    }

    /// Writes config.json, the tiny PLM's tokenizer and one `model.safetensors`.
    pub fn save(&self, folder: &Path) {
        self.save_frame(folder);
        write_file(&folder.join("model.safetensors"), self.tensors.iter());
    }

    /// The same in two shards, with an index if `indexed`.
    pub fn save_sharded(&self, folder: &Path, indexed: bool) {
        self.save_frame(folder);
        let half = self.tensors.len() / 2;
        let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
        write_file(&folder.join(files[0]), self.tensors.iter().take(half));
        write_file(&folder.join(files[1]), self.tensors.iter().skip(half));
        if indexed {
            let map: BTreeMap<_, _> = self
                .tensors
                .keys()
                .enumerate()
                .map(|(i, name)| (name, files[usize::from(i >= half)]))
                .collect();
            let index = json!({"metadata": {}, "weight_map": map});
            std::fs::write(folder.join("model.safetensors.index.json"), index.to_string()).expect("write");
        }
    }

    fn save_frame(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("create");
        std::fs::write(folder.join("config.json"), self.config.to_string()).expect("write");
        for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
            std::fs::copy(super::tiny_plm().join(name), folder.join(name)).expect("copy");
        }
    }
}

pub fn write_file<'a>(path: &Path, tensors: impl Iterator<Item = (&'a String, &'a RawTensor)>) {
    let views: Vec<_> = tensors
        .map(|(name, t)| (name.as_str(), TensorView::new(t.dtype, t.shape.clone(), &t.bytes).expect("sized")))
        .collect();
    std::fs::write(path, safetensors::serialize(views, None).expect("serializes")).expect("write");
}

/// The odd checkpoint after `change`, saved.
pub fn changed(change: impl FnOnce(&mut Checkpoint)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    // The name of the folder is part of the metadata.
    let folder = dir.path().join("odd");
    let mut checkpoint = Checkpoint::odd();
    change(&mut checkpoint);
    checkpoint.save(&folder);
    (dir, folder)
}
