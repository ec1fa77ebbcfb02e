//! `plmconv verify`: every file can be made again, and no bit of it changes unseen.

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::assert::Assert;
use common::checkpoint::Checkpoint;
use common::{copy_of_tiny_plm, fixtures, plmconv, tensor_bytes, tiny_plm};
use plmconv_formats::gguf::{Directory, GgufFile, Metadata, TensorInfo, Value};
use plmconv_formats::hex;
use plmconv_formats::source::RowSource;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const RECIPE: &str = "plmconv.recipe";

/// Statistics of the tiny PLM, measured once for all tests.
static STATS: LazyLock<PathBuf> = LazyLock::new(|| calibrate("verify-statistics.gguf", "4"));

fn calibrate(name: &str, chunks: &str) -> PathBuf {
    let stats = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let text = fixtures().join("text/own.txt");
    let mut command = plmconv();
    command.arg("calibrate").arg(tiny_plm()).arg("--text").arg(text).arg("--force").arg("-o").arg(&stats);
    command.args(["--calibration-ctx", "64", "--calibration-chunks", chunks]).assert().success();
    stats
}

/// Runs `args` (a command and its flags) on the tiny PLM.
fn make(dir: &TempDir, name: &str, args: &[&str]) -> PathBuf {
    let out = dir.path().join(name);
    plmconv().args(args).arg(tiny_plm()).args(["-q", "-o"]).arg(&out).assert().success();
    out
}

fn verify_with(file: &Path, model: &Path, args: &[&str]) -> Assert {
    plmconv().arg("verify").arg(file).arg(model).args(args).assert()
}

fn verify(file: &Path, args: &[&str]) -> Assert {
    verify_with(file, &tiny_plm(), args)
}

fn json(assert: &Assert) -> Json {
    serde_json::from_slice(&assert.get_output().stdout).expect("JSON")
}

fn recipe_of(file: &Path) -> Option<Json> {
    let file = GgufFile::open(file).expect("a GGUF");
    file.metadata.string(RECIPE).map(|text| serde_json::from_str(text).expect("JSON"))
}

fn flip(file: &Path, byte: usize, bit: u8) {
    let mut bytes = std::fs::read(file).expect("readable");
    bytes[byte] ^= 1 << bit;
    std::fs::write(file, bytes).expect("writable");
}

/// Writes a GGUF anew with other metadata, or its tensors in another order.
fn rewrite(from: &Path, to: &Path, change: impl FnOnce(&mut Metadata, &mut Vec<TensorInfo>)) {
    let file = GgufFile::open(from).expect("a GGUF");
    let (mut metadata, mut tensors) = (file.metadata.clone(), file.tensors.clone());
    change(&mut metadata, &mut tensors);
    let entries = tensors.iter().map(|t| (t.name.clone(), t.data.dtype(), t.shape.clone()));
    let directory = Directory::new(&metadata, entries).expect("a head");
    let mut bytes = directory.head;
    for tensor in &tensors {
        bytes.extend(tensor_bytes(&file, &tensor.name));
        bytes.resize(bytes.len().next_multiple_of(32), 0);
    }
    std::fs::write(to, bytes).expect("writable");
}

#[test]
fn what_plmconv_writes_is_made_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    for (name, args) in [
        ("q4.gguf", &["quantize", "q4"][..]),
        ("q8.gguf", &["quantize", "q8"]),
        ("auto.gguf", &["convert", "--to", "gguf"]),
        ("f16.gguf", &["convert", "--to", "gguf", "--dtype", "f16"]),
        ("latent.gguf", &["quantize", "q4", "--layout", "latent"]),
    ] {
        let file = make(&dir, name, args);
        assert_eq!(recipe_of(&file), None, "{name}: it has the metadata of llama.cpp's tools and no more");
        let found = json(&verify(&file, &["--json"]).success());
        assert_eq!(found["identical"], true, "{name}");
        assert_eq!(found["bytes"], std::fs::metadata(&file).expect("there").len());
        assert_eq!(found["differences"], serde_json::json!([]));
    }
    verify(&dir.path().join("q4.gguf"), &[]).success().stdout(contains("every byte is what"));
}

