//! What programs read that run plmconv: results as JSON on stdout, and with `--log-format json` lines on stderr.

mod common;

use common::{calibration_text, json, plmconv, tiny_plm};
use serde_json::Value;

/// Runs a command in `folder` and returns its JSON, which names its form.
fn result(folder: &std::path::Path, kind: &str, args: &[&str]) -> Value {
    let mut command = plmconv();
    let result = json(command.current_dir(folder).args(args));
    assert_eq!(result["schema"], format!("plmconv.{kind}/1"), "{args:?}");
    assert_eq!(result["version"], env!("CARGO_PKG_VERSION"), "{args:?}");
    result
}

/// The lines on stderr of a run that ends with `code`.
fn lines(code: i32, args: &[&str]) -> Vec<Value> {
    let output = plmconv().args(args).args(["--log-format", "json"]).assert().code(code).get_output().clone();
    let text = String::from_utf8(output.stderr).expect("text");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
}

#[test]
fn every_result_says_of_what_form_it_is() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (model, text) = (tiny_plm().display().to_string(), calibration_text().display().to_string());
    let run = |kind, args: &[&str]| result(dir.path(), kind, args);
    let plan = run("plan", &["quantize", "q8_0", &model, "--dry-run"]);
    let written = run("written", &["quantize", "q8_0", &model, "-o", "q8.gguf"]);
    assert_eq!(
        plan["tensors"].as_array().map(Vec::len),
        written["tensor_count"].as_u64().map(|n| n as usize)
    );
    run("inspection", &["inspect", "q8.gguf"]);
    run("edit", &["edit", "q8.gguf", "--set", "general.name=renamed", "--dry-run"]);
    run("verification", &["verify", "q8.gguf", &model]);
    let windows = ["--text", text.as_str(), "--ctx", "32", "--chunks", "1"];
    run("perplexity", &[&["perplexity", "q8.gguf"][..], &windows].concat());
    run("validation", &[&["validate", "q8.gguf", "--against", &model][..], &windows].concat());
    run("reference", &[&["reference", &model, "-o", "reference.safetensors"][..], &windows].concat());
    run("sparsity", &["inspect", &model, "--sparsity", &text, "--ctx", "32", "--chunks", "1"]);
    run("types", &["types"]);
}

#[test]
fn calibration_tells_what_it_measured() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (model, text) = (tiny_plm().display().to_string(), calibration_text().display().to_string());
    let sample = ["--calibration-ctx", "16", "--calibration-chunks", "2"];
    let args = [&["calibrate", model.as_str(), "--text", &text, "-o", "one.gguf"][..], &sample].concat();
    let one = result(dir.path(), "calibration", &args);
    assert_eq!((one["windows"].as_u64(), one["tokens"].as_u64()), (Some(2), Some(32)));
    let args = ["calibrate", "--merge", "one.gguf", "one.gguf", "-o", "two.gguf"];
    let two = result(dir.path(), "calibration", &args);
    assert_eq!((two["windows"].as_u64(), two["tokens"].as_u64()), (Some(4), Some(64)));
    assert_eq!(two["texts"].as_array().map(Vec::len), Some(2));
    let mut command = plmconv();
    let said = command.current_dir(dir.path()).args(args).arg("--force").assert().success();
    let said = String::from_utf8_lossy(&said.get_output().stdout).into_owned();
    assert!(said.starts_with("two.gguf\n") && said.contains("4 windows of 16 tokens"), "{said}");
}

#[test]
fn generated_text_comes_with_its_tokens() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = tiny_plm().display().to_string();
    let args = ["generate", model.as_str(), "The film", "-n", "6"];
    let written = result(dir.path(), "generation", &args);
    let text = plmconv().args(args).assert().success().get_output().stdout.clone();
    assert_eq!(written["text"].as_str().map(|text| format!("{text}\n")), String::from_utf8(text).ok());
    assert_eq!(written["tokens"].as_array().map(Vec::len), Some(6));
    assert!(written["prompt_tokens"].as_u64() > Some(0));
}

#[test]
fn lines_on_stderr_are_objects_where_that_is_asked() {
    let missing = lines(1, &["inspect", "not-there.gguf"]);
    assert_eq!((missing.len(), &missing[0]["level"]), (1, &Value::from("error")));
    assert!(missing[0]["message"].as_str().expect("text").contains("not-there.gguf"));
    assert!(missing[0]["hint"].is_string());

    // clap's own errors, and what it suggests.
    let usage = lines(2, &["quantize", "q4", "model", "--outpu", "x"]);
    assert_eq!((usage.len(), &usage[0]["level"]), (1, &Value::from("error")));
    assert!(usage[0]["message"].as_str().expect("text").contains("--outpu"));
    assert!(usage[0]["hint"].as_str().expect("text").contains("--output"));

    let model = tiny_plm().display().to_string();
    let warned = lines(0, &["quantize", "q4", &model, "--dry-run", "--effort", "max"]);
    assert!(warned.iter().any(|line| line["level"] == "warning"), "{warned:?}");
    assert!(lines(0, &["quantize", "q4", &model, "--dry-run"]).is_empty());
}
