//! Files rounded by statistics are as near to the model in llama.cpp as our evaluator says, and nearer than
//! llama-quantize's.

use std::path::Path;
use std::process::Command;

use plmconv_interop::converter::{self, plmconv};
use plmconv_interop::golden::{distance, fixtures};
use plmconv_interop::quantize::{QuantizeOptions, file_type, quantize};

use super::{Workspace, context, load};

const WINDOW: usize = 128;

fn text() -> std::path::PathBuf {
    fixtures().join("text/own.txt")
}

/// What `plmconv validate` says of a file: mean divergence from the checkpoint.
fn judged_by_plmconv(file: &Path) -> f64 {
    let mut command = Command::new(plmconv());
    command.arg("validate").arg(file).arg("--against").arg(fixtures().join("tiny-plm"));
    command.arg("--text").arg(text()).args(["--ctx", &WINDOW.to_string(), "--max-kld", "1", "--json"]);
    let report = converter::stdout_of(&mut command).unwrap_or_else(|error| panic!("{error}"));
    let report: serde_json::Value = serde_json::from_str(&report).expect("--json writes JSON");
    report["kl_divergence"]["mean"].as_f64().expect("a number")
}

/// llama.cpp's logits of a file at the positions that `plmconv validate` scores, and the vocabulary's size.
fn logits_in_llama_cpp(file: &Path) -> (Vec<f32>, usize) {
    let model = load(file);
    let (mut context, vocab) = (context(&model), model.vocab_size());
    let text = std::fs::read_to_string(text()).expect("a fixture");
    let tokens = model.tokenize(&text, false, false).expect("plain text");
    assert!(tokens.len() >= 4 * WINDOW, "{} tokens are too few", tokens.len());
    let scored = tokens.chunks_exact(WINDOW).flat_map(|window| {
        let logits = context.logits_of(window).unwrap_or_else(|error| panic!("{error}"));
        logits[WINDOW / 2 * vocab..(WINDOW - 1) * vocab].to_vec()
    });
    (scored.collect(), vocab)
}

fn divergence(reference: &[f32], file: &Path) -> f64 {
    let (logits, vocab) = logits_in_llama_cpp(file);
    distance(reference, &logits, vocab).mean_kl
}

#[test]
fn the_divergence_in_llama_cpp_is_the_one_our_evaluator_measures() {
    let workspace = Workspace::new();
    let (reference, _) = logits_in_llama_cpp(&workspace.tiny_plm("f32", &[]));
    let own = text();
    let calibrate = ["--calibrate", own.to_str().expect("a plain path"), "--calibration-ctx", "128"];
    let calibrated = workspace.tiny_plm("q4_k_m", &calibrate);
    let judged = judged_by_plmconv(&calibrated);

    // llama.cpp's kernels for quantized weights round activations to eight bits, which is an error of its own. Its own
    // decoder makes a file of the same weights whose kernels do not.
    let decoded = workspace.path("decoded.gguf");
    let options = QuantizeOptions { threads: 1, allow_requantize: true, ..QuantizeOptions::default() };
    quantize(&calibrated, &decoded, file_type("f32").expect("a file type"), &options)
        .unwrap_or_else(|error| panic!("{error}"));
    let measured = divergence(&reference, &decoded);
    assert!((measured / judged - 1.0).abs() < 0.01, "{measured} in llama.cpp, {judged} by plmconv");

    let imatrix = fixtures().join("golden/imatrix.gguf");
    let peer = workspace.path("peer.gguf");
    let more = ["--imatrix", imatrix.to_str().expect("a plain path")];
    converter::quantize("q4_k_m", &fixtures().join("tiny-plm"), &peer, &more)
        .unwrap_or_else(|error| panic!("{error}"));
    let (ours, peer) = (divergence(&reference, &calibrated), divergence(&reference, &peer));
    assert!(ours < 0.8 * peer, "{ours} in llama.cpp as it is, {peer} with an importance matrix alone");
}
