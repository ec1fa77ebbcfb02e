//! `convert --to gguf-lora`: adapters for llama.cpp's own `--lora`.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use common::adapter::TestAdapter;
use common::checkpoint::Checkpoint;
use common::{fixtures, plmconv, tensor_bytes, tiny_plm};
use plmconv_formats::gguf::{GgufFile, Value};
use plmconv_formats::sha256;
use predicates::str::contains;
use safetensors::tensor::Dtype;
use serde_json::json;

fn convert(adapter: &Path, base: &Path, out: &Path, dtype: &str) -> Assert {
    let mut command = plmconv();
    command.arg("convert").arg(adapter).args(["--to", "gguf-lora", "--dtype", dtype, "--force", "--base"]);
    command.arg(base).arg("-o").arg(out).assert()
}

fn saved(dir: &tempfile::TempDir, adapter: &TestAdapter) -> PathBuf {
    adapter.save(&dir.path().join("adapter"))
}

#[test]
fn files_equal_those_of_llama_cpps_script() {
    let dir = tempfile::tempdir().expect("tempdir");
    let golden = std::fs::read_to_string(fixtures().join("golden/lora.json")).expect("a fixture");
    let golden: serde_json::Value = serde_json::from_str(&golden).expect("JSON");
    for dtype in ["f32", "f16", "bf16"] {
        let out = dir.path().join(dtype);
        let done = convert(&fixtures().join("tiny-lora"), &tiny_plm(), &out, dtype).success();
        done.stderr(contains("adds no adapter to attn_q, attn_kv_b: there this one has no effect"));
        assert_eq!(golden["sha256"][dtype], sha256::of_file(&out).expect("written"), "{dtype}");
    }
}

#[test]
fn an_alpha_says_what_the_factors_are() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let alpha_of = |adapter: &TestAdapter| {
        convert(&saved(&dir, adapter), &tiny_plm(), &out, "f32").success();
        match GgufFile::open(&out).expect("a GGUF").metadata.get("adapter.lora.alpha") {
            Some(Value::F32(alpha)) => *alpha,
            other => panic!("{other:?}"),
        }
    };
    let mut adapter = TestAdapter::tiny();
    assert_eq!(alpha_of(&adapter), 8.0);
    // llama.cpp divides by the rank, rsLoRA by its root.
    adapter.config["use_rslora"] = json!(true);
    assert_eq!(alpha_of(&adapter), 16.0);
    adapter.config["use_rslora"] = json!(false);
    adapter.config["alpha_pattern"] = json!({"down_proj": 3});
    let refused = convert(&saved(&dir, &adapter), &tiny_plm(), &out, "f32").code(1);
    refused.stderr(contains("cannot express factors that differ")).stderr(contains("--lora"));
}

#[test]
fn what_llama_cpp_has_no_place_for_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let mut adapter = TestAdapter::tiny();
    adapter.config["modules_to_save"] = json!(["norm"]);
    adapter.put("base_model.model.model.norm.weight", Dtype::F32, &[256]);
    convert(&saved(&dir, &adapter), &tiny_plm(), &out, "f32")
        .code(1)
        .stderr(contains("a whole weight (`model.norm`)"));
    let mut head = TestAdapter::new(2);
    head.target("lm_head", [4096, 256], 4);
    convert(&saved(&dir, &head), &tiny_plm(), &out, "f32").code(1).stderr(contains("a change of the head"));
    let mut embedding = TestAdapter::new(2);
    embedding.put("base_model.model.model.embed_tokens.lora_embedding_A", Dtype::F32, &[4, 4096]);
    embedding.put("base_model.model.model.embed_tokens.lora_embedding_B", Dtype::F32, &[256, 4]);
    let refused = convert(&saved(&dir, &embedding), &tiny_plm(), &out, "f32").code(1);
    refused.stderr(contains("a change of the embedding (`model.embed_tokens`)"));
    let mut other = TestAdapter::new(2);
    other.target("model.layers.0.self_attn.q_proj", [384, 128], 4);
    convert(&saved(&dir, &other), &tiny_plm(), &out, "f32")
        .code(1)
        .stderr(contains("follows from the base model"));
    convert(&tiny_plm(), &tiny_plm(), &out, "f32").code(1).stderr(contains("not a LoRA adapter"));
    convert(&saved(&dir, &head), &tiny_plm(), &out, "auto").code(2).stderr(contains("f32, f16 or bf16"));
    let mut without = plmconv();
    without.arg("convert").arg(saved(&dir, &head)).args(["--to", "gguf-lora"]);
    without.assert().code(2).stderr(contains("--base MODEL"));
    assert!(!out.exists());
}

#[test]
fn rows_are_moved_where_the_models_are() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (folder, out) = (dir.path().join("model"), dir.path().join("out.gguf"));
    let mut checkpoint = Checkpoint::odd();
    checkpoint.config["rope_interleave"] = json!(false);
    checkpoint.save(&folder);
    let mut adapter = TestAdapter::new(9);
    adapter.target("model.layers.0.self_attn.q_proj", [240, 320], 4);
    convert(&saved(&dir, &adapter), &folder, &out, "f32").success();
    let bytes = tensor_bytes(&GgufFile::open(&out).expect("a GGUF"), "blk.0.attn_q.weight.lora_b");
    let b = adapter.tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"].bytes.clone();
    let row = |bytes: &[u8], row: usize| bytes[row * 16..][..16].to_vec();
    // Of a head of 48, rows from 32 on are rotated: pairs are 8 apart, and become neighbours.
    assert_eq!(row(&bytes, 48 + 31), row(&b, 48 + 31));
    assert_eq!(row(&bytes, 48 + 33), row(&b, 48 + 40));
    assert_eq!(row(&bytes, 48 + 34), row(&b, 48 + 33));
}
