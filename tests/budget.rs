//! `plmconv quantize --target-size` and `--target-bpw`: types by budget.

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use common::{copy_of_tiny_plm, digests, fixtures, json, names, plmconv, statistics, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use predicates::prelude::*;
use serde_json::Value;

/// Bytes that the matrices of the tiny PLM take as q4_k_m, with metadata and all.
const Q4_K_M_BYTES: u64 = 4_228_512;

/// Statistics of the tiny PLM, measured once for all tests.
static STATS: LazyLock<PathBuf> = LazyLock::new(|| statistics("budget-statistics"));

/// `quantize TYPE` with statistics; without error feedback, which only takes longer here.
fn quantize(file_type: &str, extra: &[&str]) -> Command {
    let mut command = plmconv();
    command.args(["quantize", file_type, "--effort", "fast", "--stats"]).arg(&*STATS).arg(tiny_plm());
    command.args(extra);
    command
}

#[test]
fn a_file_is_never_larger_than_asked_and_nearly_as_large() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let out = out.to_str().expect("UTF-8");
    for asked in ["3000000", "4.2M", "5.5M", "0.008G"] {
        let mut command = quantize("auto", &["--target-size", asked, "-o", out, "--force"]);
        let written = json(&mut command);
        let limit = match asked {
            "4.2M" => 4_200_000,
            "5.5M" => 5_500_000,
            "0.008G" => 8_000_000,
            plain => plain.parse().expect("a number"),
        };
        let bytes = std::fs::metadata(out).expect("written").len();
        assert_eq!(written["bytes"], bytes);
        assert!(bytes <= limit && limit - bytes < 10_000, "{asked}: {bytes}");
    }
    for bits in ["3.25", "4.5", "7"] {
        let plan = json(&mut quantize("auto", &["--target-bpw", bits, "--dry-run", "-o", "x.gguf"]));
        let (found, limit) =
            (plan["bits_per_weight"].as_f64().expect("bits"), bits.parse().expect("a number"));
        assert!(found <= limit && limit - found < 0.02, "{bits}: {found}");
    }
}

#[test]
fn the_same_for_any_number_of_threads_and_the_plan_is_what_is_written() {
    let dir = tempfile::tempdir().expect("tempdir");
    let run = |name: &str, threads: &str| {
        let out = dir.path().join(name);
        let mut command = quantize("auto", &["--target-bpw", "4.25", "-j", threads, "-q", "-o"]);
        command.arg(&out).assert().success();
        out
    };
    let (one, three) = (run("one.gguf", "1"), run("three.gguf", "3"));
    assert_eq!(std::fs::read(&one).expect("file"), std::fs::read(&three).expect("file"));

    let plan = json(&mut quantize("auto", &["--target-bpw", "4.25", "--dry-run", "-o", "x.gguf"]));
    let written = digests(&one);
    let tensors = plan["tensors"].as_array().expect("tensors");
    for tensor in tensors {
        let name = tensor["name"].as_str().expect("a name");
        assert_eq!(tensor["to"], written[name].0, "{name}");
    }
    let sum: f64 = tensors.iter().filter_map(|t| t["predicted_divergence"].as_f64()).sum();
    let total = plan["predicted_divergence"].as_f64().expect("a prediction");
    assert!((sum - total).abs() < 1e-9 && total > 0.0);
    let types: std::collections::BTreeSet<_> =
        tensors.iter().map(|t| t["to"].as_str().expect("type")).collect();
    assert!(types.len() > 3, "a mixture: {types:?}");
}

