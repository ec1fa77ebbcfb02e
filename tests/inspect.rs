//! `plmconv inspect` on everything it reads.

mod common;

use common::{plmconv, tiny_plm};
use predicates::prelude::*;
use serde_json::Value;

fn stdout(args: &[&str], path: &std::path::Path) -> String {
    let output = plmconv().arg("inspect").args(args).arg(path).assert().success();
    String::from_utf8(output.get_output().stdout.clone()).expect("UTF-8")
}

/// The report with the machine's own path taken out.
fn without_path(text: String, path: &std::path::Path) -> String {
    text.replace(&path.display().to_string(), "PATH")
}

#[test]
fn a_folder() {
    let path = tiny_plm();
    insta::assert_snapshot!(without_path(stdout(&[], &path), &path));
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("plmconv"));
    command.arg("inspect").arg(tiny_plm());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_stdout_is_an_error() {
    let full = std::fs::File::create("/dev/full").expect("Linux has it");
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("plmconv"));
    let output = command.arg("inspect").arg(tiny_plm()).stdout(full).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).starts_with("error: stdout: No space left"));
}

#[test]
fn a_quantized_gguf() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("q4.gguf");
    plmconv().args(["quantize", "q4"]).arg(tiny_plm()).arg("-o").arg(&path).assert().success();
    insta::assert_snapshot!(without_path(stdout(&[], &path), &path));

    let json: Value = serde_json::from_str(&stdout(&["--json"], &path)).expect("JSON");
    assert_eq!(json["architecture"], "plm");
    assert_eq!(json["file_bytes"], std::fs::metadata(&path).expect("there").len());
    assert_eq!(json["tensors"].as_array().map(Vec::len), Some(56));
    assert_eq!(json["metadata"]["general.file_type"], 15);
    assert_eq!(json["metadata"]["tokenizer.ggml.tokens"].as_array().map(Vec::len), Some(4096));
}

#[test]
fn a_safetensors_file() {
    let path = tiny_plm().join("model.safetensors");
    let json: Value = serde_json::from_str(&stdout(&["--json"], &path)).expect("JSON");
    assert_eq!(json["format"], "safetensors");
    assert_eq!(json["parameters"], 6_411_008);
    assert!(stdout(&["-v"], &path).contains("model.layers.5.mlp.down_proj.weight"));
}

#[test]
fn any_safetensors_and_any_gguf_not_only_a_plm() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("other.safetensors");
    let bytes = [0u8; 24];
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F64, vec![3], &bytes).expect("sized");
    std::fs::write(&path, safetensors::serialize([("weird", view)], None).expect("serializes"))
        .expect("write");
    assert!(stdout(&[], &path).contains("weird"));

    let path = dir.path().join("vocabulary.gguf");
    let mut metadata = plmconv_formats::gguf::Metadata::new();
    metadata.set("general.architecture", plmconv_formats::gguf::Value::String("llama".into()));
    let directory = plmconv_formats::gguf::Directory::new(&metadata, []).expect("lays out");
    std::fs::write(&path, &directory.head).expect("write");
    assert!(stdout(&[], &path).contains("architecture llama"));
}

#[test]
fn neither_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "hello").expect("write");
    plmconv().arg("inspect").arg(&path).assert().code(1).stderr(predicate::str::contains(
        "neither a Hugging Face folder nor a GGUF, safetensors or ONNX file",
    ));
}
