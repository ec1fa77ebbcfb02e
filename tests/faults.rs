//! Bad input and bad luck: one clear sentence, the right exit code, nothing left behind.

mod common;

use std::path::{Path, PathBuf};

use common::checkpoint::{RawTensor, changed};
use common::{copy_of_tiny_plm, names, plmconv, tiny_plm};
use predicates::prelude::*;
use safetensors::tensor::Dtype;
use tempfile::TempDir;

/// Quantizes `model` into an empty folder, expects exit code 1, `said` on stderr, and the folder still empty.
fn refuse(model: &Path, said: &str) {
    let out = tempfile::tempdir().expect("tempdir");
    plmconv()
        .current_dir(out.path())
        .args(["quantize", "q4"])
        .arg(model)
        .assert()
        .code(1)
        .stderr(predicate::str::contains(said).and(predicate::str::contains("panicked").not()));
    assert!(names(out.path()).is_empty(), "left behind: {:?}", names(out.path()));
}

/// The tiny PLM with `damage` done to its weights' file.
fn damaged(damage: impl FnOnce(&mut Vec<u8>)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let weights = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("read");
    damage(&mut bytes);
    std::fs::write(&weights, bytes).expect("write");
    (dir, folder)
}

/// Writes a safetensors file with this header over 64 bytes of data.
fn with_header(json: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend_from_slice(&[0; 64]);
    std::fs::write(folder.join("model.safetensors"), bytes).expect("write");
    (dir, folder)
}

#[test]
fn a_missing_model() {
    refuse(Path::new("no/such/folder"), "no such file or folder");
}

#[test]
fn a_folder_without_a_model() {
    let dir = tempfile::tempdir().expect("tempdir");
    refuse(dir.path(), "config.json");
}

#[test]
fn truncated_weights() {
    let (_dir, folder) = damaged(|bytes| bytes.truncate(bytes.len() - 1));
    refuse(&folder, "truncated");
    let (_dir, folder) = damaged(|bytes| bytes.truncate(5));
    refuse(&folder, "truncated");
}

#[test]
fn a_header_length_past_the_end() {
    let (_dir, folder) = damaged(|bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()));
    refuse(&folder, "header length 18446744073709551615 runs past the end");
}

#[test]
fn trailing_bytes() {
    let (_dir, folder) = damaged(|bytes| bytes.extend_from_slice(b"junk"));
    refuse(&folder, "4 bytes after the last tensor");
}

#[test]
fn overlapping_offsets() {
    let (_dir, folder) = with_header(
        r#"{"a":{"dtype":"BF16","shape":[16],"data_offsets":[0,32]},
            "b":{"dtype":"BF16","shape":[16],"data_offsets":[16,48]}}"#,
    );
    refuse(&folder, "malformed header");
}

#[test]
fn overflowing_offsets() {
    let (_dir, folder) = with_header(
        r#"{"a":{"dtype":"BF16","shape":[9223372036854775807,4],"data_offsets":[0,18446744073709551615]}}"#,
    );
    refuse(&folder, "malformed header");
}

#[test]
fn a_tensor_that_stands_twice() {
    let (_dir, folder) = with_header(
        r#"{"model.norm.weight":{"dtype":"BF16","shape":[16],"data_offsets":[0,32]},
            "model.norm.weight":{"dtype":"BF16","shape":[16],"data_offsets":[32,64]}}"#,
    );
    refuse(&folder, "`model.norm.weight` appears twice");
}

#[test]
fn two_spellings_of_one_tensor() {
    let (_dir, folder) = changed(|c| {
        let copy = c.tensors["model.layers.0.mlp.fc1.weight"].clone();
        c.tensors.insert("model.layers.0.mlp.up_proj.weight".into(), copy);
    });
    refuse(&folder, "appears twice");
}

#[test]
fn a_header_that_is_not_json() {
    let (_dir, folder) = with_header("{not json");
    refuse(&folder, "malformed header");
}

