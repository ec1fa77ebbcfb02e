//! ONNX Runtime makes of quantized weights what they stand for.
//!
//! The divergence from the source that ONNX Runtime's run has is within 2 % of the one that plmconv's evaluator finds
//! for the dequantized weights, which a script reads from the graph by the operators' published definitions.

use std::path::Path;

use serde_json::Value;

use super::{Flags, Workspace, own_text, plmconv, run, tiny_plm};

/// Mean KL divergence from the tiny PLM, in nats per token.
fn divergence(candidate: &Path) -> f64 {
    let mut command = plmconv();
    command.arg("validate").arg(candidate).arg("--against").arg(tiny_plm()).arg("--text").arg(own_text());
    // Limits that nothing exceeds: the number is wanted, not the verdict.
    command.args([
        "--ctx",
        "64",
        "--exact",
        "--json",
        "--max-kld",
        "9",
        "--max-ppl-ratio",
        "9",
        "--min-top1",
        "0",
    ]);
    let report: Value = serde_json::from_str(&run(&mut command)).expect("JSON");
    report["kl_divergence"]["mean"].as_f64().expect("a number")
}

fn check(file_type: &str, flags: Flags<'_>) {
    let workspace = Workspace::new();
    let export = workspace.quantize(file_type, &[flags, &["--accuracy-level", "0"]].concat());
    let (runtime, weights) = (divergence(&export), divergence(&workspace.dequantized(&export)));
    assert!(weights > 1e-6, "quantizing changed nothing: {weights}");
    let ratio = runtime / weights;
    assert!(
        (0.98..1.02).contains(&ratio),
        "{file_type} {flags:?}: {runtime} in ONNX Runtime, {weights} as weights"
    );
}

macro_rules! exports {
    ($($name:ident: $file_type:literal, $flags:expr;)*) => {$(
        #[test]
        fn $name() {
            check($file_type, &$flags);
        }
    )*};
}

exports! {
    latent_q4:            "q4", ["--profile", "latent"];
    latent_q4_asymmetric: "q4", ["--profile", "latent", "--asymmetric", "--block-size", "16"];
    latent_q4_qdq:        "q4", ["--profile", "latent", "--quant-format", "qdq"];
    latent_q8_qdq:        "q8", ["--profile", "latent", "--quant-format", "qdq", "--asymmetric"];
    genai_q4:             "q4", ["--profile", "genai", "--block-size", "64"];
    genai_q8:             "q8", ["--profile", "genai"];
    hf_q4:                "q4", ["--profile", "hf"];
    hf_q4_qdq_asymmetric: "q4", ["--profile", "hf", "--quant-format", "qdq", "--asymmetric"];
    hf_q8_asymmetric:     "q8", ["--profile", "hf", "--asymmetric", "--block-size", "128"];
    hf_q4_23:             "q4", ["--profile", "hf", "--opset", "23"];
}
