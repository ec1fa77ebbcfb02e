//! `plmconv convert --to safetensors`: back to a Hugging Face folder.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{copy_of_tiny_plm, fixtures, names, plmconv, tiny_plm};
use predicates::prelude::*;
use safetensors::SafeTensors;
use serde_json::Value;

/// All tensors of a folder by name: type, shape, bytes.
fn tensors(folder: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut all = BTreeMap::new();
    for name in names(folder).into_iter().filter(|name| name.ends_with(".safetensors")) {
        let bytes = std::fs::read(folder.join(name)).expect("readable");
        for (name, tensor) in SafeTensors::deserialize(&bytes).expect("a safetensors file").tensors() {
            let told = (tensor.dtype().to_string(), tensor.shape().to_vec(), tensor.data().to_vec());
            assert!(all.insert(name, told).is_none());
        }
    }
    all
}

fn gguf(dir: &Path, args: &[&str]) -> PathBuf {
    let out = dir.join("model.gguf");
    plmconv().args(args).arg(tiny_plm()).arg("-o").arg(&out).assert().success();
    out
}

fn back(source: &Path, out: &Path, more: &[&str]) {
    let mut command = plmconv();
    command
        .arg("convert")
        .arg(source)
        .args(["--to", "safetensors", "-o"])
        .arg(out)
        .args(more)
        .assert()
        .success();
}

fn json(path: PathBuf) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
}

#[test]
fn the_round_trip_gives_every_tensor_bit_for_bit() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out");
    back(&gguf(dir.path(), &["convert", "--to", "gguf"]), &out, &[]);
    assert_eq!(tensors(&out), tensors(&tiny_plm()));
    let (made, source) = (json(out.join("config.json")), json(tiny_plm().join("config.json")));
    for (key, value) in source.as_object().expect("an object") {
        if made.get(key).is_some() && key != "rms_norm_eps" {
            assert_eq!(&made[key], value, "{key}");
        }
    }
    assert!((made["rms_norm_eps"].as_f64().expect("a number") - 1e-6).abs() < 1e-12);
    assert_eq!(made["torch_dtype"], "bfloat16");
    // And it is a model as any other: the GGUF that comes of it is the GGUF it came from.
    let again = dir.path().join("again.gguf");
    plmconv().args(["convert", "--to", "gguf"]).arg(&out).arg("-o").arg(&again).assert().success();
    assert_eq!(common::digests(&again), common::digests(&dir.path().join("model.gguf")));
    let mut command = plmconv();
    command.arg("validate").arg(&out).arg("--against").arg(tiny_plm()).args(["--max-kld", "1e-9"]);
    command.arg("--text").arg(fixtures().join("text/own.txt")).args(["--ctx", "64"]).assert().success();
}

#[test]
fn quantized_weights_come_back_as_the_numbers_they_stand_for() {
    let dir = tempfile::tempdir().expect("tempdir");
    let source = gguf(dir.path(), &["quantize", "q4_k_m"]);
    let out = dir.path().join("out");
    back(&source, &out, &[]);
    assert!(tensors(&out).values().all(|(dtype, ..)| dtype == "F32"));
    let mut command = plmconv();
    command.arg("validate").arg(&source).arg("--against").arg(&out).args([
        "--arithmetic",
        "exact",
        "--max-kld",
    ]);
    command.args(["1e-6", "--ctx", "64", "--text"]).arg(fixtures().join("text/own.txt")).assert().success();
    back(&source, &dir.path().join("half"), &["--dtype", "f16"]);
    assert!(tensors(&dir.path().join("half")).values().all(|(dtype, ..)| dtype == "F16"));
}

#[test]
fn large_models_are_cut_as_the_hub_cuts_them() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out");
    back(&tiny_plm(), &out, &["--split-max-size", "3M"]);
    let index = json(out.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().expect("an object");
    let all = tensors(&out);
    assert_eq!(all, tensors(&tiny_plm()));
    assert_eq!(index["metadata"]["total_size"], all.values().map(|(.., bytes)| bytes.len()).sum::<usize>());
    assert!(map.len() == all.len() && map["model.norm.weight"] != map["model.embed_tokens.weight"]);
    let shards = names(&out).into_iter().filter(|name| name.starts_with("model-0"));
    assert!(shards.count() >= 5);
    plmconv().args(["quantize", "q8", "--dry-run"]).arg(&out).assert().success();
}

#[test]
fn a_folder_of_anything_else_is_never_replaced() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = copy_of_tiny_plm(dir.path());
    let convert = |out: &Path, more: &[&str]| {
        let mut command = plmconv();
        command.arg("convert").arg(&model).args(["--to", "safetensors", "-o"]).arg(out).args(more);
        command
    };
    let before = tensors(&model);
    convert(&model, &["--force"]).assert().code(1).stderr(predicate::str::contains("not"));
    convert(dir.path(), &["--force"]).assert().code(1);
    assert_eq!(tensors(&model), before);
    let out = dir.path().join("out");
    convert(&out, &[]).assert().success();
    convert(&out, &[]).assert().code(1).stderr(predicate::str::contains("exists"));
    convert(&out, &["--force", "--dtype", "f32"]).assert().success();
    // Somebody's checkpoint is none of ours, and neither is a folder with something more in it.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("create");
    let other = copy_of_tiny_plm(&other);
    convert(&other, &["--force"]).assert().code(1).stderr(predicate::str::contains("plmconv did not write"));
    std::fs::write(out.join("notes.txt"), "mine").expect("write");
    convert(&out, &["--force"]).assert().code(1).stderr(predicate::str::contains("notes.txt"));
    assert_eq!(names(dir.path()), ["other", "out", "tiny-plm"]);
}

#[test]
fn what_does_not_go_together_is_refused() {
    let model = tiny_plm().display().to_string();
    let cases: [(&[&str], &str); 4] = [
        (&["quantize", "q4", &model, "--to", "safetensors"], "no quantized weights"),
        (&["convert", &model, "--to", "safetensors", "--layout", "latent"], "about a GGUF"),
        (&["convert", &model, "--to", "safetensors", "--profile", "hf"], "about an ONNX graph"),
        (&["convert", &model, "--to", "safetensors", "-o", "-"], "`./-`"),
    ];
    for (args, says) in cases {
        plmconv().args(args).assert().code(2).stderr(predicate::str::contains(says));
    }
}

#[test]
fn the_latent_layout_is_undone() {
    let dir = tempfile::tempdir().expect("tempdir");
    let latent = |args: &[&str]| gguf(dir.path(), &[args, &["--layout", "latent"]].concat());
    for dtype in ["bf16", "f32"] {
        let source = latent(&["convert", "--to", "gguf", "--force", "--dtype", dtype]);
        let out = dir.path().join(dtype);
        back(&source, &out, &["--dtype", "bf16"]);
        assert_eq!(tensors(&out), tensors(&tiny_plm()), "{dtype}");
        assert_eq!(json(out.join("config.json"))["model_type"], "plm");
    }
    // A quantized pair is two roundings of one matrix, and their mean computes what the file does.
    for (file_type, limit) in [("q8_0", "1e-6"), ("q4_0", "1e-4"), ("q4_k_m", "5e-4")] {
        let source = latent(&["quantize", file_type, "--force"]);
        let out = dir.path().join(file_type);
        back(&source, &out, &[]);
        let mut command = plmconv();
        command.arg("validate").arg(&source).arg("--against").arg(&out).args(["--arithmetic", "exact"]);
        command.args(["--max-kld", limit, "--ctx", "64", "--text"]).arg(fixtures().join("text/own.txt"));
        command.assert().success();
    }
}
