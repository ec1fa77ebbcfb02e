//! `quantize auto --to onnx`: how each matrix is stored, chosen within a size.

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use common::{json, names, plmconv, statistics, tiny_plm};
use predicates::prelude::*;
use serde_json::Value;

/// Statistics of the tiny PLM, measured once for all tests.
static STATS: LazyLock<PathBuf> = LazyLock::new(|| statistics("onnx-budget-statistics"));

fn quantize(file_type: &str, more: &[&str]) -> Command {
    let mut command = plmconv();
    command.args(["quantize", file_type, "--to", "onnx", "--effort", "fast", "--stats"]).arg(&*STATS);
    command.arg(tiny_plm()).args(more);
    command
}

/// Bytes of all files of a folder.
fn size(folder: &Path) -> u64 {
    let bytes = |name: String| std::fs::metadata(folder.join(name)).expect("a file").len();
    names(folder).into_iter().map(bytes).sum()
}

/// How many tensors a plan stores in each way.
fn kinds(plan: &Value) -> Vec<String> {
    let tensors = plan["tensors"].as_array().expect("tensors");
    let mut kinds: Vec<String> =
        tensors.iter().filter_map(|t| t["to"].as_str()).map(str::to_string).collect();
    kinds.sort();
    kinds.dedup();
    kinds
}

#[test]
fn a_folder_is_never_larger_than_asked_and_nearly_as_large() {
    let dir = tempfile::tempdir().expect("tempdir");
    let out = dir.path().join("out");
    for limit in [5_500_000u64, 6_200_000, 8_000_000] {
        let mut command = quantize("auto", &["--target-size", &limit.to_string(), "--force", "-o"]);
        let written = json(command.arg(&out));
        assert_eq!(written["bytes"], size(&out));
        assert!(size(&out) <= limit && limit - size(&out) < 20_000, "{limit}: {}", size(&out));
        plmconv().arg("verify").arg(&out).arg(tiny_plm()).arg("--stats").arg(&*STATS).assert().success();
    }
    for bits in ["4.6", "6"] {
        let plan = json(&mut quantize("auto", &["--target-bpw", bits, "--dry-run"]));
        let (found, limit) =
            (plan["bits_per_weight"].as_f64().expect("bits"), bits.parse::<f64>().expect("a number"));
        assert!(found <= limit && limit - found < 0.05, "{bits}: {found}");
    }
}

#[test]
fn more_bytes_predict_less_divergence_and_other_ways_to_store() {
    let plans = [5_500_000, 6_200_000, 8_000_000]
        .map(|limit: u64| json(&mut quantize("auto", &["--target-size", &limit.to_string(), "--dry-run"])));
    let predicted = plans.each_ref().map(|plan| plan["predicted_divergence"].as_f64().expect("a number"));
    assert!(predicted.is_sorted_by(|a, b| a > b), "{predicted:?}");
    assert!(predicted[2] < predicted[0] / 4.0, "{predicted:?}");
    // Four and eight bits, and blocks of several sizes.
    let kinds = kinds(&plans[1]);
    assert!(
        kinds.iter().any(|kind| kind.starts_with("Q4")) && kinds.iter().any(|kind| kind.starts_with("Q8"))
    );
    assert!(kinds.len() > 3, "{kinds:?}");
}

#[test]
fn what_the_user_says_stays() {
    let more = ["--target-size", "6.2M", "--dry-run", "--block-size", "64", "--token-embedding-type", "q4"];
    let plan = json(&mut quantize("auto", &more));
    let tensors = plan["tensors"].as_array().expect("tensors");
    let to = |name: &str| {
        tensors.iter().find(|t| t["name"] == name).and_then(|t| t["to"].as_str()).map(String::from)
    };
    assert_eq!(to("token_embd.weight").as_deref(), Some("Q4 x64"));
    assert!(kinds(&plan).iter().filter(|kind| kind.starts_with('Q')).all(|kind| kind.contains("x64")));
}

#[test]
fn a_head_of_four_bits_is_asked_for() {
    let plan = json(&mut quantize("q4", &["--dry-run"]));
    let head = |plan: &Value| {
        let tensors = plan["tensors"].as_array().expect("tensors");
        let head = tensors.iter().find(|t| t["name"] == "token_embd.weight").expect("there is one");
        head["to"].as_str().expect("a name").to_string()
    };
    assert_eq!(head(&plan), "Q8 x32");
    assert_eq!(head(&json(&mut quantize("q4", &["--dry-run", "--token-embedding-type", "q4"]))), "Q4 x32");
}

#[test]
fn budgets_that_nothing_fits_are_refused() {
    let refused = |more: &[&str], says: &str| {
        let mut command = quantize("auto", more);
        command.arg("--dry-run").assert().code(2).stderr(predicate::str::contains(says));
    };
    refused(&["--target-size", "3M"], "at least");
    refused(&[], "--target-size");
    let mut command = plmconv();
    command.args(["quantize", "auto", "--to", "onnx", "--target-size", "6M"]).arg(tiny_plm());
    command.assert().code(2).stderr(predicate::str::contains("--stats"));
}
