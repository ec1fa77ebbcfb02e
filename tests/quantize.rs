//! `plmconv quantize` and `convert` against what llama.cpp's own tools write.

mod common;

use common::checkpoint::Checkpoint;
use common::{digests, names, plmconv, tensor_bytes, tiny_plm};
use plmconv_formats::gguf::{GgufFile, Value as GgufValue};
use plmconv_formats::source::RowSource;
use predicates::prelude::*;
use serde_json::Value;

/// Every type a user can name, and that llama-quantize makes without an importance matrix.
const TYPES: [&str; 21] = [
    "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l",
    "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs", "tq1_0", "tq2_0",
];

fn golden() -> Value {
    let text = std::fs::read_to_string(common::fixtures().join("golden/digests.json")).expect("fixture");
    serde_json::from_str(&text).expect("JSON")
}

/// The same for types below four bits.
fn golden_low() -> Value {
    let text = std::fs::read_to_string(common::fixtures().join("golden/digests-low.json")).expect("fixture");
    serde_json::from_str(&text).expect("JSON")
}

fn imatrix() -> std::path::PathBuf {
    common::fixtures().join("golden/imatrix.gguf")
}

fn assert_matches_golden(section: &Value, path: &std::path::Path, what: &str) {
    let expected = section.as_object().expect("tensors by name");
    let found = digests(path);
    assert_eq!(found.len(), expected.len(), "{what}: number of tensors");
    for (name, (dtype, shape, sha256)) in found {
        let golden = &expected[&name];
        assert_eq!(golden["type"], dtype.as_str(), "{what}: type of {name}");
        assert_eq!(golden["shape"], serde_json::json!(shape), "{what}: shape of {name}");
        assert_eq!(golden["sha256"], sha256.as_str(), "{what}: bytes of {name}");
    }
}

#[test]
fn every_type_equals_llama_quantize() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("tempdir");
    for file_type in TYPES {
        let out = dir.path().join(format!("{file_type}.gguf"));
        plmconv().args(["quantize", file_type]).arg(tiny_plm()).arg("-o").arg(&out).assert().success();
        assert_matches_golden(&golden["default"][file_type], &out, file_type);
    }
}

#[test]
fn pure_equals_llama_quantize_pure() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("tempdir");
    for (file_type, section) in golden["pure"].as_object().expect("types") {
        let out = dir.path().join(format!("{file_type}.gguf"));
        plmconv()
            .args(["quantize", file_type, "--pure"])
            .arg(tiny_plm())
            .arg("-o")
            .arg(&out)
            .assert()
            .success();
        assert_matches_golden(section, &out, file_type);
    }
}

/// Each tensor of every preset is compared in the crate quant; here the way to the file, its size and its file type.
#[test]
fn files_below_four_bits_equal_llama_quantizes() {
    let golden = golden_low();
    let dir = tempfile::tempdir().expect("tempdir");
    let imatrix = imatrix();
    let imatrix = imatrix.to_str().expect("UTF-8");
    for (section, file_type, id, options) in [
        ("default", "q1_0", 40, vec![]),
        ("default", "iq3_s", 26, vec![]),
        ("pure", "q2_0", 41, vec!["--pure"]),
        ("pure", "iq3_xs", 22, vec!["--pure"]),
        ("imatrix", "iq1_s", 24, vec!["--imatrix", imatrix]),
        ("imatrix", "iq2_s", 28, vec!["--imatrix", imatrix]),
        ("imatrix", "iq3_xxs", 23, vec!["--imatrix", imatrix]),
        ("tensor_type", "mxfp4", 15, vec!["--imatrix", imatrix, "--tensor-type", "ffn_up=mxfp4"]),
        ("tensor_type", "nvfp4", 15, vec!["--imatrix", imatrix, "--tensor-type", "ffn_up=nvfp4"]),
        ("tensor_type", "iq2_xs", 15, vec!["--imatrix", imatrix, "--tensor-type", "ffn_up=iq2_xs"]),
    ] {
        let out = dir.path().join(format!("{section}-{file_type}.gguf"));
        let target = if section == "tensor_type" { "q4_k_m" } else { file_type };
        plmconv()
            .args(["quantize", target])
            .args(options)
            .arg(tiny_plm())
            .arg("-o")
            .arg(&out)
            .assert()
            .success();
        let what = format!("{section}/{file_type}");
        assert_matches_golden(&golden[section][file_type], &out, &what);
        let file = GgufFile::open(&out).expect("a GGUF");
        assert_eq!(file.metadata.get("general.file_type"), Some(&GgufValue::U32(id)), "{what}");
    }
}

