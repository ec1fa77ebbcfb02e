//! No wrong file under a good name: odd alignments, sources that change, statistics and importance matrices that do
//! not belong.

mod common;

use std::path::{Path, PathBuf};

use common::{calibration_text, copy_of_tiny_plm, digests, fixtures, names, plmconv, tensor_bytes, tiny_plm};
use plmconv_formats::gguf::{Directory, GgufFile, Metadata, Value};
use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Imatrix};
use predicates::prelude::*;

fn quantize(model: &Path, file_type: &str, output: &Path) -> assert_cmd::Command {
    let mut command = plmconv();
    command.args(["quantize", file_type]).arg(model).arg("-o").arg(output);
    command
}

/// Writes a GGUF of these tensors with this metadata.
fn write_gguf(path: &Path, metadata: &Metadata, tensors: &[(String, DType, Vec<usize>, Vec<u8>)]) {
    let described = tensors.iter().map(|(name, dtype, shape, _)| (name.clone(), *dtype, shape.clone()));
    let directory = Directory::new(metadata, described).expect("laid out");
    let mut bytes = directory.head.clone();
    for (entry, (.., data)) in directory.entries.iter().zip(tensors) {
        bytes.resize(entry.offset as usize, 0);
        bytes.extend_from_slice(data);
    }
    bytes.resize(directory.file_bytes as usize, 0);
    std::fs::write(path, bytes).expect("written");
}

fn all_tensors(file: &GgufFile) -> Vec<(String, DType, Vec<usize>, Vec<u8>)> {
    let tensor = |t: &plmconv_formats::gguf::TensorInfo| {
        (t.name.clone(), t.data.dtype(), t.shape.clone(), tensor_bytes(file, &t.name))
    };
    file.tensors.iter().map(tensor).collect()
}

/// The tiny PLM as a GGUF that says it is aligned to `alignment` bytes, and is.
///
/// All its tensors in f16 are multiples of 512 bytes, so only the head has to be filled up to be one too.
fn aligned(source: &GgufFile, alignment: u32, path: &Path) {
    let padded = |count: usize| {
        let mut metadata = source.metadata.clone();
        metadata.set("general.alignment", Value::U32(alignment));
        metadata.set("test.padding", Value::String("x".repeat(count)));
        metadata
    };
    let tensors = all_tensors(source);
    let head = |count: usize| {
        let described = tensors.iter().map(|(name, dtype, shape, _)| (name.clone(), *dtype, shape.clone()));
        Directory::new(&padded(count), described).expect("laid out").head.len()
    };
    let exact = (0..1024).find(|&n| head(n).is_multiple_of(512) && head(n + 1) > head(n));
    write_gguf(path, &padded(exact.expect("one in 512")), &tensors);
}

#[test]
fn a_sources_alignment_is_not_the_outputs() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    quantize(&tiny_plm(), "f16", &path("f16.gguf")).assert().success();
    quantize(&path("f16.gguf"), "q8", &path("want.gguf")).assert().success();
    let source = GgufFile::open(path("f16.gguf")).expect("a GGUF");
    for alignment in [8, 16, 64, 128, 512] {
        aligned(&source, alignment, &path("source.gguf"));
        let opened = GgufFile::open(path("source.gguf")).expect("a GGUF");
        assert_eq!(opened.alignment, u64::from(alignment));
        let (one, set) = (path("one.gguf"), path("set.gguf"));
        quantize(&path("source.gguf"), "q8", &one).arg("--force").assert().success();
        assert_eq!(digests(&one), digests(&path("want.gguf")), "{alignment}");
        assert_eq!(GgufFile::open(&one).expect("a GGUF").metadata.get("general.alignment"), None);
        let mut command = quantize(&path("source.gguf"), "q8", &set);
        command.args(["--force", "--split-max-size", "3M"]).assert().success();
        let first = names(dir.path()).into_iter().find(|name| name.starts_with("set-00001-of-"));
        assert_eq!(digests(&path(&first.expect("shards"))), digests(&one), "{alignment}");
    }
}

/// Runs `command` with a pipe as its text; what it reads has changed when the text comes.
#[cfg(unix)]
fn with_a_change(dir: &Path, args: &[&str], change: impl Fn(&Path)) -> (Option<i32>, String) {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};
    let model = copy_of_tiny_plm(dir);
    let pipe = dir.join("text");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("plmconv"));
    command.args(args).arg(&model).arg("-o").arg(dir.join("out"));
    command.args(["--calibration-ctx", "32", "--calibration-chunks", "2"]);
    command.arg(if args[0] == "calibrate" { "--text" } else { "--calibrate" }).arg(&pipe);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("starts");
    // Opens when the other side does, and that is after the model was opened.
    let mut writer = std::fs::File::options().write(true).open(&pipe).expect("a pipe");
    change(&model);
    let text = std::fs::read(calibration_text()).expect("fixture");
    // The run may end before it has read all of it.
    let _ = writer.write_all(&text);
    drop(writer);
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    let code = child.wait().expect("ends").code();
    std::fs::remove_file(pipe).expect("removed");
    std::fs::remove_dir_all(model).expect("removed");
    (code, said)
}