#[test]
fn a_gguf_is_as_good_a_source() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bf16 = make(&dir, "bf16.gguf", &["quantize", "bf16"]);
    let q8 = make(&dir, "q8.gguf", &["quantize", "q8"]);
    verify_with(&q8, &bf16, &[]).success();
    let q4 = dir.path().join("q4.gguf");
    plmconv().args(["quantize", "q4", "--allow-requantize"]).arg(&q8).arg("-o").arg(&q4).assert().success();
    verify_with(&q4, &q8, &[]).success().stderr(contains("MODEL is itself quantized"));
    verify_with(&q4, &bf16, &[]).code(3);
}

#[test]
fn shards_are_compared_one_by_one() {
    let dir = tempfile::tempdir().expect("tempdir");
    make(&dir, "m.gguf", &["quantize", "q8", "--split-max-size", "2M"]);
    let shard = |n: usize| dir.path().join(format!("m-0000{n}-of-00004.gguf"));
    verify(&shard(1), &[]).success();
    let third = GgufFile::open_shards(shard(1)).expect("a set").remove(2);
    let tensor = third.tensors.iter().find(|t| t.shape == [1024, 256]).expect("a matrix of the FFN");
    flip(&shard(3), tensor.data.offset() as usize + 34 * 8 + 5, 2);
    let found = json(&verify(&shard(1), &["--json"]).code(3));
    let [different] = found["differences"].as_array().expect("a list").as_slice() else { panic!("{found}") };
    assert_eq!(different["tensor"], tensor.name.as_str());
    assert_eq!(different["file"], shard(3).display().to_string());
    assert_eq!((&different["row"], &different["block"]), (&1.into(), &0.into()), "rows have 8 blocks");
}

#[test]
fn what_a_preset_does_not_tell_is_told_by_a_recipe() {
    let dir = tempfile::tempdir().expect("tempdir");
    let types = dir.path().join("types.txt");
    std::fs::write(&types, "blk\\.0\\.ffn_down=q6_k\n").expect("writable");
    let types = types.display().to_string();
    let imatrix = fixtures().join("golden/imatrix.gguf").display().to_string();
    for (name, args, command, more) in [
        (
            "types",
            &["quantize", "q4_0", "--tensor-type", "attn_q=Q5_K", "--tensor-type-file", &types][..],
            r"quantize q4_0 --tensor-type attn_q=q5_k --tensor-type blk\.0\.ffn_down=q6_k",
            &[][..],
        ),
        (
            "embedding",
            &["quantize", "q4", "--pure", "--token-embedding-type", "q8_0"],
            "quantize q4_k_m --pure --token-embedding-type q8_0",
            &[],
        ),
        (
            "passes",
            &["quantize", "q8", "--layout", "latent", "--passes", "turn-values,sort-neurons"],
            "quantize q8_0 --layout latent --passes turn-values,sort-neurons",
            &[],
        ),
        (
            "converted",
            &["convert", "--to", "gguf", "--passes", "rescale-neurons", "--tokenizer-pre", "qwen2"],
            "convert --to gguf --dtype auto --tokenizer-pre qwen2 --passes rescale-neurons",
            &[],
        ),
        (
            "imatrix",
            &["quantize", "q4_0", "--imatrix", &imatrix, "--tensor-type", "ffn_up=q4_1"],
            "quantize q4_0 --tensor-type ffn_up=q4_1",
            &["--imatrix", &imatrix],
        ),
    ] {
        let file = make(&dir, name, args);
        let recipe = recipe_of(&file).unwrap_or_else(|| panic!("{name}: no recipe"));
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(recipe["arguments"], serde_json::json!(words), "{name}");
        verify(&file, more).success().stdout(contains(command));
    }
    // A file that is made from one with a recipe has its own, or none.
    let from = dir.path().join("converted");
    let q8 = dir.path().join("q8.gguf");
    plmconv().args(["quantize", "q8"]).arg(&from).arg("-o").arg(&q8).assert().success();
    assert_eq!(recipe_of(&q8), None);
    verify_with(&q8, &from, &[]).success();
}