#[test]
fn what_is_useless_without_importance_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let refused = |args: &[&str]| {
        let mut command = plmconv();
        command.current_dir(dir.path()).arg("quantize").args(args).arg(tiny_plm());
        command.assert().code(2).stderr(
            predicate::str::contains("useless without the importance")
                .and(predicate::str::contains("--imatrix")),
        );
    };
    let golden = golden_low();
    for name in golden["refused"].as_object().expect("refusals").keys() {
        match name.split_once('/').expect("section/preset") {
            ("pure", preset) => refused(&[preset, "--pure"]),
            (_, preset) => refused(&[preset]),
        }
    }
    refused(&["q4_k_m", "--tensor-type", "ffn_up=iq2_s"]);
    // A matrix that leaves a tensor out is none for it.
    let cut = dir.path().join("cut.dat");
    std::fs::write(&cut, only_first_entry(&common::fixtures().join("golden/imatrix.dat"))).expect("write");
    refused(&["iq2_xxs", "--imatrix", cut.to_str().expect("UTF-8")]);
    assert_eq!(names(dir.path()), ["cut.dat"]);
}

/// A legacy importance matrix of which only the first entry is left.
fn only_first_entry(path: &std::path::Path) -> Vec<u8> {
    let bytes = std::fs::read(path).expect("fixture");
    let int = |at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
    let name_len = int(4);
    let values = int(8 + name_len + 4);
    let end = 8 + name_len + 8 + 4 * values;
    [&1_i32.to_le_bytes(), &bytes[4..end]].concat()
}

#[test]
fn convert_equals_convert_hf_to_gguf() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("tempdir");
    for dtype in ["f32", "f16", "bf16", "auto"] {
        let out = dir.path().join(format!("{dtype}.gguf"));
        plmconv()
            .args(["convert", "--to", "gguf", "--dtype", dtype])
            .arg(tiny_plm())
            .arg("-o")
            .arg(&out)
            .assert()
            .success();
        let section = if dtype == "auto" { "bf16" } else { dtype };
        assert_matches_golden(&golden["convert"][section], &out, dtype);
    }
}

#[test]
fn a_gguf_source_gives_the_same_bytes_as_the_folder() {
    let golden = golden();
    let dir = tempfile::tempdir().expect("tempdir");
    let (source, out) = (dir.path().join("bf16.gguf"), dir.path().join("q4.gguf"));
    plmconv().args(["quantize", "bf16"]).arg(tiny_plm()).arg("-o").arg(&source).assert().success();
    plmconv().args(["quantize", "q4"]).arg(&source).arg("-o").arg(&out).assert().success();
    assert_matches_golden(&golden["default"]["q4_k_m"], &out, "q4 from GGUF");

    let folder_out = dir.path().join("folder.gguf");
    plmconv().args(["quantize", "q4"]).arg(tiny_plm()).arg("-o").arg(&folder_out).assert().success();
    assert!(std::fs::read(&out).expect("read") == std::fs::read(&folder_out).expect("read"));
}

#[test]
fn any_number_of_threads_gives_the_same_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = |threads: &str| {
        let out = dir.path().join(format!("{threads}.gguf"));
        let mut command = plmconv();
        command.args(["quantize", "q4_k_m", "--threads", threads]).arg(tiny_plm()).arg("-o").arg(&out);
        command.assert().success();
        std::fs::read(out).expect("read")
    };
    let one = run("1");
    assert!(one == run("2") && one == run("7"));
}