#[cfg(unix)]
#[test]
fn a_source_that_changes_during_the_run_is_an_error() {
    use std::os::unix::fs::FileExt;
    let overwrite = |model: &Path| {
        let path = model.join("model.safetensors");
        let last = std::fs::metadata(&path).expect("a file").len() - 1;
        let file = std::fs::File::options().read(true).write(true).open(path).expect("open");
        let mut byte = [0];
        file.read_exact_at(&mut byte, last).expect("read");
        file.write_all_at(&byte, last).expect("written");
    };
    let shrink = |model: &Path| {
        let file = std::fs::File::options().write(true).open(model.join("model.safetensors")).expect("open");
        file.set_len(100_000).expect("cut");
    };
    let configure = |model: &Path| {
        let path = model.join("config.json");
        let text = std::fs::read_to_string(&path).expect("read");
        std::fs::write(path, text.replace("100000", "100001")).expect("written");
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let fast = ["--effort", "fast"];
    let runs = [
        vec!["calibrate"],
        [&["quantize", "q4_0"][..], &fast].concat(),
        [&["quantize", "q4", "--to", "onnx"][..], &fast].concat(),
    ];
    for args in runs {
        for (what, change) in [("bytes", &overwrite as &dyn Fn(&Path)), ("config", &configure)] {
            let (code, said) = with_a_change(dir.path(), &args, change);
            assert_eq!(code, Some(1), "{args:?} {what}: {said}");
            assert!(said.contains("changed while it was being read"), "{args:?} {what}: {said}");
            assert!(names(dir.path()).is_empty(), "{args:?} {what}: {:?}", names(dir.path()));
        }
        let (code, said) = with_a_change(dir.path(), &args, shrink);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.contains("truncated") && !said.contains("panicked"), "{args:?}: {said}");
        assert!(names(dir.path()).is_empty(), "{args:?}: {:?}", names(dir.path()));
        // A pipe is read once, and without a change all is well.
        let (code, said) = with_a_change(dir.path(), &args, |_| {});
        assert_eq!(code, Some(0), "{args:?}: {said}");
        let out = dir.path().join("out");
        if out.is_dir() { std::fs::remove_dir_all(out) } else { std::fs::remove_file(out) }.expect("removed");
    }
}

fn calibrate(model: &Path, text: &Path, output: &Path) {
    let mut command = plmconv();
    command.arg("calibrate").arg(model).arg("--text").arg(text).arg("-o").arg(output);
    command.args(["--calibration-ctx", "32", "--calibration-chunks", "2"]).assert().success();
}

#[test]
fn statistics_depend_on_the_model_and_the_text_and_on_no_path() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    let model = copy_of_tiny_plm(dir.path());
    std::fs::copy(calibration_text(), path("other.txt")).expect("copied");
    calibrate(&tiny_plm(), &calibration_text(), &path("one.gguf"));
    calibrate(&model, &path("other.txt"), &path("two.gguf"));
    let one = std::fs::read(path("one.gguf")).expect("written");
    assert!(one == std::fs::read(path("two.gguf")).expect("written"), "paths are in the statistics");
    quantize(&model, "q4_0", &path("out.gguf")).arg("--stats").arg(path("one.gguf")).assert().success();
    std::fs::remove_file(path("out.gguf")).expect("removed");

    // The same weights under another frequency are another function.
    let config = model.join("config.json");
    let mut json: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&config).expect("read")).expect("JSON");
    json["rope_theta"] = 500_000.0.into();
    std::fs::write(&config, json.to_string()).expect("written");
    let refused = |model: &Path, stats: &Path, said: &str| {
        let mut command = quantize(model, "q4_0", &path("out.gguf"));
        command.arg("--stats").arg(stats).assert().code(2).stderr(predicate::str::contains(said));
        assert!(!path("out.gguf").exists());
    };
    refused(&model, &path("one.gguf"), "statistics of another model");

    // What an earlier release wrote does not vouch for that.
    let key = b"plmconv.calibration.version";
    let at = one.windows(key.len()).position(|w| w == key).expect("the key is written") + key.len() + 4;
    let mut old = one;
    old[at] = 1;
    std::fs::write(path("old.gguf"), old).expect("written");
    refused(&tiny_plm(), &path("old.gguf"), "version 1");
}