#[test]
fn an_importance_matrix_has_to_be_given() {
    let dir = tempfile::tempdir().expect("tempdir");
    let imatrix = fixtures().join("golden/imatrix.gguf").display().to_string();
    let file = make(&dir, "q4.gguf", &["quantize", "q4", "--imatrix", &imatrix]);
    assert_eq!(recipe_of(&file), None, "llama-quantize's own keys record it");
    verify(&file, &[]).code(2).stderr(contains("give it with --imatrix"));
    verify(&file, &["--imatrix", &imatrix]).success();
    // The same matrix by another path: its name is the only difference.
    let other = dir.path().join("other.gguf");
    std::fs::copy(&imatrix, &other).expect("copied");
    let given = ["--imatrix", other.to_str().expect("UTF-8")];
    verify(&file, &given).code(3).stdout(contains("quantize.imatrix.file")).stderr(contains("--except"));
    verify(&file, &[&given[..], &["--except", "quantize.imatrix.file"]].concat()).success();
    // Another matrix: the data tell.
    let old = fixtures().join("golden/imatrix.dat").display().to_string();
    verify(&file, &["--imatrix", &old]).code(3);
}

#[test]
fn statistics_are_named_by_their_digest() {
    let dir = tempfile::tempdir().expect("tempdir");
    let stats = STATS.display().to_string();
    let digest = hex(Sha256::digest(std::fs::read(&*STATS).expect("statistics")));
    let guided = make(&dir, "guided.gguf", &["quantize", "q4_0", "--stats", &stats, "--without", "rows"]);
    let fast = make(&dir, "fast.gguf", &["quantize", "q4", "--effort", "fast", "--stats", &stats]);
    let budget = ["quantize", "auto", "--effort", "fast", "--target-size", "4.2M", "--stats", &stats];
    let budget = make(&dir, "budget.gguf", &budget);
    for (file, command) in [
        (&guided, "quantize q4_0 --effort normal --without rows"),
        (&fast, "quantize q4_k_m --effort fast"),
        (&budget, "quantize auto --target-size 4200000 --effort fast"),
    ] {
        let recipe = recipe_of(file).expect("nothing else records statistics");
        assert_eq!(recipe["statistics"], digest.as_str());
        verify(file, &["--stats", &stats]).success().stdout(contains(command));
    }
    verify(&fast, &[]).code(2).stderr(contains(&digest).and(contains("--stats")));
    let other = calibrate("verify-other.gguf", "3").display().to_string();
    verify(&fast, &["--stats", &other]).code(2).stderr(contains(&digest));
    let imatrix = fixtures().join("golden/imatrix.gguf").display().to_string();
    verify(&fast, &["--imatrix", &imatrix]).code(2);
    let plain = make(&dir, "plain.gguf", &["quantize", "q8"]);
    verify(&plain, &["--stats", &stats]).code(2).stderr(contains("not rounded by statistics"));

    let tensor = GgufFile::open(&guided).expect("a GGUF").tensors.remove(9);
    flip(&guided, tensor.data.offset() as usize, 7);
    verify(&guided, &["--stats", &stats]).code(3).stdout(contains(&tensor.name));
}

#[test]
fn calibrating_again_gives_the_statistics_of_a_calibrated_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let text = fixtures().join("text/own.txt").display().to_string();
    let sample = ["--calibration-ctx", "64", "--calibration-chunks", "2"];
    let args = [&["quantize", "q8", "--effort", "fast", "--calibrate", &text], &sample[..]].concat();
    let file = make(&dir, "q8.gguf", &args);
    let stats = make(&dir, "stats.gguf", &[&["calibrate", "--text", &text], &sample[..]].concat());
    verify(&file, &["--stats", stats.to_str().expect("UTF-8")]).success();
}

