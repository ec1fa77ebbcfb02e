//! The commands that run a model: perplexity, validate, reference, generate, sparsity.

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{copy_of_tiny_plm, fixtures, names, plmconv, tiny_plm};
use plmconv_quant::simd::Level;
use predicates::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;

fn own_text() -> PathBuf {
    fixtures().join("text/own.txt")
}

fn quantized(dir: &Path, file_type: &str) -> PathBuf {
    let out = dir.join(format!("{file_type}.gguf"));
    plmconv().args(["quantize", file_type]).arg(tiny_plm()).arg("-o").arg(&out).assert().success();
    out
}

/// `validate candidate --against the fixture` on the own text.
fn validate(candidate: &Path) -> Command {
    let mut command = plmconv();
    command.arg("validate").arg(candidate).arg("--against").arg(tiny_plm());
    command.arg("--text").arg(own_text()).args(["--ctx", "64"]);
    command
}

fn json_of(command: &mut Command) -> Value {
    let output = command.arg("--json").assert().success();
    serde_json::from_slice(&output.get_output().stdout).expect("JSON")
}

#[test]
fn perplexity_in_json_and_text() {
    let mut command = plmconv();
    command
        .arg("perplexity")
        .arg(tiny_plm())
        .arg("--text")
        .arg(own_text())
        .args(["--ctx", "64", "--chunks", "4"]);
    let json = json_of(&mut command);
    assert_eq!(json["tokens_scored"], 4 * 31);
    assert!(json["perplexity"].as_f64().is_some_and(|p| (10.0..1000.0).contains(&p)), "{json}");
    assert!(json["standard_error"].as_f64().is_some_and(|e| e > 0.0));
    assert!(json["tokens_per_second"].as_f64().is_some_and(|t| t > 0.0));
    assert!(json["active_neurons"].as_f64().is_some_and(|a| (0.02..0.5).contains(&a)));
    plmconv()
        .arg("perplexity")
        .arg(tiny_plm())
        .arg("--text")
        .arg(own_text())
        .args(["--ctx", "64", "--chunks", "4", "--exact", "--kernel", "generic", "--attention", "absorbed"])
        .assert()
        .success()
        .stdout(predicate::str::contains("neurons were active").and(predicate::str::starts_with(format!(
            "perplexity {:.2}",
            (json["perplexity"].as_f64().expect("a number") * 100.0).floor() / 100.0
        ))));
}

/// `perplexity` of the own text in windows of 64.
fn perplexity_of(model: &Path, more: &[&str]) -> f64 {
    let mut command = plmconv();
    command.arg("perplexity").arg(model).arg("--text").arg(own_text()).args(["--ctx", "64"]).args(more);
    json_of(&mut command)["perplexity"].as_f64().expect("a number")
}

/// llama.cpp rounds activations to eight bits, so for quantized types its value is the middle of a band.
#[test]
fn perplexities_are_llama_cpps() {
    let dir = tempfile::tempdir().expect("tempdir");
    let golden = std::fs::read_to_string(fixtures().join("golden/perplexity.json")).expect("golden file");
    let golden: Value = serde_json::from_str(&golden).expect("JSON");
    let types = golden["perplexity"].as_object().expect("types");
    assert_eq!(types.len(), 21);
    let float = perplexity_of(&tiny_plm(), &["--exact"]);
    for (file_type, expected) in types {
        let expected = expected[0].as_f64().expect("a number");
        let found = perplexity_of(&quantized(dir.path(), file_type), &[]);
        let band = match file_type.as_str() {
            "f32" | "f16" => 2e-4,
            "bf16" => 5e-4,
            _ => 5e-3,
        };
        assert!((found / expected - 1.0).abs() < band, "{file_type}: {found}, llama.cpp {expected}");
        if file_type == "f32" {
            assert!((found / float - 1.0).abs() < 2e-4, "{found}, in f32 throughout {float}");
        }
    }
}