#[test]
fn dry_run_says_the_exact_size_and_writes_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let plan = plmconv()
        .current_dir(dir.path())
        .args(["quantize", "Q4", "--dry-run", "--json"])
        .arg(tiny_plm())
        .assert()
        .success();
    assert!(names(dir.path()).is_empty());
    let plan: Value = serde_json::from_slice(&plan.get_output().stdout).expect("JSON");

    plmconv().current_dir(dir.path()).args(["quantize", "q4"]).arg(tiny_plm()).assert().success();
    assert_eq!(names(dir.path()), ["tiny-plm-q4_k_m.gguf"]);
    let written = std::fs::metadata(dir.path().join("tiny-plm-q4_k_m.gguf")).expect("written").len();
    assert_eq!(plan["bytes"], written);
}

#[test]
fn an_existing_file_is_replaced_only_with_force() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    std::fs::write(&out, b"mine").expect("write");
    let mut command = plmconv();
    command.args(["quantize", "q8"]).arg(tiny_plm()).arg("-o").arg(&out);
    command.assert().code(1).stderr(predicate::str::contains("--force"));
    assert_eq!(std::fs::read(&out).expect("read"), b"mine");
    command.arg("--force").assert().success();
    assert!(GgufFile::open(&out).is_ok());
    assert_eq!(names(dir.path()), ["out.gguf"]);
}

#[test]
fn tensor_type_exceptions() {
    let dir = tempfile::tempdir().expect("tempdir");
    let list = dir.path().join("types.txt");
    std::fs::write(&list, "# the first layer is delicate\nblk\\.0\\.ffn_down=q6_k\n").expect("write");
    let out = dir.path().join("out.gguf");
    plmconv()
        .args(["quantize", "q4_0", "--tensor-type", "attn_q=q5_k", "--token-embedding-type", "q8_0"])
        .arg("--tensor-type-file")
        .arg(&list)
        .arg(tiny_plm())
        .arg("-o")
        .arg(&out)
        .assert()
        .success();
    let file = GgufFile::open(&out).expect("a GGUF");
    let type_of = |name: &str| file.tensor(name).expect("there").data.dtype().name();
    assert_eq!(type_of("blk.0.ffn_down.weight"), "Q6_K");
    assert_eq!(type_of("blk.1.ffn_down.weight"), "Q4_0");
    assert_eq!(type_of("blk.3.attn_q.weight"), "Q5_K");
    assert_eq!(type_of("token_embd.weight"), "Q8_0");
}

#[test]
fn a_pattern_that_matches_nothing_is_an_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    plmconv()
        .current_dir(dir.path())
        .args(["quantize", "q4", "--tensor-type", "ffn_gaet=q8_0"])
        .arg(tiny_plm())
        .assert()
        .code(2)
        .stderr(predicate::str::contains("ffn_gaet"));
    assert!(names(dir.path()).is_empty());
}

#[test]
fn an_unknown_type_lists_the_nearest() {
    plmconv()
        .args(["quantize", "q4_km"])
        .arg(tiny_plm())
        .assert()
        .code(2)
        .stderr(predicate::str::contains("q4_k_m"));
}

#[test]
fn shards_hold_the_same_tensors() {
    let dir = tempfile::tempdir().expect("tempdir");
    let whole = dir.path().join("whole.gguf");
    plmconv().args(["quantize", "q8"]).arg(tiny_plm()).arg("-o").arg(&whole).assert().success();
    let shards = dir.path().join("shards");
    std::fs::create_dir(&shards).expect("create");
    plmconv()
        .args(["quantize", "q8", "--split-max-size", "2M"])
        .arg(tiny_plm())
        .arg("-o")
        .arg(shards.join("m.gguf"))
        .assert()
        .success();
    assert_eq!(
        names(&shards),
        ["m-00001-of-00004.gguf", "m-00002-of-00004.gguf", "m-00003-of-00004.gguf", "m-00004-of-00004.gguf"]
    );
    assert_eq!(digests(&shards.join("m-00001-of-00004.gguf")), digests(&whole));
    let first = GgufFile::open(shards.join("m-00001-of-00004.gguf")).expect("a GGUF");
    assert_eq!(first.metadata.unsigned("split.tensors.count"), Some(56));
}

