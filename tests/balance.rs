//! Channels rescaled before they are rounded: a model with outlier channels is quantized as well as its plain twin.

mod common;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use assert_cmd::Command;
use common::outliers::with_outliers;
use common::{copy_of_tiny_plm, plmconv, tiny_plm};
use serde_json::Value;

/// The tiny PLM with outlier channels such as large models have, and its statistics.
static TWIN: LazyLock<(PathBuf, PathBuf)> = LazyLock::new(|| {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("balance");
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place).expect("create");
    let model = copy_of_tiny_plm(&place);
    let weights = model.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("read");
    std::fs::write(&weights, with_outliers(&bytes)).expect("write");
    let stats = place.join("statistics.gguf");
    calibrate(&model, &stats);
    (model, stats)
});

fn calibrate(model: &Path, stats: &Path) {
    let mut command = plmconv();
    command.arg("calibrate").arg(model).arg("--text").arg(common::calibration_text()).arg("-o").arg(stats);
    command.args(["--calibration-ctx", "64", "--calibration-chunks", "16"]).assert().success();
}

/// What `validate` says of a file against the plain model, whatever that is.
fn report(file: &Path, more: &[&str]) -> Value {
    let mut command = plmconv();
    command.arg("validate").arg(file).arg("--against").arg(tiny_plm()).args(more);
    command.arg("--text").arg(common::fixtures().join("text/own.txt"));
    command.args(["--ctx", "128", "--max-kld", "10", "--max-ppl-ratio", "10", "--min-top1", "0"]);
    common::json(&mut command)
}

/// Mean divergence, as llama.cpp computes where the file is for it.
fn divergence(file: &Path) -> f64 {
    report(file, &[])["kl_divergence"]["mean"].as_f64().expect("a number")
}

/// The largest share of a product that rounding of activations takes.
fn worst_matrix(file: &Path) -> f64 {
    report(file, &["--per-layer"])["matrices"][0]["relative_error"].as_f64().expect("a number")
}

fn quantize(file_type: &str, model: &Path, stats: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = plmconv();
    command.args(["quantize", file_type]).arg(model).arg("--stats").arg(stats).arg("-o").arg(out).args(more);
    command
}

#[test]
fn outlier_channels_cost_nothing() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (twin, stats) = &*TWIN;
    // Operands are multiplied as 16-bit integers in groups, and outliers make their groups coarser.
    assert!(divergence(twin) < 1e-6, "the twin is the same function");
    assert!(report(twin, &[])["weights_alone"].is_null(), "a checkpoint is for no runtime");
    let plain_stats = dir.path().join("plain.gguf");
    calibrate(&tiny_plm(), &plain_stats);
    for file_type in ["q8_0", "q4_0"] {
        let [plain, as_it_is, balanced] = ["plain", "as-it-is", "balanced"].map(|name| dir.path().join(name));
        let effort = ["--effort", "fast", "--force"];
        quantize(file_type, &tiny_plm(), &plain_stats, &plain, &effort).assert().success();
        quantize(file_type, twin, stats, &balanced, &effort).assert().success();
        let without = [&effort[..], &["--without", "balance"]].concat();
        quantize(file_type, twin, stats, &as_it_is, &without).assert().success();
        let [harmless, harmed] = [&balanced, &as_it_is].map(|file| worst_matrix(file));
        assert!(10.0 * harmless < harmed, "{file_type}: {harmless} of a product, left alone {harmed}");
        let [plain, as_it_is, balanced] = [plain, as_it_is, balanced].map(|file| divergence(&file));
        assert!(balanced < 1.15 * plain, "{file_type}: {balanced} with outliers, {plain} without");
        assert!(2.0 * balanced < as_it_is, "{file_type}: {balanced}, left alone {as_it_is}");
    }
}

#[test]
fn a_balanced_file_is_made_again_by_its_recipe() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (twin, stats) = &*TWIN;
    for (name, more) in [("balanced", &[][..]), ("left-alone", &["--without", "balance"])] {
        let out = dir.path().join(name);
        let more = [&["--effort", "fast"], more].concat();
        quantize("q4_k_m", twin, stats, &out, &more).assert().success();
        let mut command = plmconv();
        command.arg("verify").arg(&out).arg(twin).arg("--stats").arg(stats).assert().success();
    }
    let files = ["balanced", "left-alone"].map(|name| std::fs::read(dir.path().join(name)).expect("written"));
    assert!(files[0] != files[1]);
}
