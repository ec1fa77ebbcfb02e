//! A file is as far from its model in llama.cpp as `plmconv validate` says, and guided rounding brings it nearer there.

#[path = "../../../tests/common/outliers.rs"]
mod outliers;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use plmconv_interop::converter::{self, plmconv};
use plmconv_interop::divergence::{DivergenceOptions, divergence};
use plmconv_interop::golden::fixtures;
use plmconv_interop::llama::Model;
use plmconv_interop::quantize::{QuantizeOptions, file_type, quantize};

use super::{Workspace, load};

const WINDOW: usize = 128;

const LATENT: &[&str] = &["--layout", "latent"];

fn text() -> PathBuf {
    fixtures().join("text/calibration.txt")
}

/// The tiny PLM's f32 file, and the folder that it lies in.
static REFERENCE: LazyLock<(Workspace, Model)> = LazyLock::new(|| {
    let workspace = Workspace::new();
    let model = workspace.load_tiny_plm("f32");
    (workspace, model)
});

/// What `plmconv validate` says of a file's mean divergence from the tiny PLM.
#[derive(Debug)]
struct Judged {
    as_llama_cpp_computes: f64,
    weights_alone: f64,
}

fn judged_by_plmconv(file: &Path) -> Judged {
    let mut command = Command::new(plmconv());
    command.arg("validate").arg(file).arg("--against").arg(fixtures().join("tiny-plm"));
    command.arg("--text").arg(text()).args(["--ctx", &WINDOW.to_string(), "--json"]);
    command.args(["--max-kld", "10", "--max-ppl-ratio", "1000", "--min-top1", "0"]);
    let report = converter::stdout_of(&mut command).unwrap_or_else(|error| panic!("{error}"));
    let report: serde_json::Value = serde_json::from_str(&report).expect("--json writes JSON");
    Judged {
        as_llama_cpp_computes: report["kl_divergence"]["mean"].as_f64().expect("a number"),
        weights_alone: report["weights_alone"]["kl_divergence"]["value"].as_f64().expect("a number"),
    }
}

/// Mean divergence of a file from the tiny PLM's f32 file inside llama.cpp, on the text that `plmconv validate` scores.
fn divergence_in_llama_cpp(file: &Path, flash_attention: bool) -> f64 {
    let (_, reference) = &*REFERENCE;
    let candidate = load(file);
    let text = std::fs::read_to_string(text()).expect("a fixture");
    let tokens = candidate.tokenize(&text, false, false).expect("plain text");
    assert!(tokens.len() >= 8 * WINDOW, "{} tokens are too few", tokens.len());
    let options = DivergenceOptions { n_ctx: WINDOW, chunks: None, threads: 1, flash_attention };
    divergence(reference, &candidate, &tokens, options).unwrap_or_else(|error| panic!("{error}")).mean
}

/// The tiny PLM with outlier channels, which computes the same function.
fn twin(workspace: &Workspace) -> PathBuf {
    let folder = workspace.path("twin");
    std::fs::create_dir(&folder).expect("the workspace is writable");
    for entry in std::fs::read_dir(fixtures().join("tiny-plm")).expect("a fixture") {
        let entry = entry.expect("a fixture");
        std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("the workspace is writable");
    }
    let weights = folder.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("a copy");
    std::fs::write(&weights, outliers::with_outliers(&bytes)).expect("the workspace is writable");
    folder
}

/// Quantizes, measures on both sides, and says where they are more than 5 % apart.
fn compare(model: &Path, file_types: &[&str], more: &[&str], flash_attention: bool) -> Vec<String> {
    let workspace = Workspace::new();
    let mut apart = Vec::new();
    for name in file_types {
        let file = workspace.path(name);
        converter::quantize(name, model, &file, more).unwrap_or_else(|error| panic!("{error}"));
        let judged = judged_by_plmconv(&file).as_llama_cpp_computes;
        let measured = divergence_in_llama_cpp(&file, flash_attention);
        let said = format!("{name}: {measured:.7} in llama.cpp, {judged:.7} by plmconv");
        eprintln!("{said} ({:+.1} %)", 100.0 * (judged / measured - 1.0));
        if (judged / measured - 1.0).abs() > 0.05 {
            apart.push(said);
        }
    }
    apart
}

const NONE: [String; 0] = [];

#[test]
fn every_type_diverges_in_llama_cpp_as_plmconv_says() {
    let types = [
        "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs", "q4_0", "q4_1", "q5_0", "q5_1",
        "q8_0", "tq1_0", "tq2_0", "iq3_s", "iq3_m", "q1_0", "q2_0",
    ];
    assert_eq!(compare(&fixtures().join("tiny-plm"), &types, &[], false), NONE);
}

#[test]
fn outlier_channels_cost_in_llama_cpp_what_plmconv_says() {
    let workspace = Workspace::new();
    assert_eq!(compare(&twin(&workspace), &["q4_0", "q4_k_m", "q6_k", "q8_0"], &[], false), NONE);
}

#[test]
fn the_latent_layout_diverges_in_llama_cpp_as_plmconv_says() {
    let workspace = Workspace::new();
    for model in [fixtures().join("tiny-plm"), twin(&workspace)] {
        assert_eq!(compare(&model, &["q4", "q8_0"], LATENT, true), NONE);
    }
}

#[test]
fn guided_rounding_brings_a_file_nearer_in_llama_cpp() {
    let workspace = Workspace::new();
    let own = text();
    let calibrate = ["--calibrate", own.to_str().expect("a plain path"), "--calibration-ctx", "128"];
    let calibrated = workspace.tiny_plm("q4_k_m", &calibrate);

    // llama.cpp's own decoder makes a file of the same weights whose kernels do not round activations.
    let decoded = workspace.path("decoded.gguf");
    let options = QuantizeOptions { threads: 1, allow_requantize: true, ..QuantizeOptions::default() };
    quantize(&calibrated, &decoded, file_type("f32").expect("a file type"), &options)
        .unwrap_or_else(|error| panic!("{error}"));
    let (measured, judged) =
        (divergence_in_llama_cpp(&decoded, false), judged_by_plmconv(&calibrated).weights_alone);
    assert!((measured / judged - 1.0).abs() < 0.01, "{measured} in llama.cpp, {judged} by plmconv");

    let imatrix = fixtures().join("golden/imatrix.gguf");
    let peer = workspace.path("peer.gguf");
    let more = ["--imatrix", imatrix.to_str().expect("a plain path")];
    converter::quantize("q4_k_m", &fixtures().join("tiny-plm"), &peer, &more)
        .unwrap_or_else(|error| panic!("{error}"));
    let (ours, peer) = (divergence_in_llama_cpp(&calibrated, false), divergence_in_llama_cpp(&peer, false));
    assert!(ours < 0.8 * peer, "{ours} in llama.cpp as it is, {peer} with an importance matrix alone");
}
