//! A text may come from a pipe, which can be read only once.
#![cfg(unix)]

mod common;

use common::{fixtures, plmconv, tiny_plm};
use predicates::prelude::*;

/// `plmconv ARGS --ctx-like options`, with the text on standard input.
fn with_text_on_stdin(args: &[&str]) -> assert_cmd::Command {
    let text = std::fs::read(fixtures().join("text/own.txt")).expect("fixture");
    let mut command = plmconv();
    command.args(args).write_stdin(text);
    command
}

#[test]
fn every_command_reads_a_text_once() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (tiny, out) = (tiny_plm(), dir.path().join("q8.gguf"));
    let (tiny, out) = (tiny.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let stats = dir.path().join("stats.gguf");
    let window = ["--ctx", "64", "--chunks", "2"];

    with_text_on_stdin(&["perplexity", tiny, "--text", "/dev/stdin"]).args(window).assert().success();
    with_text_on_stdin(&["quantize", "q8_0", tiny, "-o", out, "--validate", "/dev/stdin"])
        .args(["--validate-ctx", "64", "--validate-chunks", "2"])
        .assert()
        .success();
    with_text_on_stdin(&["validate", out, "--against", tiny, "--text", "/dev/stdin"])
        .args(window)
        .assert()
        .success();
    with_text_on_stdin(&["calibrate", tiny, "--text", "/dev/stdin", "-o"])
        .arg(&stats)
        .args(["--calibration-ctx", "64", "--calibration-chunks", "2"])
        .assert()
        .success();
    with_text_on_stdin(&["quantize", "q4_0", tiny, "-o", out, "--force", "--calibrate", "/dev/stdin"])
        .args(["--calibration-ctx", "64", "--calibration-chunks", "2"])
        .assert()
        .success();
}

/// The warning about tokens that llama.cpp cannot match as transformers does, where a text has them.
#[test]
fn a_text_with_other_tokens_than_in_transformers_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = common::copy_of_tiny_plm(dir.path());
    let path = folder.join("tokenizer.json");
    let mut json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("is there")).expect("JSON");
    json["added_tokens"].as_array_mut().expect("a list").push(serde_json::json!({
        "id": 4093, "content": "film", "special": false, "normalized": false,
        "single_word": true, "lstrip": false, "rstrip": false,
    }));
    std::fs::write(&path, json.to_string()).expect("write");
    let warned = predicate::str::contains("other tokens in transformers");
    for (text, is_warned) in [("a film, two films. ", true), ("a film. A movie. ", false)] {
        let assert = plmconv()
            .arg("perplexity")
            .arg(&folder)
            .args(["--text", "/dev/stdin", "--ctx", "16"])
            .write_stdin(text.repeat(20))
            .assert()
            .success();
        assert_eq!(warned.eval(&String::from_utf8_lossy(&assert.get_output().stderr)), is_warned, "{text}");
    }
    plmconv()
        .args(["convert", "--to", "gguf", "--dry-run"])
        .arg(&folder)
        .assert()
        .success()
        .stderr(predicate::str::contains("\"film\" (single_word)"));
}