#[test]
fn more_bytes_are_predicted_to_cost_less() {
    let predicted = |bits: &str| {
        let plan = json(&mut quantize("auto", &["--target-bpw", bits, "--dry-run", "-o", "x.gguf"]));
        plan["predicted_divergence"].as_f64().expect("a prediction")
    };
    let losses: Vec<f64> = ["3", "3.5", "4.5", "6", "17"].iter().map(|bits| predicted(bits)).collect();
    assert!(losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    assert_eq!(losses[4], 0.0, "every matrix keeps its bf16");
}

#[test]
fn the_users_types_stay_and_the_name_is_the_users() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let size = Q4_K_M_BYTES.to_string();
    let fixed =
        ["--target-size", &size, "--token-embedding-type", "q8_0", "--tensor-type", "blk.0.ffn_down=f16"];
    quantize("q4", &fixed).arg("-o").arg(&out).assert().success();
    let written = digests(&out);
    assert_eq!(written["token_embd.weight"].0, "Q8_0");
    assert_eq!(written["blk.0.ffn_down.weight"].0, "F16");
    assert!(std::fs::metadata(&out).expect("written").len() <= Q4_K_M_BYTES);
    let file_type =
        |path: &Path| GgufFile::open(path).expect("a GGUF").metadata.unsigned("general.file_type");
    assert_eq!(file_type(&out), Some(15), "q4_k_m, as the user calls it");

    let mut auto = quantize("auto", &["--target-bpw", "8.6", "--force", "-o"]);
    auto.arg(&out).assert().success();
    let prevailing = file_type(&out).expect("a file type");
    assert!([7, 18].contains(&prevailing), "q8_0 or q6_k, which most weights have: {prevailing}");
}

#[test]
fn impossible_and_contradictory_budgets_are_usage_errors() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let out = out.to_str().expect("UTF-8");
    let refuse = |file_type: &str, extra: &[&str], says: &str| {
        let mut command = quantize(file_type, &[extra, &["-o", out]].concat());
        command.assert().code(2).stderr(predicate::str::contains(says));
    };
    refuse("auto", &[], "needs a budget");
    refuse("auto", &["--target-size", "1M"], "at least");
    refuse("auto", &["--target-size", "10"], "at least");
    refuse("auto", &["--target-bpw", "1.5"], "bits per weight");
    refuse("auto", &["--target-bpw", "NaN"], "NaN");
    refuse("auto", &["--target-size", "4 potatoes"], "not a size");
    refuse("auto", &["--target-size", "4M", "--target-bpw", "4"], "cannot be used with");
    refuse("q4", &["--target-size", "4M", "--pure"], "cannot be used with");
    refuse("q4", &["--target-size", "4M", "--passes", "sort-neurons"], "cannot be used with");
    refuse("q4", &["--target-size", "4M", "--layout", "latent"], "--layout plm");
    refuse("q4", &["--target-size", "4M", "--split-max-size", "1M"], "--target-bpw");
    let mut command = plmconv();
    command.args(["quantize", "auto", "--target-size", "4M"]).arg(tiny_plm());
    command.assert().code(2).stderr(predicate::str::contains("--stats"));
    let mut command = plmconv();
    command.args(["quantize", "q4", "--target-size", "4M", "--imatrix"]);
    command.arg(fixtures().join("golden/imatrix.gguf")).arg(tiny_plm()).assert().code(2);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn the_smallest_size_named_is_possible_and_a_byte_less_is_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out.gguf");
    let run = |size: &str| {
        let mut command = quantize("auto", &["--target-size", size, "--force", "-o"]);
        command.arg(&out).assert()
    };
    let refused = run("1M").failure().get_output().stderr.clone();
    let refused = String::from_utf8(refused).expect("UTF-8");
    let after = refused.split("at least ").nth(1).expect("names the smallest size");
    let smallest: u64 = after.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
    run(&smallest.to_string()).success();
    assert_eq!(std::fs::metadata(&out).expect("written").len(), smallest);
    run(&(smallest - 1).to_string()).failure();
}

#[test]
fn weights_that_a_type_cannot_hold_get_another() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    // A weight beyond half precision: every type with a half-precision scale fails on its row.
    let path = folder.join("model.safetensors");
    let mut bytes = std::fs::read(&path).expect("fixture");
    let header = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let json: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("JSON");
    let offsets = &json["model.layers.0.self_attn.kv_b_proj.weight"]["data_offsets"];
    let at = 8 + header + offsets[0].as_u64().expect("a number") as usize;
    bytes[at..at + 2].copy_from_slice(&half::bf16::from_f32(3e9).to_le_bytes());
    std::fs::write(&path, bytes).expect("writable");
    let out = dir.path().join("out.gguf");
    let text = common::calibration_text();
    let mut command = plmconv();
    command.args(["quantize", "auto", "--effort", "fast", "--target-bpw", "6", "--calibration-ctx", "32"]);
    command.args(["--calibration-chunks", "4", "--calibrate"]).arg(text).arg(&folder).arg("-o").arg(&out);
    command.assert().success();
    assert_eq!(digests(&out)["blk.0.attn_kv_b.weight"].0, "BF16");
}
