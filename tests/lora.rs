//! `--lora`: adapters that are merged into a checkpoint as it is read.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use common::adapter::TestAdapter;
use common::checkpoint::Checkpoint;
use common::{calibration_text, copy_of_tiny_plm, plmconv, statistics, tensor_bytes, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use predicates::prelude::*;
use predicates::str::contains;
use safetensors::tensor::Dtype;
use serde_json::json;
use tempfile::TempDir;

fn tempdir() -> TempDir {
    tempfile::tempdir().expect("tempdir")
}

fn saved(dir: &TempDir, name: &str, adapter: &TestAdapter) -> PathBuf {
    adapter.save(&dir.path().join(name))
}

/// What the program says of the tiny adapter after a change that it cannot take.
fn refused(dir: &TempDir, change: &dyn Fn(&mut TestAdapter), said: &str) -> Assert {
    let mut adapter = TestAdapter::tiny();
    change(&mut adapter);
    let folder = saved(dir, "bad", &adapter);
    let mut command = plmconv();
    let refusal = command.arg("inspect").arg(tiny_plm()).arg("--lora").arg(&folder).assert();
    std::fs::remove_dir_all(&folder).expect("there");
    refusal.code(1).stderr(contains(said))
}

/// `model` with `lora` merged into it, as a GGUF of f32.
fn merged(dir: &TempDir, model: &Path, lora: &[String]) -> GgufFile {
    let out = dir.path().join("merged.gguf");
    let mut command = plmconv();
    command.arg("convert").arg(model).args(["--to", "gguf", "--dtype", "f32", "--force", "-o"]).arg(&out);
    lora.iter().for_each(|lora| {
        command.arg("--lora").arg(lora);
    });
    command.assert().success();
    GgufFile::open(&out).expect("a GGUF")
}

fn floats(file: &GgufFile, name: &str) -> Vec<f32> {
    let bytes = tensor_bytes(file, name);
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// In f64: `factor · B · A`, row by row.
fn product(
    adapter: &TestAdapter,
    module: &str,
    [rows, cols]: [usize; 2],
    rank: usize,
    factor: f64,
) -> Vec<f64> {
    let (a, b) = (
        adapter.values(&format!("{module}.lora_A.weight")),
        adapter.values(&format!("{module}.lora_B.weight")),
    );
    let element = |i: usize| -> f64 {
        let (row, col) = (i / cols, i % cols);
        factor * (0..rank).map(|k| f64::from(b[row * rank + k]) * f64::from(a[k * cols + col])).sum::<f64>()
    };
    (0..rows * cols).map(element).collect()
}

fn assert_sum(found: &[f32], base: &[f32], added: &[f64]) {
    assert_eq!(found.len(), added.len());
    for ((f, b), d) in found.iter().zip(base).zip(added) {
        let expected = f64::from(*b) + d;
        assert!((f64::from(*f) - expected).abs() <= 1e-6 * expected.abs().max(0.1), "{f} is not {expected}");
    }
}

#[test]
fn products_are_added_and_nothing_else_changes() {
    let dir = tempdir();
    let mut adapter = TestAdapter::tiny();
    adapter.config["alpha_pattern"] = json!({"layers.1.self_attn.q_proj": 2});
    adapter.config["use_rslora"] = json!(true);
    let folder = saved(&dir, "adapter", &adapter);
    let base = merged(&dir, &tiny_plm(), &[]);
    let base_of = |name: &str| floats(&base, name);
    let (q0, q1, down, up) = (
        base_of("blk.0.attn_q.weight"),
        base_of("blk.1.attn_q.weight"),
        base_of("blk.0.ffn_down.weight"),
        base_of("blk.0.ffn_up.weight"),
    );
    let file = merged(&dir, &tiny_plm(), &[format!("{}=0.5", folder.display())]);
    // rsLoRA: alpha over the root of the rank.
    let added = |module: &str, shape, factor| product(&adapter, module, shape, 4, factor);
    assert_sum(
        &floats(&file, "blk.0.attn_q.weight"),
        &q0,
        &added("model.layers.0.self_attn.q_proj", [384, 256], 0.5 * 8.0 / 2.0),
    );
    assert_sum(
        &floats(&file, "blk.1.attn_q.weight"),
        &q1,
        &added("model.layers.1.self_attn.q_proj", [384, 256], 0.5 * 2.0 / 2.0),
    );
    assert_sum(
        &floats(&file, "blk.0.ffn_down.weight"),
        &down,
        &added("model.layers.0.mlp.down_proj", [256, 1024], 0.5 * 8.0 / 2.0),
    );
    assert_eq!(floats(&file, "blk.0.ffn_up.weight"), up);
}

#[test]
fn adapters_add_up_in_order() {
    let dir = tempdir();
    let first = saved(&dir, "first", &TestAdapter::tiny());
    let base = floats(&merged(&dir, &tiny_plm(), &[]), "blk.0.attn_q.weight");
    let twice = floats(&merged(&dir, &tiny_plm(), &[text(&first), text(&first)]), "blk.0.attn_q.weight");
    let module = "model.layers.0.self_attn.q_proj";
    assert_sum(&twice, &base, &product(&TestAdapter::tiny(), module, [384, 256], 4, 4.0));
    let mut replacing = TestAdapter::new(3);
    replacing.config["modules_to_save"] = json!(["self_attn.q_proj"]);
    replacing.put(&format!("base_model.model.{module}.weight"), Dtype::BF16, &[384, 256]);
    let second = saved(&dir, "second", &replacing);
    let weight = replacing.values(&format!("{module}.weight"));
    let file = merged(&dir, &tiny_plm(), &[text(&first), text(&second)]);
    assert_eq!(floats(&file, "blk.0.attn_q.weight"), weight);
    let file = merged(&dir, &tiny_plm(), &[text(&second), text(&first)]);
    let added = product(&TestAdapter::tiny(), module, [384, 256], 4, 2.0);
    assert_sum(&floats(&file, "blk.0.attn_q.weight"), &weight, &added);
}

#[test]
fn an_embedding_and_its_head_stay_one() {
    let dir = tempdir();
    let mut adapter = TestAdapter::new(5);
    adapter.put("base_model.model.model.embed_tokens.lora_embedding_A", Dtype::F16, &[4, 4096]);
    adapter.put("base_model.model.model.embed_tokens.lora_embedding_B", Dtype::F16, &[256, 4]);
    let base = floats(&merged(&dir, &tiny_plm(), &[]), "token_embd.weight");
    let folder = saved(&dir, "embedding", &adapter);
    let file = merged(&dir, &tiny_plm(), &[text(&folder)]);
    let a = adapter.values("model.embed_tokens.lora_embedding_A");
    let b = adapter.values("model.embed_tokens.lora_embedding_B");
    let element = |i: usize| -> f64 {
        let (row, col) = (i / 256, i % 256);
        2.0 * (0..4).map(|k| f64::from(a[k * 4096 + row]) * f64::from(b[col * 4 + k])).sum::<f64>()
    };
    let added: Vec<f64> = (0..4096 * 256).map(element).collect();
    assert_sum(&floats(&file, "token_embd.weight"), &base, &added);
    let run = |folder: &Path| {
        let mut command = plmconv();
        command.arg("inspect").arg(tiny_plm()).arg("--lora").arg(folder).assert()
    };
    run(&folder).success().stderr(contains("changes the embedding, which is the head too"));

    // Both in one are both replaced; a head of its own has no place.
    let mut both = TestAdapter::new(6);
    both.config["modules_to_save"] = json!(["embed_tokens", "lm_head"]);
    both.put("base_model.model.model.embed_tokens.weight", Dtype::BF16, &[4096, 256]);
    let only_one = saved(&dir, "one", &both);
    run(&only_one).failure().stderr(contains("one of the embedding and the head alone in `modules_to_save`"));
    let copy = both.tensors["base_model.model.model.embed_tokens.weight"].clone();
    both.tensors.insert("base_model.model.lm_head.weight".into(), copy);
    let equal = saved(&dir, "equal", &both);
    let file = merged(&dir, &tiny_plm(), &[text(&equal)]);
    assert_eq!(floats(&file, "token_embd.weight"), both.values("lm_head.weight"));
    both.put("base_model.model.lm_head.weight", Dtype::BF16, &[4096, 256]);
    run(&saved(&dir, "other", &both))
        .failure()
        .stderr(contains("`lm_head.weight` differs from the embedding"));
    let mut head = TestAdapter::new(6);
    head.target("lm_head", [4096, 256], 4);
    run(&saved(&dir, "head", &head)).failure().stderr(contains("a change of the head alone (`lm_head`)"));
}

/// RoPE's pairs are moved when a checkpoint is read: what is merged has to be there by then.
#[test]
fn rows_that_are_moved_are_moved_with_what_was_added() {
    let dir = tempdir();
    let folder = dir.path().join("model");
    let mut checkpoint = Checkpoint::odd();
    checkpoint.config["rope_interleave"] = json!(false);
    checkpoint.save(&folder);
    let mut adapter = TestAdapter::new(9);
    let module = "model.layers.0.self_attn.q_proj";
    adapter.target(module, [240, 320], 4);
    let lora = saved(&dir, "adapter", &adapter);
    let found = floats(&merged(&dir, &folder, &[text(&lora)]), "blk.0.attn_q.weight");
    let sum = checkpoint.tensors.get_mut(&format!("{module}.weight")).expect("there");
    let added = product(&adapter, module, [240, 320], 4, 2.0);
    let values = sum.values();
    let values = values.iter().zip(&added).map(|(base, added)| (f64::from(*base) + added) as f32);
    sum.bytes = values.flat_map(f32::to_le_bytes).collect();
    sum.dtype = Dtype::F32;
    let other = dir.path().join("summed");
    checkpoint.save(&other);
    let expected = floats(&merged(&dir, &other, &[]), "blk.0.attn_q.weight");
    assert_sum(&found, &expected, &vec![0.0; expected.len()]);
}

#[test]
fn what_does_not_fit_is_named() {
    let dir = tempdir();
    let refused = |change: &dyn Fn(&mut TestAdapter), said: &str| {
        refused(&dir, change, said).stderr(contains("hint: "));
    };
    let shaped = |module: &'static str, shape| move |a: &mut TestAdapter| a.target(module, shape, 4);
    refused(
        &shaped("model.layers.9.self_attn.q_proj", [384, 256]),
        "`model.layers.9.self_attn.q_proj` is not a part of",
    );
    refused(
        &shaped("model.layers.0.mlp.gate_proj", [384, 256]),
        "`model.layers.0.mlp.gate_proj` is not a part of",
    );
    refused(&|a| a.config["use_dora"] = json!(true), "DoRA");
    let part = |name: &'static str, shape: &'static [usize]| {
        move |a: &mut TestAdapter| a.put(&format!("base_model.model.{name}"), Dtype::F32, shape)
    };
    refused(&part("model.layers.0.self_attn.q_proj.lora_magnitude_vector", &[384]), "lora_magnitude_vector");
    refused(&part("model.layers.0.self_attn.q_proj.bias", &[384]), "biases");

    let plain = |arguments: &[&str], said: &str| {
        let mut command = plmconv();
        command.arg("inspect").arg(tiny_plm()).args(arguments);
        command.assert().failure().stderr(contains(said)).stderr(contains("hint: "));
    };
    plain(&["--lora", &text(&tiny_plm())], "not a LoRA adapter: adapter_config.json is not there");
    plain(&["--lora", "no/such/folder"], "no/such/folder: no such file or folder");
    plain(&["--lora", "adapter=much"], "`much` is not a scale");
}

#[test]
fn shapes_and_ranks_are_compared() {
    let dir = tempdir();
    let refused = |change: &dyn Fn(&mut TestAdapter), said: &str| {
        refused(&dir, change, said);
    };
    let q = "model.layers.0.self_attn.q_proj";
    refused(
        &|a| a.target(q, [384, 128], 4),
        "has shape [384, 128], but [384, 256] follows from the base model",
    );
    refused(&|a| a.target(q, [384, 256], 2), "the rank 4 that adapter_config.json says");
    refused(&|a| a.config["r"] = json!(0), "`r` is 0, expected a positive number");
    let resized = |a: &mut TestAdapter| {
        let name = "base_model.model.model.embed_tokens.base_layer.weight";
        a.put(name, Dtype::BF16, &[4098, 256]);
    };
    refused(&resized, "model.embed_tokens (saved in the adapter)` has shape [4098, 256], but [4096, 256]");
    let b = format!("base_model.model.{q}.lora_B.weight");
    let without = |a: &mut TestAdapter| drop(a.tensors.remove(&b));
    refused(&without, &format!("tensor `{b}` is missing"));
}

#[test]
fn a_file_is_verified_with_the_adapter_it_was_made_with() {
    let dir = tempdir();
    let (folder, out) = (saved(&dir, "adapter", &TestAdapter::tiny()), dir.path().join("out.gguf"));
    let other = saved(&dir, "other", &TestAdapter::new(1));
    let lora = text(&folder);
    plmconv()
        .args(["quantize", "q4_k_m"])
        .arg(tiny_plm())
        .args(["--lora", &lora, "-o"])
        .arg(&out)
        .assert()
        .success();
    let verify = |file: &Path, lora: &[&str]| {
        let mut command = plmconv();
        command.arg("verify").arg(file).arg(tiny_plm()).args(lora.iter().flat_map(|lora| ["--lora", lora]));
        command.assert()
    };
    verify(&out, &[&lora]).success();
    verify(&out, &[])
        .code(2)
        .stderr(contains("made with a LoRA adapter, which verifying needs").and(contains("--lora")));
    verify(&out, &[&format!("{lora}=2")]).code(2).stderr(contains("scale 1, not with"));
    verify(&out, &[&text(&other)]).code(2).stderr(contains("not with"));
    let plain = dir.path().join("plain.gguf");
    plmconv().args(["quantize", "q4_k_m"]).arg(tiny_plm()).arg("-o").arg(&plain).assert().success();
    verify(&plain, &[&lora]).code(2).stderr(contains("made without an adapter"));

    let onnx = dir.path().join("onnx");
    plmconv()
        .args(["quantize", "q8", "--to", "onnx"])
        .arg(tiny_plm())
        .args(["--lora", &lora, "-o"])
        .arg(&onnx)
        .assert()
        .success();
    verify(&onnx, &[&lora]).success();
    verify(&onnx, &[]).code(2).stderr(contains("made with a LoRA adapter"));
}

#[test]
fn statistics_are_of_the_merged_model() {
    let dir = tempdir();
    // It changes one row, which no sample of rows need contain.
    let mut adapter = TestAdapter::tiny();
    for (name, tensor) in &mut adapter.tensors {
        if name.ends_with("lora_B.weight") {
            let row = tensor.bytes.len() / tensor.shape[0];
            tensor.bytes[2 * row..].fill(0);
            tensor.bytes[..row].fill(0);
        }
    }
    let lora = saved(&dir, "adapter", &adapter);
    let (own, base) = (dir.path().join("own.gguf"), statistics("lora-base-statistics"));
    let mut command = plmconv();
    command.arg("calibrate").arg(tiny_plm()).arg("--lora").arg(&lora).arg("--text").arg(calibration_text());
    command.args(["--calibration-ctx", "64", "--calibration-chunks", "2", "-o"]).arg(&own).assert().success();
    let quantize = |stats: &Path, lora: Option<&Path>| {
        let mut command = plmconv();
        command
            .args(["quantize", "q4_0", "--effort", "fast", "--dry-run"])
            .arg(tiny_plm())
            .arg("--stats")
            .arg(stats);
        command.args(lora.map(|_| "--lora")).args(lora).assert()
    };
    quantize(&own, Some(&lora)).success();
    quantize(&own, None).failure().stderr(contains("another model"));
    quantize(&base, Some(&lora)).failure().stderr(contains("another model"));
}

#[test]
fn every_command_sees_the_merged_model() {
    let dir = tempdir();
    let lora = text(&saved(&dir, "adapter", &TestAdapter::tiny()));
    let out = dir.path().join("out.gguf");
    let quantize = [
        "quantize",
        "q8_0",
        "--lora",
        &lora,
        "--validate-ctx",
        "64",
        "--validate-chunks",
        "2",
        "--min-top1",
        "0.9",
        "--validate",
    ];
    plmconv().args(quantize).arg(calibration_text()).arg("-o").arg(&out).arg(tiny_plm()).assert().success();
    let validate = |lora: &[&str]| {
        let mut command = plmconv();
        command
            .arg("validate")
            .arg(&out)
            .arg("--against")
            .arg(tiny_plm())
            .args(["--ctx", "64", "--chunks", "2", "--text"]);
        command.arg(calibration_text()).args(lora).assert()
    };
    validate(&["--lora", &lora, "--min-top1", "0.9"]).success();
    validate(&[]).code(3);
    let perplexity = |model: &Path, lora: &[&str]| {
        let mut command = plmconv();
        command.arg("perplexity").arg(model).args([
            "--ctx",
            "64",
            "--chunks",
            "2",
            "--arithmetic",
            "exact",
            "--text",
        ]);
        common::json(command.arg(calibration_text()).args(lora))["perplexity"].as_f64().expect("a number")
    };
    let (with, without) = (perplexity(&tiny_plm(), &["--lora", &lora]), perplexity(&tiny_plm(), &[]));
    assert!(
        (with / perplexity(&out, &[]) - 1.0).abs() < 0.005 && (with / without - 1.0).abs() > 0.005,
        "{with} {without}"
    );
    plmconv().arg("generate").arg(tiny_plm()).args(["The", "-n", "2", "--lora", &lora]).assert().success();
    plmconv()
        .arg("generate")
        .arg(&out)
        .args(["The", "--lora", &lora])
        .assert()
        .failure()
        .stderr(contains("this is a file"));
}

#[test]
fn a_merged_checkpoint_is_the_same_model() {
    let dir = tempdir();
    let lora = text(&saved(&dir, "adapter", &TestAdapter::tiny()));
    let folder = dir.path().join("merged-hf");
    let mut command = plmconv();
    command.arg("convert").arg(tiny_plm()).args(["--to", "safetensors", "--lora", &lora, "-o"]).arg(&folder);
    command.assert().success();
    let direct = floats(&merged(&dir, &tiny_plm(), &[lora]), "blk.1.ffn_down.weight");
    assert_eq!(floats(&merged(&dir, &folder, &[]), "blk.1.ffn_down.weight"), direct);
}

#[test]
fn an_adapters_folder_is_no_output() {
    let dir = tempdir();
    let model = copy_of_tiny_plm(dir.path());
    let lora = saved(&dir, "adapter", &TestAdapter::tiny());
    let output = lora.join("adapter_config.json");
    let mut command = plmconv();
    command.args(["quantize", "q8_0", "--force", "--lora"]).arg(&lora).arg(&model).arg("-o").arg(&output);
    command.assert().code(2).stderr(contains("belongs to the input"));
    // Named alone, it says where it belongs.
    plmconv()
        .args(["quantize", "q8_0"])
        .arg(&lora)
        .assert()
        .code(1)
        .stderr(contains("--lora").and(contains("a LoRA adapter")));
}
