//! PLM's relatives: what the commands make of the small models of fixtures/family, against llama.cpp's own tools and against
//! each other.

mod common;

use std::path::{Path, PathBuf};

use common::{calibration_text, digests, json, plmconv};
use predicates::prelude::*;
use serde_json::{Value, json};

const FAMILY: [&str; 1] = ["arcee"];
/// Those whose neurons may be silent.
const SQUARED_RELU: [&str; 1] = ["arcee"];

fn folder(name: &str) -> PathBuf {
    common::fixtures().join(format!("family/tiny-{name}"))
}

fn golden(name: &str) -> Value {
    let path = common::fixtures().join(format!("family/tiny-{name}.json"));
    serde_json::from_str(&std::fs::read_to_string(path).expect("fixture")).expect("JSON")
}

fn quantize(target: &str, model: &Path, out: &Path, options: &[&str]) {
    plmconv().args(["quantize", target]).arg(model).args(options).arg("-o").arg(out).assert().success();
}

/// A writable copy, with other values for some keys of its config.json.
fn changed(name: &str, into: &Path, values: Value) -> PathBuf {
    let copy = into.join(name);
    std::fs::create_dir_all(&copy).expect("create");
    for entry in std::fs::read_dir(folder(name)).expect("fixture") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), copy.join(entry.file_name())).expect("copy");
    }
    let path = copy.join("config.json");
    let mut config: Value =
        serde_json::from_str(&std::fs::read_to_string(&path).expect("read")).expect("JSON");
    let values = values.as_object().expect("an object").clone();
    config.as_object_mut().expect("an object").extend(values);
    std::fs::write(path, config.to_string()).expect("write");
    copy
}

#[test]
fn every_type_equals_llama_quantize() {
    let dir = tempfile::tempdir().expect("tempdir");
    for name in FAMILY {
        let golden = golden(name);
        for section in ["convert", "default"] {
            for (file_type, expected) in golden[section].as_object().expect("types") {
                let out = dir.path().join(format!("{name}-{file_type}.gguf"));
                quantize(file_type, &folder(name), &out, &["--force"]);
                let found = digests(&out);
                let expected = expected.as_object().expect("tensors");
                assert_eq!(found.len(), expected.len(), "{name} {file_type}");
                for (tensor, (dtype, shape, sha256)) in found {
                    let found = json!({"type": dtype, "shape": shape, "sha256": sha256});
                    assert_eq!(found, expected[&tensor], "{name} {file_type} {tensor}");
                }
            }
        }
    }
}

#[test]
fn a_gguf_is_the_model_that_it_was_made_of() {
    let dir = tempfile::tempdir().expect("tempdir");
    for name in FAMILY {
        let out = dir.path().join(format!("{name}.gguf"));
        quantize("f32", &folder(name), &out, &[]);
        let perplexity = |model: &Path| {
            let mut command = plmconv();
            command.arg("perplexity").arg(model).arg("--text").arg(calibration_text());
            command.args(["--ctx", "96", "--chunks", "4", "--arithmetic", "exact"]);
            json(&mut command)["perplexity"].clone()
        };
        assert_eq!(perplexity(&out), perplexity(&folder(name)), "{name}");
        // Again from the GGUF: the same file.
        let again = dir.path().join(format!("{name}-again.gguf"));
        quantize("f32", &out, &again, &[]);
        assert!(std::fs::read(&out).expect("read") == std::fs::read(&again).expect("read"), "{name}");
        plmconv().arg("verify").arg(&out).arg(folder(name)).assert().success();
    }
}

