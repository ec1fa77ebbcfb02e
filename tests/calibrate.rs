//! `plmconv calibrate` and `quantize` with an importance matrix or statistics.

mod common;

use std::path::{Path, PathBuf};

use common::{copy_of_tiny_plm, digests, fixtures, names, plmconv, tiny_plm};
use plmconv_formats::Imatrix;
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::imatrix::read_floats;
use predicates::prelude::*;
use serde_json::Value;

/// A text that is always there.
fn text() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

fn calibrate(extra: &[&str], output: &Path) {
    let mut command = plmconv();
    command.arg("calibrate").arg(tiny_plm()).arg("--text").arg(text()).arg("-o").arg(output);
    command.args(["--calibration-ctx", "64", "--calibration-chunks", "6"]).args(extra).assert().success();
}

#[test]
fn an_importance_matrix_gives_llama_quantizes_bytes() {
    let golden = std::fs::read_to_string(fixtures().join("golden/digests.json")).expect("fixture");
    let golden: Value = serde_json::from_str(&golden).expect("JSON");
    let dir = tempfile::tempdir().expect("tempdir");
    for (file_type, section) in golden["imatrix"].as_object().expect("types") {
        let out = dir.path().join(format!("{file_type}.gguf"));
        let imatrix = fixtures().join("golden/imatrix.gguf");
        let mut command = plmconv();
        command.args(["quantize", file_type, "--imatrix"]).arg(imatrix).arg(tiny_plm());
        command.arg("-o").arg(&out).assert().success();
        for (name, (dtype, _, sha256)) in digests(&out) {
            assert_eq!(section[&name]["type"], dtype.as_str(), "{file_type}: type of {name}");
            assert_eq!(section[&name]["sha256"], sha256.as_str(), "{file_type}: bytes of {name}");
        }
        let file = GgufFile::open(&out).expect("a GGUF");
        assert_eq!(file.metadata.unsigned("quantize.imatrix.entries_count"), Some(36));
        assert_eq!(file.metadata.unsigned("quantize.imatrix.chunks_count"), Some(477));
    }
}

#[test]
fn calibration_keeps_size_and_types_and_does_not_depend_on_threads() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = |name: &str, extra: &[&str]| {
        let out = dir.path().join(name);
        let mut command = plmconv();
        command.args(["quantize", "q4_k_m", "-q"]).arg(tiny_plm()).arg("-o").arg(&out);
        command.args(extra).assert().success();
        out
    };
    let text = text().display().to_string();
    let calibrated = ["--calibrate", &text, "--calibration-ctx", "64", "--calibration-chunks", "6"];
    let plain = run("plain.gguf", &[]);
    let one = run("one.gguf", &[&calibrated[..], &["-j", "1"]].concat());
    let three = run("three.gguf", &[&calibrated[..], &["-j", "3"]].concat());
    assert_eq!(std::fs::read(&one).expect("file"), std::fs::read(&three).expect("file"));
    let (plain, one) = (digests(&plain), digests(&one));
    let mut changed = 0;
    for (name, (dtype, shape, digest)) in &plain {
        assert_eq!((dtype, shape), (&one[name].0, &one[name].1), "{name}");
        changed += usize::from(digest != &one[name].2);
    }
    assert_eq!(changed, 37, "all matrices, no norms");
    assert_eq!(names(dir.path()), ["one.gguf", "plain.gguf", "three.gguf"], "no temporaries");
}

#[test]
fn statistics_are_an_importance_matrix_and_merge_exactly() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    calibrate(&["--seed", "1"], &path("a.gguf"));
    calibrate(&["--seed", "2"], &path("b.gguf"));
    let mut merge = plmconv();
    merge.args(["calibrate", "--merge"]).arg(path("a.gguf")).arg(path("b.gguf"));
    merge.arg("-o").arg(path("both.gguf")).assert().success();
    let open = |name: &str| GgufFile::open(path(name)).expect("a GGUF");
    let (a, b, both) = (open("a.gguf"), open("b.gguf"), open("both.gguf"));
    assert_eq!(both.metadata.unsigned("imatrix.chunk_count"), Some(12));
    for tensor in &both.tensors {
        let values = |file: &GgufFile| {
            read_floats(file.path(), &file.tensor(&tensor.name).expect("same tensors").data).expect("f32")
        };
        for ((a, b), sum) in values(&a).into_iter().zip(values(&b)).zip(values(&both)) {
            assert_eq!((f64::from(a) + f64::from(b)) as f32, sum, "{}", tensor.name);
        }
    }
    let imatrix = Imatrix::open(path("both.gguf")).expect("an importance matrix too");
    assert_eq!(imatrix.entries.len(), 37);
    for effort in ["fast", "max"] {
        let mut quantize = plmconv();
        quantize.args(["quantize", "q3_k_m", "--effort", effort, "--stats"]).arg(path("both.gguf"));
        quantize.arg(tiny_plm()).arg("-o").arg(path(effort)).assert().success();
    }
    assert_ne!(digests(&path("fast")), digests(&path("max")));
}