#[test]
fn kernels_agree_and_threads_do_not_matter() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = quantized(dir.path(), "q4_k_m");
    for exact in [&[][..], &["--exact"]] {
        let of = |more: &[&str]| perplexity_of(&model, &[exact, more].concat());
        let expected = of(&["--kernel", "generic"]);
        for kernel in Level::available().map(Level::name).chain(["auto"]) {
            let found = of(&["--kernel", kernel]);
            assert!((found / expected - 1.0).abs() < 1e-5, "{kernel}, {exact:?}: {found} not {expected}");
        }
        let one = of(&["--threads", "1"]);
        assert!([2, 3, 5].iter().all(|n| of(&["--threads", &n.to_string()]) == one));
    }
    let available = |name: &str| Level::available().any(|level| level.name() == name);
    for kernel in Level::NAMES.into_iter().filter(|name| !available(name)).chain(["sse9"]) {
        let mut command = plmconv();
        command.arg("perplexity").arg(tiny_plm()).arg("--text").arg(own_text()).args(["--kernel", kernel]);
        command.assert().code(2).stderr(predicate::str::contains(kernel));
    }
}

#[test]
fn q8_0_passes_and_every_form_is_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    let candidate = quantized(dir.path(), "q8_0");
    let path = |name: &str| dir.path().join(name);
    let mut command = validate(&candidate);
    command.arg("--per-layer").arg("--junit").arg(path("junit.xml")).arg("--markdown").arg(path("report.md"));
    let json = json_of(command.arg("--html").arg(path("report.html")));

    assert_eq!(json["schema"], "plmconv.validation/1");
    assert_eq!(json["passed"], true);
    assert_eq!(json["candidate"]["type"], "Q8_0");
    let mean = json["kl_divergence"]["mean"].as_f64().expect("a number");
    assert!(mean > 0.0 && mean < 0.001, "{mean}");
    assert_eq!(json["layers"].as_array().map(Vec::len), Some(6));
    // All matrices, each with its inputs rounded to eight bits: half a step of the largest value is 1 / 254 of it.
    let matrices = json["matrices"].as_array().expect("a list");
    assert_eq!(matrices.len(), 37);
    let errors: Vec<f64> = matrices.iter().filter_map(|m| m["relative_error"].as_f64()).collect();
    assert!(errors.is_sorted_by(|a, b| a >= b) && errors[36] > 1e-7 && errors[0] < 1e-3, "{errors:?}");
    let binned =
        json["histogram"].as_array().expect("bins").iter().filter_map(|b| b["tokens"].as_u64()).sum();
    assert_eq!(json["tokens_scored"].as_u64(), Some(binned));

    let junit = std::fs::read_to_string(path("junit.xml")).expect("written");
    let report = quick_junit::Report::deserialize_from_str(&junit).expect("JUnit");
    assert_eq!((report.tests, report.failures), (3, 0));
    let markdown = std::fs::read_to_string(path("report.md")).expect("written");
    assert!(markdown.contains("| top-1 agreement |"), "{markdown}");
    let html = std::fs::read_to_string(path("report.html")).expect("written");
    assert_eq!(html.matches("<svg").count(), 3);
    assert!(html.contains("Passed"));
    let loads = ["src=", "href=", "url(", "@import", "<script"];
    assert!(loads.iter().all(|l| !html.contains(l)), "the page loads something");
}

#[test]
fn a_coarse_candidate_fails_a_strict_limit() {
    let dir = tempfile::tempdir().expect("tempdir");
    let candidate = quantized(dir.path(), "q2_k");
    let junit = dir.path().join("junit.xml");
    validate(&candidate)
        .args(["--max-kld", "0.0001"])
        .arg("--junit")
        .arg(&junit)
        .assert()
        .code(3)
        .stdout(predicate::str::starts_with("FAIL"))
        .stderr(predicate::str::contains("mean KL divergence"));
    let junit = std::fs::read_to_string(junit).expect("written");
    assert_eq!(quick_junit::Report::deserialize_from_str(&junit).expect("JUnit").failures, 1);
}

#[test]
fn a_model_equals_itself() {
    let output = validate(&tiny_plm()).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).expect("UTF-8");
    assert!(text.starts_with("PASS"), "{text}");
    assert!(text.contains("KL divergence, max           0.000000"), "{text}");
}