/// The divergence that `validate` finds.
fn divergence(candidate: &Path, reference: &Path) -> f64 {
    let mut command = plmconv();
    command
        .arg("validate")
        .arg(candidate)
        .arg("--against")
        .arg(reference)
        .arg("--text")
        .arg(calibration_text());
    command.args(["--ctx", "96", "--chunks", "8", "--json"]);
    let output = command.output().expect("runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    report["kl_divergence"]["mean"].as_f64().unwrap_or_else(|| panic!("no divergence in {report}"))
}

#[test]
fn statistics_guide_the_rounding() {
    let dir = tempfile::tempdir().expect("tempdir");
    for name in FAMILY {
        let stats = dir.path().join(format!("{name}-stats.gguf"));
        let mut command = plmconv();
        command
            .arg("calibrate")
            .arg(folder(name))
            .arg("--text")
            .arg(calibration_text())
            .arg("-o")
            .arg(&stats);
        command.args(["--calibration-ctx", "64", "--calibration-chunks", "24"]).assert().success();
        let (plain, guided) = (dir.path().join("plain.gguf"), dir.path().join("guided.gguf"));
        let stats = stats.to_str().expect("UTF-8");
        quantize("q3_k_m", &folder(name), &plain, &["--force"]);
        quantize("q3_k_m", &folder(name), &guided, &["--force", "--stats", stats]);
        let (plain, guided) = (divergence(&plain, &folder(name)), divergence(&guided, &folder(name)));
        assert!(guided < 0.9 * plain, "{name}: {guided} {plain}");
        let budget = dir.path().join("budget.gguf");
        quantize("auto", &folder(name), &budget, &["--force", "--stats", stats, "--target-bpw", "5.2"]);
        let bytes = std::fs::metadata(&budget).expect("written").len();
        let all = std::fs::metadata(folder(name).join("model.safetensors")).expect("fixture").len();
        assert!(bytes < all * 6 / 16 + 20_000, "{name}: {bytes} of {all}");
        assert!(divergence(&budget, &folder(name)) < plain, "{name}");
    }
}

#[test]
fn text_is_written_and_zeros_are_counted() {
    for name in SQUARED_RELU {
        let mut command = plmconv();
        command.args(["inspect", "--ctx", "96", "--sparsity"]).arg(calibration_text()).arg(folder(name));
        let report = json(&mut command);
        assert!((0.3..0.7).contains(&report["zeros"].as_f64().expect("a share")), "{report}");
        let mut command = plmconv();
        command.arg("generate").arg(folder(name)).args(["--prompt", "Once", "-n", "8"]);
        let output = command.assert().success().get_output().stdout.clone();
        assert!(output.len() > 4);
    }
}

#[test]
fn what_is_made_of_a_plm_alone_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = folder("arcee");
    for (options, said) in [
        (
            &["quantize", "q4", "--to", "onnx"][..],
            "this is an Arcee AFM, and an ONNX export is made of a PLM alone",
        ),
        (&["quantize", "q4", "--layout", "latent"], "only a PLM is rewritten so"),
        (
            &["convert", "--to", "safetensors"],
            "this is an Arcee AFM, and a checkpoint is made of a PLM alone",
        ),
        (&["quantize", "q4", "--passes", "turn-values"], "this is an Arcee AFM, and passes"),
    ] {
        let mut command = plmconv();
        command.args(options).arg(&model).arg("-o").arg(dir.path().join("out"));
        command.assert().code(1).stderr(predicate::str::contains(said));
        assert!(!dir.path().join("out").exists());
    }
}

#[test]
fn passes_of_the_ffn_keep_the_function() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("sorted.gguf");
    quantize("f32", &folder("arcee"), &out, &["--passes", "rescale-neurons,sort-neurons"]);
    assert!(divergence(&out, &folder("arcee")) < 1e-6);
}

#[test]
fn what_a_graph_cannot_express_is_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let yarn = |key: &str, value: Value| {
        let mut scaling = json!({"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 64});
        scaling[key] = value;
        json!({ "rope_parameters": scaling })
    };
    for (values, said) in [
        (json!({"hidden_act": "silu"}), "hidden_act `silu` (the FFN of an Arcee AFM is relu2)"),
        (json!({"attention_bias": true}), "attention biases"),
        (json!({"num_key_value_heads": 3}), "`num_key_value_heads` is 3, expected a divisor of 4 heads"),
        (json!({"head_dim": 33}), "an even number"),
        (json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}), "(plm, arcee"),
        (yarn("attention_factor", json!(2.0)), "YaRN with `attention_factor`"),
        (yarn("truncate", json!(false)), "YaRN with `truncate`"),
        (yarn("factor", json!(0.5)), "`factor` is 0.5"),
        (yarn("factor", Value::Null), "`factor` is missing"),
        (yarn("original_max_position_embeddings", json!("64")), "a whole number"),
        (yarn("rope_type", json!("dynamic")), "RoPE scaling"),
    ] {
        let model = changed("arcee", dir.path(), values);
        let mut command = plmconv();
        command.args(["quantize", "q8_0"]).arg(&model).arg("-o").arg(dir.path().join("out.gguf"));
        command.assert().code(1).stderr(predicate::str::contains(said));
    }
}

#[test]
fn an_unknown_network_is_shown() {
    let dir = tempfile::tempdir().expect("tempdir");
    let values = json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"]});
    let model = changed("arcee", dir.path(), values);
    let mut command = plmconv();
    command.arg("inspect").arg(&model);
    let report = json(&mut command);
    assert_eq!(report["architecture"], "LlamaForCausalLM");
    assert_eq!(report["tensors"].as_array().map(Vec::len), Some(19));
}