#[test]
fn another_order_of_the_same_is_the_same() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (ours, theirs) = (make(&dir, "ours.gguf", &["quantize", "q4"]), dir.path().join("theirs.gguf"));
    rewrite(&ours, &theirs, |metadata, tensors| {
        // llama-quantize writes these two anew, at the end.
        for key in ["general.quantization_version", "general.file_type"] {
            let value = metadata.remove(key).expect("there");
            metadata.set(key, value);
        }
        tensors.reverse();
    });
    assert_ne!(std::fs::read(&ours).expect("file"), std::fs::read(&theirs).expect("file"));
    verify(&theirs, &[]).success();
    let tensor = GgufFile::open(&theirs).expect("a GGUF").tensors.remove(3);
    flip(&theirs, tensor.data.offset() as usize + 1, 0);
    verify(&theirs, &[]).code(3).stdout(contains(&tensor.name));
}

#[test]
fn types_of_no_preset_are_taken_from_a_file_without_a_recipe() {
    let dir = tempfile::tempdir().expect("tempdir");
    let ours = make(&dir, "ours.gguf", &["quantize", "q4_0", "--tensor-type", "ffn_up=q5_1"]);
    let theirs = dir.path().join("theirs.gguf");
    rewrite(&ours, &theirs, |metadata, _| drop(metadata.remove(RECIPE)));
    verify(&theirs, &[]).success().stdout(contains("general.file_type are the file's own"));
    // But where a preset gives the types, the file has to be called by it.
    let preset = make(&dir, "preset.gguf", &["quantize", "q4"]);
    rewrite(&preset, &theirs, |metadata, _| metadata.set("general.file_type", Value::U32(14)));
    verify(&theirs, &[]).code(3).stdout(contains("general.file_type: 14 (U32), derived: 15 (U32)"));
}

#[test]
fn the_version_that_wrote_a_file_is_said() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (ours, older) =
        (make(&dir, "ours.gguf", &["quantize", "q8", "--pure"]), dir.path().join("older.gguf"));
    let with_recipe = |to: &Path, digits: Option<&str>| {
        rewrite(&ours, to, |metadata, _| {
            let mut recipe: Json =
                serde_json::from_str(metadata.string(RECIPE).expect("there")).expect("JSON");
            recipe["version"] = "0.0.9".into();
            recipe["check"] = "".into();
            let computed = hex(Sha256::digest(recipe.to_string()));
            recipe["check"] = digits.unwrap_or(&computed[..16]).into();
            metadata.set(RECIPE, Value::String(recipe.to_string()));
        });
    };
    with_recipe(&older, None);
    verify(&older, &[]).success().stdout(contains("plmconv 0.0.9: quantize q8_0 --pure"));
    let tensor = GgufFile::open(&older).expect("a GGUF").tensors.remove(3);
    flip(&older, tensor.data.offset() as usize + 1, 0);
    verify(&older, &[]).code(3).stderr(contains("verify with that version"));
    with_recipe(&older, Some("0123456789abcdef"));
    verify(&older, &[]).code(1).stderr(contains("plmconv.recipe` is damaged"));
}