/// llama-imatrix's file with its tensors renamed or left out.
fn changed_imatrix(
    path: &Path,
    rename: impl Fn(&str) -> Option<String>,
    damage: impl Fn(&str, &mut Vec<u8>),
) {
    let file = GgufFile::open(fixtures().join("golden/imatrix.gguf")).expect("a fixture");
    let tensors = all_tensors(&file).into_iter().filter_map(|(name, dtype, shape, mut data)| {
        damage(&name, &mut data);
        Some((rename(&name)?, dtype, shape, data))
    });
    write_gguf(path, &file.metadata, &tensors.collect::<Vec<_>>());
}

#[test]
fn an_importance_matrix_that_does_not_fit_is_told() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (imatrix, output) = (dir.path().join("imatrix.gguf"), dir.path().join("out.gguf"));
    let run = |extra: &[&str]| {
        quantize(&tiny_plm(), "q4_0", &output).arg("--imatrix").arg(&imatrix).args(extra).assert()
    };
    let same = |name: &str| Some(name.to_string());
    let keep = |_: &str, _: &mut Vec<u8>| {};
    for extra in [&[][..], &["--to", "onnx"]] {
        changed_imatrix(&imatrix, |name| Some(format!("model.{name}")), keep);
        let file_type: PathBuf = tiny_plm();
        let mut command = quantize(&file_type, "q4", &output);
        command.arg("--imatrix").arg(&imatrix).args(extra);
        command.assert().code(2).stderr(predicate::str::contains("none of its 36 entries"));
        assert_eq!(names(dir.path()), ["imatrix.gguf"]);
    }
    changed_imatrix(
        &imatrix,
        |name| same(name).filter(|n| n.starts_with("blk.0") || n.starts_with("blk.1")),
        keep,
    );
    run(&[]).success().stderr(
        predicate::str::contains("no entry for 24 of 36 matrices")
            .and(predicate::str::contains("blk.2.attn_q")),
    );
    let other = |name: &str| Some(name.replace("blk.5.", "blk.99."));
    changed_imatrix(&imatrix, other, keep);
    run(&["--force"]).success().stderr(predicate::str::contains("6 of 36 entries are of no matrix"));
    std::fs::remove_file(&output).expect("removed");

    for bad in [f32::NAN, f32::INFINITY, -1.0] {
        for part in ["in_sum2", "counts"] {
            let damaged = format!("blk.2.ffn_up.weight.{part}");
            changed_imatrix(&imatrix, same, |name, data| {
                if name == damaged {
                    data[..4].copy_from_slice(&bad.to_le_bytes());
                }
            });
            run(&[]).code(1).stderr(predicate::str::contains("`blk.2.ffn_up.weight`"));
        }
    }
    assert_eq!(names(dir.path()), ["imatrix.gguf"]);

    // The older form says the same.
    let entry = |name: &str| {
        [
            &(name.len() as i32).to_le_bytes()[..],
            name.as_bytes(),
            &1i32.to_le_bytes(),
            &1i32.to_le_bytes(),
            &1f32.to_le_bytes(),
        ]
        .concat()
    };
    std::fs::write(&imatrix, [&1i32.to_le_bytes()[..], &entry("blk.77.x")].concat()).expect("written");
    assert_eq!(Imatrix::open(&imatrix).expect("one entry").entries.len(), 1);
    run(&[]).code(2).stderr(predicate::str::contains("none of its 1 entries"));
    std::fs::write(&imatrix, [&2i32.to_le_bytes()[..], &entry("a"), &entry("a")].concat()).expect("written");
    run(&[]).code(1).stderr(predicate::str::contains("`a` appears twice"));
}

#[test]
fn what_half_precision_cannot_hold_is_refused_with_the_tensor() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = copy_of_tiny_plm(dir.path());
    let weights = model.join("model.safetensors");
    let whole = std::fs::read(&weights).expect("read");
    let file = plmconv_formats::safetensors::SafetensorsFile::open(&weights).expect("a file");
    let tensor =
        file.tensors.iter().find(|t| t.name.ends_with("layers.1.mlp.down_proj.weight")).expect("there");
    let at = tensor.data.as_ref().expect("bf16").offset() as usize;
    for (value, args) in [
        (1e5, &["convert", "--to", "onnx", "--dtype", "f16"][..]),
        // Its scale fits, but the weight that the graph computes with it does not.
        (1e5, &["quantize", "q4", "--to", "onnx", "--float-type", "f16"]),
        (1e5, &["quantize", "q8", "--to", "onnx", "--float-type", "f16", "--quant-format", "qdq"]),
        (1e7, &["quantize", "q8_0"]),
        (1e5, &["quantize", "f16"]),
    ] {
        let mut bytes = whole.clone();
        bytes[at..at + 2].copy_from_slice(&half::bf16::from_f32(value).to_le_bytes());
        std::fs::write(&weights, bytes).expect("written");
        let mut command = plmconv();
        command.args(args).arg(&model).arg("-o").arg(dir.path().join("out"));
        command.assert().code(1).stderr(predicate::str::contains("down"));
        assert_eq!(names(dir.path()), ["tiny-plm"], "{args:?}");
    }
}