#[test]
fn nan_names_the_tensor_and_the_place() {
    let (_dir, folder) = changed(|c| {
        let t = c.tensors.get_mut("model.layers.1.mlp.fc2.weight").expect("there");
        t.bytes[(3 * 896 + 5) * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    refuse(&folder, "tensor `blk.1.ffn_down.weight` holds NaN at [3, 5]");
}

#[test]
fn a_missing_tensor() {
    let (_dir, folder) = changed(|c| drop(c.tensors.remove("model.layers.1.self_attn.o_proj.weight")));
    refuse(&folder, "`model.layers.1.self_attn.o_proj.weight` is missing");
}

#[test]
fn a_tensor_no_plm_has() {
    let extra = |name: &'static str| {
        changed(move |c| {
            let t = RawTensor { dtype: Dtype::F32, shape: vec![4], bytes: vec![0; 16] };
            c.tensors.insert(name.into(), t);
        })
    };
    let (_dir, folder) = extra("model.layers.0.mlp.gate_proj.weight");
    refuse(&folder, "`model.layers.0.mlp.gate_proj.weight` is not part of a PLM");
    let (_dir, folder) = extra("model.layers.0.self_attn.q_proj.bias");
    refuse(&folder, "biases");
}

#[test]
fn a_shape_the_config_contradicts() {
    let (_dir, folder) = changed(|c| c.config["kv_lora_rank"] = 64.into());
    refuse(&folder, "has shape [112, 320], but [80, 320] follows from config.json");
}

#[test]
fn more_layers_than_the_config_says() {
    let (_dir, folder) = changed(|c| c.config["num_hidden_layers"] = 1.into());
    refuse(&folder, "num_hidden_layers");
}

#[test]
fn a_head_that_differs_from_the_embedding() {
    let (_dir, folder) = changed(|c| {
        c.tensors.get_mut("lm_head.weight").expect("there").bytes[77] ^= 1;
    });
    refuse(&folder, "`lm_head.weight` differs from the embedding");
}

#[test]
fn what_the_plm_graph_cannot_express() {
    let cases: [(&str, serde_json::Value, &str); 5] = [
        ("hidden_act", "silu".into(), "hidden_act `silu`"),
        ("attention_bias", true.into(), "attention biases"),
        ("rope_scaling", serde_json::json!({"type": "yarn", "factor": 4.0}), "RoPE scaling"),
        ("model_type", "llama".into(), ""),
        ("num_key_value_heads", 1.into(), "num_key_value_heads"),
    ];
    for (key, value, said) in cases {
        let (_dir, folder) = changed(|c| {
            c.config[key] = value;
            if key == "model_type" {
                c.config["architectures"] = serde_json::json!(["LlamaForCausalLM"]);
            }
        });
        refuse(&folder, if said.is_empty() { "is not PLM" } else { said });
    }
}

#[test]
fn low_rank_queries() {
    let (_dir, folder) = changed(|c| {
        c.config["q_lora_rank"] = 64.into();
        for layer in 0..2 {
            let prefix = format!("model.layers.{layer}.self_attn");
            c.tensors.remove(&format!("{prefix}.q_proj.weight"));
            for (name, shape) in
                [("q_a_proj", vec![64, 320]), ("q_a_layernorm", vec![64]), ("q_b_proj", vec![240, 64])]
            {
                let count: usize = shape.iter().product();
                let t = RawTensor { dtype: Dtype::BF16, shape, bytes: vec![0; count * 2] };
                c.tensors.insert(format!("{prefix}.{name}.weight"), t);
            }
        }
    });
    refuse(&folder, "low-rank queries");
}

#[test]
fn damaged_gguf_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let good = dir.path().join("good.gguf");
    plmconv().args(["quantize", "bf16"]).arg(tiny_plm()).arg("-o").arg(&good).assert().success();
    let bytes = std::fs::read(&good).expect("read");
    let bad = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("write");
        path
    };
    refuse(&bad("magic.gguf", b"GGML\x03\0\0\0"), "bad magic");
    refuse(&bad("empty.gguf", b""), "truncated");
    refuse(&bad("head.gguf", &bytes[..1000]), "truncated");
    refuse(&bad("tail.gguf", &bytes[..bytes.len() - 512]), "truncated");
    let mut version = bytes.clone();
    version[4] = 9;
    refuse(&bad("version.gguf", &version), "version 9");
    let mut counts = bytes.clone();
    counts[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    refuse(&bad("counts.gguf", &counts), "");
}

#[test]
fn an_unwritable_folder() {
    let dir = tempfile::tempdir().expect("tempdir");
    plmconv()
        .args(["quantize", "q8"])
        .arg(tiny_plm())
        .arg("-o")
        .arg(dir.path().join("no/such/folder/out.gguf"))
        .assert()
        .code(1)
        .stderr(predicate::str::contains("no such file or folder"));
}

#[test]
fn an_unknown_pre_tokenizer_is_named_and_can_be_overridden() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let path = folder.join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect("read")).expect("JSON");
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]{3}".into();
    std::fs::write(&path, json.to_string()).expect("write");
    refuse(&folder, "[a-z]{3}");
    plmconv()
        .current_dir(dir.path())
        .args(["quantize", "q8", "--tokenizer-pre", "qwen2"])
        .arg(&folder)
        .assert()
        .success();
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_nothing_and_a_leftover_of_a_kill_is_cleaned_up() {
    use common::signals::interrupt;
    let dir = tempfile::tempdir().expect("tempdir");
    // What kill -9 in the middle of a run leaves.
    std::fs::write(dir.path().join(".plmconv-out.gguf.killed.tmp"), b"half").expect("write");
    let out = dir.path().join("out.gguf");
    let mut command = plmconv();
    command.args(["quantize", "q4", "--threads", "1"]).arg(tiny_plm()).arg("-o").arg(&out);
    interrupt(&command, &out);
    assert!(names(dir.path()).is_empty(), "left behind: {:?}", names(dir.path()));
}
