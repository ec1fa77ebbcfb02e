//! `--to onnx`: what the folder holds, what is refused, and what a failure leaves.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use common::{copy_of_tiny_plm, fixtures, names, plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::hex;
use plmconv_formats::onnx::OnnxFile;
use predicates::prelude::*;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Writes the tiny PLM to `name` of a temporary folder.
fn export(dir: &TempDir, name: &str, args: &[&str]) -> PathBuf {
    let out = dir.path().join(name);
    let mut command = plmconv();
    command.args(args).arg(tiny_plm()).args(["--to", "onnx", "-q", "-o"]).arg(&out).assert().success();
    out
}

/// Sizes and digests of all files, by their path in the folder.
fn contents(folder: &Path) -> BTreeMap<String, (u64, String)> {
    let mut found = BTreeMap::new();
    for name in names(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            found.extend(contents(&path).into_iter().map(|(inner, file)| (format!("{name}/{inner}"), file)));
        } else {
            let bytes = std::fs::read(path).expect("read");
            found.insert(name, (bytes.len() as u64, hex(Sha256::digest(&bytes))));
        }
    }
    found
}

fn json(args: &[&str], path: &Path) -> Value {
    let output = plmconv().args(args).arg("--json").arg(path).assert().success();
    serde_json::from_slice(&output.get_output().stdout).expect("JSON")
}

/// The type that `inspect` gives a tensor.
fn stored_as(inspection: &Value, name: &str) -> String {
    let tensors = inspection["tensors"].as_array().expect("tensors");
    let tensor = tensors.iter().find(|t| t["name"] == name).unwrap_or_else(|| panic!("{name} is missing"));
    tensor["type"].as_str().expect("a type").into()
}

#[test]
fn each_profile_has_the_files_its_clients_look_for() {
    let dir = tempfile::tempdir().expect("tempdir");
    let tokenizer =
        ["generation_config.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"];
    for (profile, own) in [
        ("latent", vec!["config.json", "model.onnx", "model.onnx.data"]),
        ("genai", vec!["config.json", "genai_config.json", "model.onnx", "model.onnx.data"]),
        ("hf", vec!["config.json", "onnx/model_q4.onnx", "onnx/model_q4.onnx_data"]),
    ] {
        let out = export(&dir, profile, &["quantize", "q4", "--profile", profile]);
        let mut expected = [&own[..], &tokenizer[..]].concat();
        expected.sort_unstable();
        assert_eq!(contents(&out).keys().collect::<Vec<_>>(), expected);
    }
    let config = |profile: &str, name: &str| -> Value {
        let text = std::fs::read_to_string(dir.path().join(profile).join(name)).expect("read");
        serde_json::from_str(&text).expect("JSON")
    };
    let genai = config("genai", "genai_config.json");
    assert_eq!(genai["model"]["type"], "decoder");
    assert_eq!(genai["model"]["decoder"]["head_size"], (256 + 32) / 2);
    let hf = config("hf", "config.json");
    assert_eq!(hf["model_type"], "deepseek_v3");
    assert_eq!(hf["transformers.js_config"]["use_external_data_format"]["model_q4.onnx"], 1);
}

#[test]
fn a_dry_run_knows_every_size() {
    let dir = tempfile::tempdir().expect("tempdir");
    for args in [
        &["convert", "--dtype", "f16", "--to", "onnx"][..],
        &["quantize", "q4", "--to", "onnx", "--profile", "hf", "--asymmetric"],
        &["quantize", "q8", "--to", "onnx", "--quant-format", "qdq", "--block-size", "64"],
    ] {
        let out = dir.path().join("planned");
        let plan = json(&[args, &["--dry-run", "-o", &out.display().to_string()]].concat(), &tiny_plm());
        assert!(names(dir.path()).is_empty(), "a dry run wrote something");
        plmconv().args(args).arg(tiny_plm()).args(["-q", "-o"]).arg(&out).assert().success();
        let found = contents(&out);
        let planned = plan["files"].as_array().expect("files");
        assert_eq!(planned.len(), found.len());
        for file in planned {
            let path = Path::new(file["path"].as_str().expect("a path"));
            let relative = path.strip_prefix(&out).expect("inside").display().to_string();
            assert_eq!(file["bytes"], found[&relative].0, "{relative}");
        }
        std::fs::remove_dir_all(&out).expect("remove");
    }
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (name, args) in [
        ("nbits", &["quantize", "q4", "--asymmetric"][..]),
        ("qdq", &["quantize", "q4", "--quant-format", "qdq", "--profile", "hf"]),
        ("f16", &["convert", "--dtype", "f16", "--opset", "23"]),
    ] {
        let one = export(&dir, &format!("{name}-1"), &[args, &["-j", "1"]].concat());
        let four = export(&dir, &format!("{name}-4"), &[args, &["-j", "4"]].concat());
        assert_eq!(contents(&one), contents(&four), "{name}");
    }
}

