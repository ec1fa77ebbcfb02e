//! `plmconv calibrate` and `quantize` with an importance matrix or statistics.

mod common;

use std::path::Path;

use common::{calibration_text as text, copy_of_tiny_plm, digests, fixtures, names, plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::imatrix::read_floats;
use plmconv_formats::{Imatrix, Model, Role, TensorKey, hex};
use plmconv_quant::codec;
use predicates::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn calibrate(chunks: &str, extra: &[&str], output: &Path) {
    let mut command = plmconv();
    command.arg("calibrate").arg(tiny_plm()).arg("--text").arg(text()).arg("-o").arg(output);
    command.args(["--calibration-ctx", "64", "--calibration-chunks", chunks]).args(extra).assert().success();
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
    calibrate("6", &["--seed", "1"], &path("a.gguf"));
    calibrate("6", &["--seed", "2"], &path("b.gguf"));
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

/// Fills a tensor of a copied checkpoint with one bf16 value.
fn fill(folder: &Path, tensor: &str, value: [u8; 2]) {
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("fixture");
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..header]).expect("a header");
    let offset = |i: usize| header + entries[tensor]["data_offsets"][i].as_u64().expect("a tensor") as usize;
    bytes[offset(0)..offset(1)].as_chunks_mut::<2>().0.fill(value);
    std::fs::write(path, bytes).expect("writable");
}

#[test]
fn what_the_text_leaves_open_is_said_and_survived() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    fill(&folder, "model.layers.2.post_attention_layernorm.weight", [0, 0]);
    for effort in ["fast", "normal"] {
        let mut command = plmconv();
        command.args(["quantize", "q4_0", "--effort", effort, "--calibrate"]).arg(text()).arg(&folder);
        command.args(["--calibration-ctx", "64", "--calibration-chunks", "4"]);
        let out = dir.path().join(effort);
        command.arg("-o").arg(&out).assert().success().stderr(
            predicate::str::contains("256 tokens of text are fewer than the 1024 inputs")
                .and(predicate::str::contains("every input of `blk.2.ffn_up.weight` is zero"))
                .and(predicate::str::contains("every input of `blk.2.ffn_down.weight` is zero"))
                .and(
                    predicate::str::is_match(r"never fire on this text.*: \d+ in layer 1, ")
                        .expect("a regex"),
                ),
        );
        // Nothing is known of these rows, yet they are still there.
        let model = Model::open(&out).expect("a PLM");
        let up = model.tensor(TensorKey::in_layer(2, Role::FfnUp)).expect("a PLM has it");
        let (mut bytes, mut values) = (Vec::new(), vec![0.0; up.source.cols()]);
        up.source.read_rows(5..6, &mut bytes).expect("readable");
        codec::decode(up.source.dtype(), &bytes, &mut values).expect("whole blocks");
        assert!(values.iter().filter(|&&x| x != 0.0).count() > 100, "{effort}");
    }
}

#[test]
fn activations_that_are_not_finite_name_the_layer() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    fill(&folder, "model.layers.3.post_attention_layernorm.weight", [0x7f, 0x7f]);
    let mut command = plmconv();
    command.arg("calibrate").arg(&folder).arg("--text").arg(text()).arg("-o").arg(dir.path().join("stats"));
    command.args(["--calibration-ctx", "32", "--calibration-chunks", "2"]);
    command.assert().code(1).stderr(predicate::str::contains("activations of layer 3 are not finite"));
    assert_eq!(names(dir.path()), ["tiny-plm"], "no half of a file");
}

#[test]
fn statistics_guide_the_latent_layout() {
    let dir = tempfile::tempdir().expect("tempdir");
    let stats = dir.path().join("stats.gguf");
    calibrate("24", &[], &stats);
    let run = |name: &str, extra: &[&str]| {
        let out = dir.path().join(name);
        let mut command = plmconv();
        command.args(["quantize", "q4", "--layout", "latent"]).arg(tiny_plm()).arg("-o").arg(&out);
        command.args(extra).assert().success();
        let mut validate = plmconv();
        validate.arg("validate").arg(&out).arg("--against").arg(tiny_plm()).arg("--text").arg(text());
        let output = validate.args(["--ctx", "128", "--chunks", "10", "--json"]).output().expect("runs");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (digests(&out), report["kl_divergence"]["mean"].as_f64().expect("a number"))
    };
    let (plain, far) = run("plain.gguf", &[]);
    let (guided, near) = run("guided.gguf", &["--stats", &stats.display().to_string()]);
    assert!(near < 0.9 * far, "{near} {far}");
    let changed = |part: &str| {
        let name = format!("blk.1.{part}.weight");
        plain[&name].2 != guided[&name].2
    };
    // The gate makes up for `up` as it is rounded on its own.
    assert!(!changed("ffn_up") && changed("ffn_gate"));
    assert!(changed("attn_q") && changed("attn_v_b") && changed("ffn_down"));
}

#[test]
fn passes_are_calibrated_with_or_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let stats = dir.path().join("stats.gguf");
    calibrate("6", &[], &stats);
    let quantize = |option: &str, file: &Path| {
        let mut command = plmconv();
        command.args(["quantize", "q4_0", "--passes", "sort-neurons", option]).arg(file).arg(tiny_plm());
        command.args(["--calibration-ctx", "64", "--calibration-chunks", "2"]);
        command.arg("-o").arg(dir.path().join("out.gguf")).assert()
    };
    quantize("--stats", &stats).code(2).stderr(predicate::str::contains("--calibrate"));
    let imatrix = fixtures().join("golden/imatrix.gguf");
    quantize("--imatrix", &imatrix).code(2).stderr(predicate::str::contains("--calibrate"));
    quantize("--calibrate", &text()).success();
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
    let digest = hex(Sha256::digest(file(&text())));
    let text = text().display().to_string();
    let both = run("both.gguf", &["--self", "100", "--text", &text, "--calibration-chunks", "2"]);
    let both = GgufFile::open(both).expect("a GGUF");
    assert_eq!(both.metadata.unsigned("imatrix.chunk_count"), Some(3 + 2));
    let datasets = both.metadata.strings("imatrix.datasets").expect("named");
    assert_eq!(datasets, [format!("sha256:{digest}").as_str(), "100 tokens of the model, seed 0"]);
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
    calibrate("6", &[], &stats);
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
    let mut foreign = std::fs::read(&stats).expect("written above");
    let key = b"plmconv.calibration.layout";
    let at = foreign.windows(key.len()).position(|w| w == key).expect("the key is written") + key.len();
    // A type of four bytes and a length of eight come before the string.
    foreign[at + 12..][..3].copy_from_slice(b"lat");
    let path = dir.path().join("foreign.gguf");
    std::fs::write(&path, foreign).expect("writable");
    quantize(&tiny_plm(), "--stats", &path).stderr(predicate::str::contains("layout lat")).code(2);
    let empty = dir.path().join("empty.txt");
    std::fs::write(&empty, "").expect("writable");
    quantize(&tiny_plm(), "--calibrate", &empty).stderr(predicate::str::contains("less than one window"));
    std::fs::write(&empty, [0xff; 9]).expect("writable");
    quantize(&tiny_plm(), "--calibrate", &empty).stderr(predicate::str::contains("not UTF-8"));
    assert!(!dir.path().join("out").exists());
}
