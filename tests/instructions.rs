//! The same input and arguments give the same bytes by whichever instructions they are computed.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{plmconv, tiny_plm};
use plmconv_formats::hex;
use plmconv_quant::simd::Level;
use predicates::prelude::*;
use sha2::{Digest, Sha256};

/// Text of the model's own is written, so the evaluator's logits decide bytes as well.
const CALIBRATE: [&str; 8] = ["calibrate", "--self", "96", "--calibration-ctx", "32", "--seed", "7", "-q"];

const GUIDED: [&str; 4] = ["quantize", "-q", "--stats", "statistics.gguf"];
/// Rounding with feedback takes long: what is left out of it keeps its precision.
const FIRST_LAYER: [&str; 4] = ["--tensor-type", r"blk\.[1-9]=f16", "--token-embedding-type", "f16"];

/// Every command whose output lasts, from the tiny PLM into `folder`.
fn write_all(level: Level, folder: &Path) {
    let run = |arguments: &[&str], output: &str| {
        let mut command = plmconv();
        command.env("PLMCONV_SIMD", level.name()).current_dir(folder).args(arguments);
        command.arg(tiny_plm()).args(["-o", output]).assert().success();
    };
    run(&CALIBRATE, "statistics.gguf");
    run(&["quantize", "q4_k_m", "-q"], "plain.gguf");
    run(&[&GUIDED[..], &["q4_k_m", "--effort", "normal"], &FIRST_LAYER].concat(), "guided.gguf");
    run(&[&GUIDED[..], &["auto", "--effort", "fast", "--target-bpw", "4.6"]].concat(), "budget.gguf");
    run(&["quantize", "q4", "--to", "onnx", "-q"], "onnx");
}

/// sha256 of every file below `folder`, by its path there.
fn digests(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(
                digests(&path).into_iter().map(|(below, digest)| (format!("{name}/{below}"), digest)),
            );
        } else {
            found.insert(name, hex(Sha256::digest(std::fs::read(&path).expect("a file"))));
        }
    }
    found
}

#[test]
fn every_instruction_set_writes_the_same_bytes() {
    let written = Level::available().map(|level| {
        let dir = tempfile::tempdir().expect("tempdir");
        write_all(level, dir.path());
        (level, digests(dir.path()))
    });
    let written: Vec<_> = written.collect();
    let (_, expected) = &written[0];
    assert!(expected.len() > 4, "four files and a folder: {expected:?}");
    for (level, found) in &written {
        assert_eq!(found, expected, "{level}");
    }
}

#[test]
fn an_instruction_set_that_is_not_there_is_a_usage_error() {
    let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
    for (name, message) in [(foreign, "does not have"), ("sse9", "unknown instruction set")] {
        let mut command = plmconv();
        command.env("PLMCONV_SIMD", name).arg("inspect").arg(tiny_plm());
        command.assert().code(2).stderr(predicate::str::contains(message));
    }
}