#[test]
fn chosen_tensors_get_the_type_the_user_says() {
    let dir = tempfile::tempdir().expect("tempdir");
    let overrides = ["--tensor-type", r"blk\.[01]\.ffn_down=q8", "--token-embedding-type", "q8"];
    let out = export(&dir, "mixed", &[&["quantize", "q4"], &overrides[..]].concat());
    let found = json(&["inspect"], &out);
    assert_eq!(stored_as(&found, "model.layers.1.mlp.down_proj.weight"), "Q8 x32");
    assert_eq!(stored_as(&found, "model.layers.2.mlp.down_proj.weight"), "Q4 x32");
    assert_eq!(stored_as(&found, "model.embed_tokens.weight"), "Q8 x32");
    let out = export(&dir, "float", &["quantize", "q4", "--tensor-type", "attn_output=f32"]);
    assert_eq!(stored_as(&json(&["inspect"], &out), "model.layers.0.self_attn.o_proj.weight"), "F32");
}

#[test]
fn inspect_shows_the_graph() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = export(&dir, "out", &["quantize", "q4", "--profile", "genai", "--asymmetric"]);
    let shown = plmconv().arg("inspect").arg(&out).assert().success();
    let shown = String::from_utf8(shown.get_output().stdout.clone()).expect("UTF-8");
    insta::assert_snapshot!(shown.trim_end().replace(&out.display().to_string(), "OUT"));

    let found = json(&["inspect"], &out);
    assert_eq!(found["parameters"], 6_411_008);
    assert_eq!(found["graph"]["profile"], "genai");
    assert_eq!(found["graph"]["opsets"]["ai.onnx"], 21);
    assert_eq!(found["graph"]["inputs"].as_array().map(Vec::len), Some(3 + 2 * 6));
    let data = std::fs::metadata(out.join("model.onnx.data")).expect("there").len();
    let graph = std::fs::metadata(out.join("model.onnx")).expect("there").len();
    assert_eq!(found["file_bytes"], data + graph);
}

#[test]
fn inspect_tells_what_is_wrong_with_a_graph() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = export(&dir, "out", &["quantize", "q8"]);
    let graph = std::fs::read(out.join("model.onnx")).expect("read");
    let refused = |name: &str, bytes: &[u8], said: &str| {
        let path = out.join(name);
        std::fs::write(&path, bytes).expect("write");
        let said = predicate::str::contains(said).and(predicate::str::contains("panicked").not());
        plmconv().arg("inspect").arg(&path).assert().code(1).stderr(said);
        std::fs::remove_file(path).expect("remove");
    };
    refused("half.onnx", &graph[..graph.len() / 2], "file is truncated");
    refused("empty.onnx", b"", "no graph");
    refused("text.onnx", b"not a graph at all", "text.onnx");
    // A length of 2^63.
    refused("long.onnx", &[0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], "file is truncated");
    let elsewhere = String::from_utf8_lossy(&graph).contains("model.onnx.data");
    assert!(elsewhere, "the graph names its data");
    let moved = replace(&graph, b"model.onnx.data", b"../../../passwd");
    refused("moved.onnx", &moved, "not a file beside the graph");

    let data = out.join("model.onnx.data");
    let bytes = std::fs::metadata(&data).expect("there").len();
    std::fs::OpenOptions::new().write(true).open(&data).and_then(|f| f.set_len(bytes - 1)).expect("cut");
    plmconv().arg("inspect").arg(&out).assert().code(1).stderr(predicate::str::contains("file is truncated"));
    std::fs::remove_file(&data).expect("remove");
    plmconv().arg("inspect").arg(&out).assert().code(1).stderr(predicate::str::contains("model.onnx.data"));
}

fn replace(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<usize> =
        (0..=bytes.len() - from.len()).filter(|&at| bytes[at..].starts_with(from)).collect();
    places.into_iter().for_each(|at| bytes[at..at + to.len()].copy_from_slice(to));
    bytes
}