#[test]
fn stored_outputs_judge_as_the_model_does() {
    let dir = tempfile::tempdir().expect("tempdir");
    let candidate = quantized(dir.path(), "q4_0");
    let stored = dir.path().join("reference.safetensors");
    plmconv()
        .arg("reference")
        .arg(tiny_plm())
        .arg("--text")
        .arg(own_text())
        .args(["--ctx", "64", "--chunks", "4", "-o"])
        .arg(&stored)
        .assert()
        .success();
    let live = json_of(validate(&candidate).args(["--chunks", "4"]));
    let again = json_of(plmconv().arg("validate").arg(&candidate).arg("--against").arg(&stored));
    for key in ["/kl_divergence/mean", "/perplexity/reference/value", "/top1_agreement/value"] {
        let (a, b) = (live.pointer(key).and_then(Value::as_f64), again.pointer(key).and_then(Value::as_f64));
        let (a, b) = (a.expect("live"), b.expect("stored"));
        assert!((a / b - 1.0).abs() < 1e-5, "{key}: {a} against {b}");
    }
    assert_eq!(again["tokens_scored"], 4 * 31);
}

#[test]
fn the_most_likely_tokens_bound_the_divergence() {
    let dir = tempfile::tempdir().expect("tempdir");
    let candidate = quantized(dir.path(), "q4_0");
    let stored = dir.path().join("top.safetensors");
    plmconv()
        .arg("reference")
        .arg(tiny_plm())
        .arg("--text")
        .arg(own_text())
        .args(["--ctx", "64", "--top-k", "64", "-o"])
        .arg(&stored)
        .assert()
        .success();
    assert!(std::fs::metadata(&stored).expect("written").len() < 279 * 64 * 8 + 16 * 1024);
    let live = json_of(&mut validate(&candidate));
    let again = json_of(plmconv().arg("validate").arg(&candidate).arg("--against").arg(&stored));
    let number = |json: &Value, key: &str| json.pointer(key).and_then(Value::as_f64).expect("a number");
    for key in ["/perplexity/reference/value", "/perplexity/candidate/value", "/top1_agreement/value"] {
        assert!((number(&live, key) / number(&again, key) - 1.0).abs() < 1e-5, "{key}");
    }
    // The tail counts as one token, so the divergence can only shrink.
    let (full, bound) = (number(&live, "/kl_divergence/mean"), number(&again, "/kl_divergence/mean"));
    assert!(bound <= full * 1.001 && bound > 0.5 * full, "{bound} of {full}");
    assert_eq!(live["kl_divergence"]["lower_bound"], false);
    assert_eq!(again["kl_divergence"]["lower_bound"], true);
    let reports = ["html", "md", "xml"].map(|form| dir.path().join(form));
    let mut command = plmconv();
    command.arg("validate").arg(&candidate).arg("--against").arg(&stored);
    for (flag, path) in ["--html", "--markdown", "--junit"].iter().zip(&reports) {
        command.arg(flag).arg(path);
    }
    command.assert().success().stdout(predicate::str::contains("is a lower bound"));
    for path in &reports {
        let report = std::fs::read_to_string(path).expect("written");
        assert!(report.contains("is a lower bound"), "{}", path.display());
    }
}