#[test]
fn a_text_that_the_model_writes_is_the_same_for_the_same_seed() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = |name: &str, extra: &[&str]| {
        let out = dir.path().join(name);
        let mut command = plmconv();
        command.args(["calibrate", "--calibration-ctx", "32", "-q"]).arg(tiny_plm()).arg("-o").arg(&out);
        command.args(extra).assert().success();
        out
    };
    let file = |path: &Path| std::fs::read(path).expect("written");
    let one = run("one.gguf", &["--self", "100", "-j", "1"]);
    let again = run("again.gguf", &["--self", "100", "-j", "3"]);
    assert_eq!(file(&one), file(&again));
    let other = run("other.gguf", &["--self", "100", "--seed", "1"]);
    assert_ne!(file(&one), file(&other));

    // All that is written is used, besides the windows of the text.
    let text = text().display().to_string();
    let both = run("both.gguf", &["--self", "100", "--text", &text, "--calibration-chunks", "2"]);
    let both = GgufFile::open(both).expect("a GGUF");
    assert_eq!(both.metadata.unsigned("imatrix.chunk_count"), Some(3 + 2));
    let datasets = both.metadata.strings("imatrix.datasets").expect("named");
    assert_eq!(datasets, [text.as_str(), "100 tokens of the model, seed 0"]);
}

#[test]
fn quantizing_with_a_text_of_the_model_equals_statistics_of_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name).display().to_string();
    let sample = ["--calibration-ctx", "32", "-q"];
    let run = |start: &[&str], end: &[&str]| {
        let mut command = plmconv();
        command.args(start).arg(tiny_plm()).args(sample).args(end).assert().success();
    };
    run(&["calibrate", "--self", "64"], &["-o", &path("stats.gguf")]);
    run(&["quantize", "q4_0", "--stats", &path("stats.gguf")], &["-o", &path("a.gguf")]);
    run(&["quantize", "q4_0", "--self", "64"], &["-o", &path("b.gguf")]);
    assert_eq!(digests(Path::new(&path("a.gguf"))), digests(Path::new(&path("b.gguf"))));
    assert_eq!(names(dir.path()), ["a.gguf", "b.gguf", "stats.gguf"], "no temporaries");
}

#[test]
fn texts_that_contradict_each_other_are_usage_errors() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let refuse = |args: &[&str], says: &str| {
        let mut command = plmconv();
        command.args(args).arg("-o").arg(&out).assert().code(2).stderr(predicate::str::contains(says));
    };
    let tiny = tiny_plm().display().to_string();
    let imatrix = fixtures().join("golden/imatrix.gguf").display().to_string();
    refuse(&["calibrate", &tiny], "--text");
    refuse(&["calibrate", &tiny, "--self", "0"], "zero");
    refuse(&["calibrate", &tiny, "--self", "10"], "less than one window of 256");
    refuse(&["calibrate", "--self", "10", "--merge", &imatrix], "cannot be used with");
    refuse(&["quantize", "q4", &tiny, "--self", "512", "--imatrix", &imatrix], "cannot be used with");
    refuse(&["quantize", "q4", &tiny, "--self", "512", "--stats", &imatrix], "cannot be used with");
    refuse(&["quantize", "q4", &tiny, "--self", "512", "--calibration-ctx", "0"], "zero");
}

#[test]
fn faults_are_named() {
    let dir = tempfile::tempdir().expect("tempdir");
    let stats = dir.path().join("stats.gguf");
    calibrate(&[], &stats);
    let quantize = |model: &Path, option: &str, file: &Path| {
        let mut command = plmconv();
        command.args(["quantize", "q4", option]).arg(file).arg(model).arg("-o").arg(dir.path().join("out"));
        command.assert().failure()
    };
    let other = copy_of_tiny_plm(dir.path());
    let weights = other.join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("fixture");
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&weights, bytes).expect("writable");
    quantize(&other, "--stats", &stats).stderr(predicate::str::contains("another model")).code(2);
    let imatrix = fixtures().join("golden/imatrix.gguf");
    quantize(&tiny_plm(), "--stats", &imatrix).stderr(predicate::str::contains("--imatrix")).code(2);
    let empty = dir.path().join("empty.txt");
    std::fs::write(&empty, "").expect("writable");
    quantize(&tiny_plm(), "--calibrate", &empty).stderr(predicate::str::contains("less than one window"));
    std::fs::write(&empty, [0xff; 9]).expect("writable");
    quantize(&tiny_plm(), "--calibrate", &empty).stderr(predicate::str::contains("not UTF-8"));
    assert!(!dir.path().join("out").exists());
}