#[test]
fn what_does_not_go_together_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (args, said) in [
        (&["quantize", "q4", "--to", "onnx", "--layout", "latent"][..], "--profile"),
        (&["quantize", "q4", "--to", "onnx", "--pure"], "--to gguf"),
        (&["quantize", "q4", "--to", "onnx", "--split-max-size", "1G"], "--to gguf"),
        (&["quantize", "q4", "--profile", "hf"], "--to onnx"),
        (&["quantize", "q4", "--block-size", "64"], "--to onnx"),
        (&["quantize", "q4_k_m", "--to", "onnx"], "q4 and q8"),
        (&["quantize", "f16", "--to", "onnx"], "convert MODEL --to onnx --dtype f16"),
        (&["quantize", "q4", "--to", "onnx", "--block-size", "48"], "16, 32, 64, 128 and 256"),
        (&["quantize", "q4", "--to", "onnx", "--accuracy-level", "5"], "0..=4"),
        (&["quantize", "q4", "--to", "onnx", "--tensor-type", "no_such=q8"], "matches no tensor"),
        (&["quantize", "q4", "--to", "onnx", "--tensor-type", "ffn_norm=q8"], "matches no tensor"),
        (&["quantize", "q4", "--to", "onnx", "--tensor-type", "ffn_up=q6_k"], "types of GGUF"),
        (&["quantize", "q4", "--to", "onnx", "--tensor-type", "ffn_up"], "PATTERN=TYPE"),
        (&["convert", "--to", "onnx", "--dtype", "bf16"], "--dtype f16"),
        (&["convert", "--to", "gguf", "--opset", "23"], "--to onnx"),
    ] {
        let mut command = plmconv();
        let assert = command.current_dir(dir.path()).args(args).arg(tiny_plm()).assert().code(2);
        assert.stderr(predicate::str::contains(said));
        assert!(names(dir.path()).is_empty(), "{args:?} left {:?}", names(dir.path()));
    }
}

/// Exports `model` into an empty folder, expects exit code 1, `said` on stderr, and the folder still empty.
fn refuse(model: &Path, said: &str) {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut command = plmconv();
    command.current_dir(dir.path()).args(["quantize", "q4", "--to", "onnx"]).arg(model);
    let said = predicate::str::contains(said).and(predicate::str::contains("panicked").not());
    command.assert().code(1).stderr(said);
    assert!(names(dir.path()).is_empty(), "left behind: {:?}", names(dir.path()));
}

#[test]
fn a_bad_checkpoint_leaves_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let weights = folder.join("model.safetensors");
    let good = std::fs::read(&weights).expect("read");
    std::fs::write(&weights, &good[..good.len() - 1]).expect("write");
    refuse(&folder, "truncated");
    // The last value of the data, in bf16.
    let mut bytes = good;
    let last = bytes.len() - 2;
    bytes[last..].copy_from_slice(&half::bf16::NAN.to_le_bytes());
    std::fs::write(&weights, bytes).expect("write");
    refuse(&folder, "holds NaN at [");
}

#[test]
fn an_existing_folder_stays_without_force() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = export(&dir, "out", &["convert"]);
    let before = contents(&out);
    let again = |force: &[&str]| {
        let mut command = plmconv();
        command.args(["quantize", "q4", "--to", "onnx", "-o"]).arg(&out).arg(tiny_plm()).args(force);
        command.assert()
    };
    again(&[])
        .code(1)
        .stderr(predicate::str::contains("already exists").and(predicate::str::contains("--force")));
    assert_eq!(contents(&out), before);
    again(&["--force"]).success();
    assert_ne!(contents(&out), before);
    assert_eq!(names(dir.path()), ["out"]);
}

#[test]
fn a_folder_that_cannot_be_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("no/such/folder/out");
    let mut command = plmconv();
    command.args(["quantize", "q4", "--to", "onnx", "-o"]).arg(out).arg(tiny_plm());
    command.assert().code(1).stderr(predicate::str::contains("no such file or folder"));
    // A file is not a folder to write in, whoever runs the test.
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").expect("write");
    let mut command = plmconv();
    command.args(["quantize", "q4", "--to", "onnx", "-o"]).arg(file.join("out")).arg(tiny_plm());
    command.assert().code(1);
    assert_eq!(names(dir.path()), ["file"]);
}

