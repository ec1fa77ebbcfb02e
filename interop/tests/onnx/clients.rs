//! The clients that the profiles are made for open the folders and write what plmconv writes.

use std::path::Path;

use super::{Workspace, node, plmconv, python, run, tiny_plm};

const PROMPT: &str = "The film was released in";
const TOKENS: &str = "32";

/// What `plmconv generate` makes of the prompt; `--exact`, as the clients compute in float32.
fn expected(model: &Path) -> String {
    let mut command = plmconv();
    command.arg("generate").arg(model).arg(PROMPT).args(["-n", TOKENS, "--exact"]);
    let text = run(&mut command);
    assert!(text.len() > 64, "{text:?}");
    text
}

#[track_caller]
fn assert_same(found: &str, expected: &str) {
    assert_eq!(found.trim_end(), expected.trim_end());
}

#[test]
fn onnxruntime_genai() {
    let workspace = Workspace::new();
    for opset in ["21", "23"] {
        let export = workspace.convert("f32", &["--profile", "genai", "--opset", opset, "--force"]);
        let found = run(python("genai_generate.py").arg(&export).args([TOKENS, PROMPT]));
        assert_same(&found, &expected(&tiny_plm()));
    }
}

#[test]
fn onnxruntime_genai_in_4_bit() {
    let workspace = Workspace::new();
    let export = workspace.quantize("q4", &["--profile", "genai", "--accuracy-level", "1"]);
    let found = run(python("genai_generate.py").arg(&export).args([TOKENS, PROMPT]));
    assert_same(&found, &expected(&workspace.dequantized(&export)));
}

#[test]
fn transformers_js() {
    let workspace = Workspace::new();
    let export = workspace.convert("f32", &["--profile", "hf", "--num-logits-to-keep"]);
    let found = run(node().arg(&export).args(["fp32", TOKENS, PROMPT]));
    assert_same(&found, &expected(&tiny_plm()));
}

#[test]
fn transformers_js_in_4_bit() {
    let workspace = Workspace::new();
    let export = workspace.quantize("q4", &["--profile", "hf", "--accuracy-level", "1"]);
    let found = run(node().arg(&export).args(["q4", TOKENS, PROMPT]));
    assert_same(&found, &expected(&workspace.dequantized(&export)));
}

#[test]
fn optimum() {
    let workspace = Workspace::new();
    let export = workspace.convert("f32", &["--profile", "hf"]);
    let mut command = python("optimum_generate.py");
    // A batch of prompts of different length: optimum pads the shorter one on the left.
    command.arg(&export).args(["model.onnx", TOKENS, PROMPT, "It was a quiet night, and the three of them"]);
    let found = run(&mut command);
    let (first, second) = found.split_once("\n---\n").expect("two continuations");
    assert_same(first, &expected(&tiny_plm()));
    assert!(!second.trim().is_empty());
}