#[test]
fn a_recipe_cannot_have_files_read_or_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (ours, hostile) = (make(&dir, "ours.gguf", &["quantize", "q8", "--pure"]), dir.path().join("x.gguf"));
    let never = dir.path().join("never").display().to_string();
    for (words, says) in [
        (&["quantize", "q8_0", "--pure", "--calibrate", "README.md"][..], "names files"),
        (&["quantize", "q8_0", "--tensor-type-file", "/etc/passwd"], "names files"),
        (&["quantize", "q8_0", "--pure", "--force", "-o", &never], "plmconv.recipe"),
        (&["quantize", "--help"], "does not know its recipe"),
        (&["generate"], "recipe"),
        (&["inspect"], "makes no model"),
        (&[], "recipe"),
    ] {
        rewrite(&ours, &hostile, |metadata, _| {
            let mut recipe = serde_json::json!({"version": "0.1.0", "arguments": words, "check": ""});
            recipe["check"] = hex(Sha256::digest(recipe.to_string()))[..16].into();
            metadata.set(RECIPE, Value::String(recipe.to_string()));
        });
        let refused = verify(&hostile, &[]).failure();
        let output = refused.get_output();
        let shown = [output.stdout.as_slice(), &output.stderr].concat();
        let shown = String::from_utf8(shown).expect("UTF-8");
        assert!(shown.contains(says) && !shown.contains("panicked"), "{words:?}: {shown}");
    }
    assert!(!Path::new(&never).exists());
}

/// Flips bits in all parts of a file; each has to be found, and named if it is in a tensor.
#[test]
fn no_bit_changes_unseen() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = make(&dir, "q4.gguf", &["quantize", "q4_k_m"]);
    let whole = std::fs::read(&file).expect("readable");
    let found = GgufFile::open(&file).expect("a GGUF");
    let head = found.tensors[0].data.offset() as usize;
    let in_head = |text: &[u8]| whole.windows(text.len()).position(|w| w == text).expect("there");
    // Header, then a key, its type, its value; the directory; padding; then anywhere.
    let file_type = in_head(b"general.file_type") + b"general.file_type".len();
    let mut places =
        vec![(0, 0), (4, 1), (8, 3), (16, 0), (file_type - 2, 5), (file_type, 0), (file_type + 4, 0)];
    let directory = in_head(b"blk.3.ffn_up.weight") + b"blk.3.ffn_up.weight".len();
    places.extend([0, 4, 12, 20, 24].map(|at| (directory + at, 1)));
    places.push((in_head(b"blk.3.ffn_up.weight") + 4, 0));
    let padded = found.tensors.iter().find(|t| !t.data.byte_len().is_multiple_of(32));
    places.extend(padded.map(|t| ((t.data.offset() + t.data.byte_len()) as usize, 6)));
    if whole[head - 1] == 0 {
        places.push((head - 1, 2));
    }
    let mut seed = 7u64;
    let mut random = |below: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % below
    };
    places.extend((0..10).map(|_| (random(head), random(8) as u8)));
    places.extend((0..16).map(|_| (head + random(whole.len() - head), random(8) as u8)));
    for (byte, bit) in places {
        flip(&file, byte, bit);
        let assert = verify(&file, &["--json"]);
        let code = assert.get_output().status.code();
        assert!(matches!(code, Some(1 | 3)), "bit {bit} of byte {byte}: {code:?}");
        let inside = found
            .tensors
            .iter()
            .find(|t| (t.data.offset()..t.data.offset() + t.data.byte_len()).contains(&(byte as u64)));
        if let Some(tensor) = inside {
            let report = json(&assert);
            let [different] = report["differences"].as_array().expect("a list").as_slice() else {
                panic!("{report}")
            };
            assert_eq!(different["tensor"], tensor.name.as_str(), "byte {byte}");
            assert_eq!(different["first"]["offset"], byte);
            assert_eq!(different["differing"], 1);
        }
        std::fs::write(&file, &whole).expect("writable");
    }
    for (name, changed) in [("shorter", &whole[..whole.len() - 32]), ("longer", &[&whole[..], &[0]].concat())]
    {
        std::fs::write(&file, changed).expect("writable");
        let code = verify(&file, &[]).get_output().status.code();
        assert!(matches!(code, Some(1 | 3)), "{name}: {code:?}");
    }
    std::fs::write(&file, &whole).expect("writable");
    verify(&file, &[]).success();
}