#[cfg(unix)]
#[test]
fn ctrl_c_leaves_the_whole_folder_or_nothing() {
    use common::signals::interrupt;
    let dir = tempfile::tempdir().expect("tempdir");
    // What kill -9 in the middle of a run leaves.
    let killed = dir.path().join(".plmconv-out.killed.tmp");
    std::fs::create_dir(&killed).expect("folder");
    std::fs::write(killed.join(".lock"), b"").expect("write");
    let out = dir.path().join("out");
    let mut command = plmconv();
    command.args(["quantize", "q4", "--to", "onnx", "-q", "-j", "1"]).arg(tiny_plm()).arg("-o").arg(&out);
    interrupt(&command, &out);
    assert!(names(dir.path()).is_empty(), "left behind: {:?}", names(dir.path()));
}

/// The bytes of an initializer that lies outside the graph.
fn initializer(folder: &Path, name: &str) -> Vec<u8> {
    let file = OnnxFile::open(&folder.join("model.onnx")).expect("an ONNX file");
    let found = file.initializers.iter().find(|i| i.name == name).unwrap_or_else(|| panic!("no {name}"));
    let place = found.external.as_ref().expect("external");
    let data = std::fs::read(folder.join(&place.file)).expect("read");
    data[place.offset as usize..][..found.bytes as usize].to_vec()
}

#[test]
fn statistics_guide_the_rounding_as_they_do_in_a_gguf() {
    let dir = tempfile::tempdir().expect("tempdir");
    let statistics = dir.path().join("statistics.gguf");
    let mut command = plmconv();
    command
        .arg("calibrate")
        .arg(tiny_plm())
        .arg("--text")
        .arg(common::calibration_text())
        .arg("-o")
        .arg(&statistics);
    command.args(["--calibration-ctx", "32", "--calibration-chunks", "2"]).assert().success();
    let stats = statistics.display().to_string();
    let onnx = export(&dir, "onnx", &["quantize", "q4", "--stats", &stats]);
    let gguf = dir.path().join("q4_0.gguf");
    let mut command = plmconv();
    command
        .args(["quantize", "q4_0", "--pure", "-q", "--stats", &stats])
        .arg(tiny_plm())
        .arg("-o")
        .arg(&gguf);
    command.assert().success();

    // Symmetric blocks of 32 are Q4_0's grid: the same codes, packed pair by pair instead of half by half.
    let file = GgufFile::open(&gguf).expect("a GGUF");
    for (layer, name, gguf_name) in [
        (0, "self_attn.o_proj", "attn_output"),
        (3, "mlp.down_proj", "ffn_down"),
        (5, "mlp.up_proj", "ffn_up"),
    ] {
        let name = format!("model.layers.{layer}.{name}.weight");
        let codes = initializer(&onnx, &format!("{name}_Q4"));
        let blocks = common::tensor_bytes(&file, &format!("blk.{layer}.{gguf_name}.weight"));
        assert_eq!(codes.len() / 16, blocks.len() / 18);
        for (codes, block) in codes.chunks_exact(16).zip(blocks.chunks_exact(18)) {
            let nibble = |bytes: &[u8], i: usize| bytes[i / 2] >> (4 * (i % 2)) & 15;
            let expected = |i: usize| block[2 + i % 16] >> (4 * (i / 16)) & 15;
            assert!((0..32).all(|i| nibble(codes, i) == expected(i)), "{name}");
        }
    }
}

#[test]
fn an_importance_matrix_changes_codes_but_neither_types_nor_sizes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let imatrix = fixtures().join("golden/imatrix.gguf").display().to_string();
    let plain = export(&dir, "plain", &["quantize", "q4", "--asymmetric", "--block-size", "64"]);
    let weighted = export(
        &dir,
        "weighted",
        &["quantize", "q4", "--asymmetric", "--block-size", "64", "--imatrix", &imatrix],
    );
    let graph = |folder: &Path| OnnxFile::open(&folder.join("model.onnx")).expect("a graph");
    assert_eq!(graph(&plain).initializers, graph(&weighted).initializers);
    assert_ne!(graph(&plain).metadata, graph(&weighted).metadata, "only one names an importance matrix");
    let (plain, weighted) = (contents(&plain), contents(&weighted));
    assert_eq!(plain["model.onnx.data"].0, weighted["model.onnx.data"].0);
    assert_ne!(plain["model.onnx.data"].1, weighted["model.onnx.data"].1);
}
