//! plmconv's own commands on an export: `validate`, `perplexity`, `generate`.

use std::path::Path;

use plmconv_interop::converter;
use serde_json::Value;

use super::{Workspace, graph, own_text, plmconv, run, tiny_plm};

fn perplexity(model: &Path) -> f64 {
    let mut command = plmconv();
    command
        .arg("perplexity")
        .arg(model)
        .arg("--text")
        .arg(own_text())
        .args(["--ctx", "64", "--exact", "--json"]);
    let report: Value = serde_json::from_str(&run(&mut command)).expect("JSON");
    report["perplexity"].as_f64().expect("a number")
}

#[test]
fn a_float_export_passes() {
    let workspace = Workspace::new();
    let export = workspace.convert("f32", &["--profile", "genai"]);
    let mut command = plmconv();
    command.arg("validate").arg(&export).arg("--against").arg(tiny_plm()).arg("--text").arg(own_text());
    let report: Value =
        serde_json::from_str(&run(command.args(["--ctx", "64", "--exact", "--json"]))).expect("JSON");
    assert_eq!(report["passed"], true);
    assert!(report["kl_divergence"]["max"].as_f64().is_some_and(|k| k < 1e-6), "{report}");
    assert_eq!(
        (&report["candidate"]["format"], &report["candidate"]["type"]),
        (&"ONNX".into(), &"F32".into())
    );
    assert!(report["candidate"]["bits_per_weight"].as_f64().is_some_and(|b| (32.0..32.1).contains(&b)));
}

#[test]
fn four_bits_pass_by_the_limits_of_their_size() {
    let workspace = Workspace::new();
    let export = workspace.quantize("q4", &["--profile", "hf"]);
    let mut command = plmconv();
    command
        .arg("validate")
        .arg(graph(&export))
        .arg("--against")
        .arg(tiny_plm())
        .arg("--text")
        .arg(own_text());
    let text = run(command.args(["--ctx", "64"]));
    assert!(text.starts_with("PASS") && text.contains("limits for 5.65 bits per weight"), "{text}");
}

#[test]
fn perplexity_and_generate_agree_with_the_evaluator() {
    let workspace = Workspace::new();
    let export = workspace.convert("f32", &["--profile", "latent"]);
    assert!((perplexity(&export) / perplexity(&tiny_plm()) - 1.0).abs() < 1e-5);
    let generate = |model: &Path| {
        run(plmconv()
            .arg("generate")
            .arg(model)
            .args(["It was", "-n", "24", "--exact", "--temp", "0.8", "--seed", "3"]))
    };
    assert_eq!(generate(&export), generate(&tiny_plm()));
}

#[test]
fn a_missing_library_is_said_with_a_hint() {
    let workspace = Workspace::new();
    let export = workspace.convert("f32", &[]);
    let mut command = plmconv();
    command.env("ORT_DYLIB_PATH", workspace.path("libonnxruntime.so"));
    command.arg("generate").arg(&export).arg("It was");
    let error = converter::stdout_of(&mut command).expect_err("there is no library").to_string();
    assert!(error.contains("exit status: 1") && error.contains("hint: set ORT_DYLIB_PATH"), "{error}");
}

#[test]
fn a_graph_that_is_none_is_said() {
    let workspace = Workspace::new();
    let export = workspace.convert("f32", &[]);
    std::fs::write(graph(&export), b"not a graph").expect("writable");
    let mut command = plmconv();
    command.arg("perplexity").arg(&export).arg("--text").arg(own_text());
    let error = converter::stdout_of(&mut command).expect_err("it is no graph").to_string();
    assert!(error.contains("exit status: 1") && error.contains("model.onnx"), "{error}");
}