#[test]
fn exported_folders_are_made_again_and_every_file_counts() {
    let dir = tempfile::tempdir().expect("tempdir");
    let stats = STATS.display().to_string();
    for (name, args, more) in [
        ("genai", &["quantize", "q4", "--to", "onnx", "--profile", "genai", "--opset", "23"][..], &[][..]),
        ("qdq", &["quantize", "q8", "--to", "onnx", "--quant-format", "qdq", "--block-size", "64"], &[]),
        ("f16", &["convert", "--to", "onnx", "--dtype", "f16", "--num-logits-to-keep"], &[]),
        (
            "guided",
            &["quantize", "q4", "--to", "onnx", "--effort", "fast", "--stats", &stats],
            &["--stats", &stats],
        ),
        (
            "mixed",
            &[
                "quantize",
                "q4",
                "--to",
                "onnx",
                "--tensor-type",
                "ffn_up=q8",
                "--token-embedding-type",
                "f32",
            ],
            &[],
        ),
    ] {
        let folder = make(&dir, name, args);
        let found = json(&verify(&folder, &[more, &["--json"]].concat()).success());
        assert_eq!(found["recipe"]["arguments"][0], args[0], "{name}");
        verify(&folder.join("model.onnx"), more).success();
    }

    let folder = make(&dir, "hf", &["quantize", "q4", "--to", "onnx", "--profile", "hf", "--asymmetric"]);
    verify(&folder, &[]).success();
    let changed = |file: &str, byte: usize, says: &str| {
        let path = folder.join(file);
        let whole = std::fs::read(&path).expect("there");
        flip(&path, byte % whole.len(), 3);
        let assert = verify(&folder, &[]);
        let output = assert.get_output();
        assert!(matches!(output.status.code(), Some(1 | 3)), "{file} {byte}");
        let shown =
            String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).expect("UTF-8");
        assert!(shown.contains(says), "{file} {byte}: {shown}");
        std::fs::write(&path, whole).expect("writable");
    };
    for byte in [0, 9, 1000, 12_345, 70_000] {
        changed("onnx/model_q4.onnx", byte, "model_q4.onnx");
    }
    for byte in [0, 999_999, 2_000_003] {
        changed("onnx/model_q4.onnx_data", byte, "blocks; first: row");
    }
    for file in ["config.json", "tokenizer.json", "generation_config.json"] {
        changed(file, 77, file);
    }
    std::fs::write(folder.join("onnx/extra.bin"), b"x").expect("writable");
    verify(&folder, &[]).code(3).stdout(contains("extra.bin: no part of the export"));
    verify(&folder, &["--except", "onnx/extra.bin"]).success();
    std::fs::remove_file(folder.join("onnx/extra.bin")).expect("there");
    std::fs::remove_file(folder.join("tokenizer_config.json")).expect("there");
    verify(&folder, &[]).code(3).stdout(contains("tokenizer_config.json: missing"));
}

#[test]
fn what_cannot_be_compared_is_said() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = make(&dir, "q8.gguf", &["quantize", "q8"]);
    verify_with(&file, &file, &[]).code(2).stderr(contains("are the same"));
    verify(&dir.path().join("absent.gguf"), &[]).code(1);
    verify(&tiny_plm().join("config.json"), &[]).code(1);
    let other = dir.path().join("other");
    Checkpoint::odd().save(&other);
    let found = verify_with(&file, &other, &[]).code(3);
    found.stdout(contains("token_embd.weight: Q8_0 [4096, 256], derived: Q8_0 [4096, 320]"));

    // The folder's name is the model's.
    let renamed = copy_of_tiny_plm(dir.path());
    let renamed_to = dir.path().join("other-plm");
    std::fs::rename(renamed, &renamed_to).expect("renamed");
    let refused = verify_with(&file, &renamed_to, &[]).code(3);
    let hint = String::from_utf8(refused.get_output().stderr.clone()).expect("UTF-8");
    let except: Vec<&str> = hint.split_whitespace().filter(|word| word.starts_with("general.")).collect();
    let except: Vec<&str> = except.into_iter().flat_map(|key| ["--except", key]).collect();
    verify_with(&file, &renamed_to, &except).success();
}
