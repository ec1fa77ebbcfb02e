//! LoRA adapters as peft saves them, made of noise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{Noise, RawTensor, write_file};

/// An adapter in memory, to be changed by a test before it is saved.
pub struct TestAdapter {
    pub config: Value,
    pub tensors: BTreeMap<String, RawTensor>,
    noise: Noise,
}

impl TestAdapter {
    /// Without any tensor; rank 4, alpha 8.
    pub fn new(seed: u64) -> TestAdapter {
        let config = json!({
            "peft_type": "LORA", "base_model_name_or_path": "tiny-plm", "r": 4, "lora_alpha": 8, "bias": "none",
            "fan_in_fan_out": false, "use_rslora": false, "use_dora": false, "rank_pattern": {},
            "alpha_pattern": {}, "modules_to_save": null, "target_modules": ["q_proj", "down_proj"],
            "task_type": "CAUSAL_LM"
        });
        TestAdapter { config, tensors: BTreeMap::new(), noise: Noise(seed) }
    }

    /// For the queries and the down projections of the tiny PLM's first two layers.
    pub fn tiny() -> TestAdapter {
        let mut adapter = TestAdapter::new(7);
        for layer in 0..2 {
            adapter.target(&format!("model.layers.{layer}.self_attn.q_proj"), [384, 256], 4);
            adapter.target(&format!("model.layers.{layer}.mlp.down_proj"), [256, 1024], 4);
        }
        adapter
    }

    /// Adds both matrices for a weight of `[rows, cols]`.
    pub fn target(&mut self, module: &str, [rows, cols]: [usize; 2], rank: usize) {
        self.put(&format!("base_model.model.{module}.lora_A.weight"), Dtype::F32, &[rank, cols]);
        self.put(&format!("base_model.model.{module}.lora_B.weight"), Dtype::F32, &[rows, rank]);
    }

    /// Adds a tensor of noise.
    pub fn put(&mut self, name: &str, dtype: Dtype, shape: &[usize]) {
        self.tensors.insert(name.into(), RawTensor::random(&mut self.noise, dtype, shape));
    }

    /// A tensor's values.
    pub fn values(&self, name: &str) -> Vec<f32> {
        self.tensors[&format!("base_model.model.{name}")].values()
    }

    pub fn save(&self, folder: &Path) -> PathBuf {
        std::fs::create_dir_all(folder).expect("create");
        std::fs::write(folder.join("adapter_config.json"), self.config.to_string()).expect("write");
        write_file(&folder.join("adapter_model.safetensors"), self.tensors.iter());
        folder.into()
    }
}