#[test]
fn limits_follow_the_size_of_the_file_not_its_coarsest_type() {
    let dir = tempfile::tempdir().expect("tempdir");
    let limit = |path: &Path| {
        // Two-bit matrices in a file of this size fail, and rightly so.
        let output = validate(path).arg("--json").output().expect("runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        report["checks"][0]["limit"].as_f64().expect("a number")
    };
    let preset = limit(&quantized(dir.path(), "q4_k_m"));
    let mixed = dir.path().join("mixed");
    let mut command = plmconv();
    command.args(["quantize", "q8_0"]).arg(tiny_plm()).arg("-o").arg(&mixed);
    command.args(["--tensor-type", "ffn_=q2_k"]).assert().success();
    let mixed = limit(&mixed);
    assert!(mixed < 2.0 * preset, "{mixed} for a file of mixed types, {preset} for one of its size");
}

/// The golden logits have the form that the six lines of Python in docs/validation.md write.
#[test]
fn logits_from_python_are_a_reference() {
    let golden = fixtures().join("golden/logits.safetensors");
    let json = json_of(plmconv().arg("validate").arg(tiny_plm()).arg("--against").arg(golden));
    assert_eq!(json["tokens_scored"], 2 * 31);
    assert!(json["kl_divergence"]["max"].as_f64().is_some_and(|k| k < 1e-6), "{json}");
    assert_eq!(json["top1_agreement"]["value"], 1.0);
}

#[test]
fn unusable_references_are_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let write = |name: &str, vocabulary: usize, logit: f32| {
        let path = dir.path().join(name);
        let ids: Vec<u8> = (0..16i64).flat_map(i64::to_le_bytes).collect();
        let logits = vec![logit; 16 * vocabulary];
        let logits: Vec<u8> = logits.into_iter().flat_map(f32::to_le_bytes).collect();
        let tensors = [
            ("input_ids", TensorView::new(Dtype::I64, vec![2, 8], &ids).expect("sized")),
            ("logits", TensorView::new(Dtype::F32, vec![2, 8, vocabulary], &logits).expect("sized")),
        ];
        std::fs::write(&path, safetensors::serialize(tensors, None).expect("serializes")).expect("write");
        path
    };
    let cases = [
        (write("small.safetensors", 100, 0.0), "differ in vocabulary: 4096 tokens against 100"),
        (write("nan.safetensors", 4096, f32::NAN), "are not finite"),
        (write("infinite.safetensors", 4096, f32::INFINITY), "are not finite"),
    ];
    for (path, said) in cases {
        plmconv()
            .arg("validate")
            .arg(tiny_plm())
            .arg("--against")
            .arg(path)
            .assert()
            .code(1)
            .stderr(predicate::str::contains(said));
    }
}

#[test]
fn without_a_text_the_reference_writes_one() {
    let mut command = plmconv();
    command.arg("validate").arg(tiny_plm()).arg("--against").arg(tiny_plm());
    let json = json_of(command.args(["--self", "128", "--seed", "3"]));
    assert_eq!(json["text"]["origin"], "written by the reference");
    assert_eq!((&json["text"]["tokens"], &json["text"]["ctx"]), (&128.into(), &32.into()));
}

#[test]
fn a_file_that_fails_its_validation_loses_its_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let quantize = |limit: &str| {
        let mut command = plmconv();
        command.current_dir(dir.path()).args(["quantize", "q4_0"]).arg(tiny_plm()).args(["-o", "out.gguf"]);
        command.arg("--validate").arg(own_text()).args(["--validate-ctx", "64", "--max-kld", limit]);
        command
    };
    quantize("1e-9").assert().code(3).stdout(predicate::str::contains("out.gguf.rejected"));
    assert_eq!(names(dir.path()), ["out.gguf.rejected"]);
    let json = json_of(&mut quantize("0.1"));
    assert_eq!(json["validation"]["passed"], true);
    assert_eq!(names(dir.path()), ["out.gguf", "out.gguf.rejected"]);
}

#[test]
fn sparsity_of_every_layer() {
    let mut command = plmconv();
    command.args(["inspect", "--sparsity"]).arg(own_text()).arg(tiny_plm()).args(["--ctx", "64"]);
    let json = json_of(&mut command);
    assert_eq!(json["layers"].as_array().map(Vec::len), Some(6));
    assert!(json["zeros"].as_f64().is_some_and(|z| (0.5..0.98).contains(&z)), "{json}");
}

#[test]
fn generation_streams_text() {
    let output =
        plmconv().arg("generate").arg(tiny_plm()).args(["The ferry left", "-n", "8"]).assert().success();
    let plain = output.get_output().stdout.clone();
    assert!(plain.len() > 8, "{plain:?}");
    let again =
        plmconv().arg("generate").arg(tiny_plm()).args(["The ferry left", "-n", "8"]).assert().success();
    assert_eq!(plain, again.get_output().stdout);
    let chat =
        plmconv().args(["generate", "--chat"]).arg(tiny_plm()).args(["The ferry left", "-n", "8"]).assert();
    assert_ne!(plain, chat.success().get_output().stdout);
}