#[test]
fn a_quantized_source_needs_leave() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (q8, q4) = (dir.path().join("q8.gguf"), dir.path().join("q4.gguf"));
    plmconv().args(["quantize", "q8"]).arg(tiny_plm()).arg("-o").arg(&q8).assert().success();
    let mut command = plmconv();
    command.args(["quantize", "q4"]).arg(&q8).arg("-o").arg(&q4);
    command.assert().code(2).stderr(predicate::str::contains("--allow-requantize"));
    command.arg("--allow-requantize").assert().success();
    assert!(GgufFile::open(&q4).is_ok());
}

#[test]
fn an_odd_checkpoint_converts_from_one_file_shards_or_loose_files() {
    let dir = tempfile::tempdir().expect("tempdir");
    let checkpoint = Checkpoint::odd();
    let quantize = |name: &str| {
        let out = dir.path().join(format!("{name}.gguf"));
        plmconv()
            .args(["quantize", "q4_k_m"])
            .arg(dir.path().join(name))
            .arg("-o")
            .arg(&out)
            .assert()
            .success();
        digests(&out)
    };
    checkpoint.save(&dir.path().join("one"));
    checkpoint.save_sharded(&dir.path().join("indexed"), true);
    checkpoint.save_sharded(&dir.path().join("loose"), false);
    let one = quantize("one");
    assert_eq!(one, quantize("indexed"));
    assert_eq!(one, quantize("loose"));

    assert!(!one.contains_key("output.weight"), "the copied head is dropped");
    // 320 and 96 and 896 are no multiples of 256: llama-quantize's fallbacks.
    assert_eq!(one["blk.0.attn_q.weight"].0, "Q5_0");
    assert_eq!(one["token_embd.weight"].0, "Q8_0");
    assert_eq!(one["blk.0.attn_norm.weight"].0, "F32");
}

#[test]
fn values_never_pass_through_another_type() {
    let dir = tempfile::tempdir().expect("tempdir");
    let checkpoint = Checkpoint::odd();
    checkpoint.save(&dir.path().join("odd"));
    let out = dir.path().join("out.gguf");
    plmconv()
        .args(["convert", "--to", "gguf"])
        .arg(dir.path().join("odd"))
        .arg("-o")
        .arg(&out)
        .assert()
        .success();
    let file = GgufFile::open(&out).expect("a GGUF");
    for (ours, theirs) in [
        ("blk.1.ffn_down.weight", "model.layers.1.mlp.fc2.weight"),
        ("blk.1.ffn_up.weight", "model.layers.1.mlp.fc1.weight"),
        ("token_embd.weight", "model.embed_tokens.weight"),
    ] {
        assert!(tensor_bytes(&file, ours) == checkpoint.tensors[theirs].bytes, "{ours}");
    }
}

#[test]
fn rope_pairs_half_a_head_apart_are_rewritten_exactly() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut checkpoint = Checkpoint::odd();
    checkpoint.config["rope_interleave"] = false.into();
    checkpoint.save(&dir.path().join("halves"));
    let out = dir.path().join("out.gguf");
    plmconv()
        .args(["convert", "--to", "gguf"])
        .arg(dir.path().join("halves"))
        .arg("-o")
        .arg(&out)
        .assert()
        .success();
    let file = GgufFile::open(&out).expect("a GGUF");
    let rows = |bytes: &[u8]| bytes.chunks(320 * 2).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let ours = rows(&tensor_bytes(&file, "blk.0.attn_kv_a_mqa.weight"));
    let theirs = rows(&checkpoint.tensors["model.layers.0.self_attn.kv_a_proj_with_mqa.weight"].bytes);
    assert!(ours[..96] == theirs[..96]);
    for pair in 0..8 {
        assert!(ours[96 + 2 * pair] == theirs[96 + pair]);
        assert!(ours[96 + 2 * pair + 1] == theirs[96 + 8 + pair]);
    }
}