#[test]
fn unusable_texts_are_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let latin = dir.path().join("latin.txt");
    std::fs::write(&latin, b"caf\xe9").expect("write");
    let short = dir.path().join("short.txt");
    std::fs::write(&short, "Too short.").expect("write");
    for (text, said) in [(latin, "not UTF-8 text (byte 3)"), (short, "fewer than the 1024 that two windows")]
    {
        plmconv()
            .arg("perplexity")
            .arg(tiny_plm())
            .arg("--text")
            .arg(text)
            .assert()
            .code(1)
            .stderr(predicate::str::contains(said).and(predicate::str::contains("hint: ")));
    }
}

#[test]
fn another_tokenizer_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let path = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&path).expect("read");
    let mut json: Value = serde_json::from_str(&text).expect("JSON");
    let vocabulary = json["model"]["vocab"].as_object_mut().expect("a vocabulary");
    let (first, second) = (vocabulary["!"].clone(), vocabulary["#"].clone());
    vocabulary.insert("!".into(), second);
    vocabulary.insert("#".into(), first);
    std::fs::write(&path, json.to_string()).expect("write");
    validate(&folder).assert().code(1).stderr(predicate::str::contains("different tokenizers"));
}

#[test]
fn another_architecture_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("llama.gguf");
    let mut metadata = plmconv_formats::gguf::Metadata::new();
    metadata.set("general.architecture", plmconv_formats::gguf::Value::String("llama".into()));
    let directory = plmconv_formats::gguf::Directory::new(&metadata, []).expect("lays out");
    std::fs::write(&path, &directory.head).expect("write");
    validate(&path).assert().code(1).stderr(predicate::str::contains("architecture `llama` is not PLM"));
}

#[test]
fn not_a_number_is_told_with_its_layer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("read");
    let header_len = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).expect("JSON");
    let at = header["model.layers.3.mlp.up_proj.weight"]["data_offsets"][0].as_u64().expect("an offset");
    bytes[8 + header_len + at as usize..][..2].copy_from_slice(&[0xff, 0xff]);
    std::fs::write(&path, bytes).expect("write");
    validate(&folder)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("layer 3").or(predicate::str::contains("blk.3")));
}

/// An export in float32, without the checkpoint's files around it.
fn exported(dir: &Path) -> PathBuf {
    let out = dir.join("export");
    plmconv()
        .arg("convert")
        .arg(tiny_plm())
        .args(["--to", "onnx", "--dtype", "f32", "-o"])
        .arg(&out)
        .assert()
        .success();
    out
}

#[test]
#[cfg(not(feature = "ort"))]
fn without_onnx_runtime_an_export_is_refused_with_a_hint() {
    let dir = tempfile::tempdir().expect("tempdir");
    let export = exported(dir.path());
    for named in [export.clone(), export.join("model.onnx")] {
        let refused =
            predicate::str::contains("model.onnx: an ONNX export, and this plmconv was built without")
                .and(predicate::str::contains("--features ort"));
        validate(&named).assert().code(2).stderr(refused);
    }
}

#[test]
fn no_arithmetic_is_chosen_for_onnx_runtime() {
    let dir = tempfile::tempdir().expect("tempdir");
    let export = exported(dir.path());
    let refused = || {
        predicate::str::contains("in its own arithmetic").and(predicate::str::contains("--accuracy-level 1"))
    };
    for asked in ["exact", "llama"] {
        validate(&export).args(["--arithmetic", asked]).assert().code(2).stderr(refused());
    }
    let mut command = plmconv();
    command.arg("perplexity").arg(&export).arg("--text").arg(own_text()).args(["--arithmetic", "llama"]);
    command.assert().code(2).stderr(refused());
    let mut command = plmconv();
    command.arg("generate").arg(&export).args(["It was", "--arithmetic", "exact"]);
    command.assert().code(2).stderr(refused());
}

#[test]
fn an_export_is_no_reference_and_one_of_several_has_to_be_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let export = exported(dir.path());
    let mut command = plmconv();
    command.arg("validate").arg(tiny_plm()).arg("--against").arg(&export).arg("--text").arg(own_text());
    command.assert().code(2).stderr(predicate::str::contains("evaluator does not read"));
    std::fs::copy(export.join("model.onnx"), export.join("model_2.onnx")).expect("copy");
    let ambiguous =
        predicate::str::contains("there are 2 ONNX graphs").and(predicate::str::contains("name one"));
    validate(&export).assert().code(2).stderr(ambiguous);
}
