//! What the integration tests share: the binary, the fixture, checkpoints written on the fly.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod adapter;
pub mod checkpoint;
pub mod hub_server;
pub mod outliers;
#[cfg(unix)]
pub mod signals;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::hex;
use plmconv_formats::source::RowSource;
use serde_json::Value;
use sha2::{Digest, Sha256};

pub fn plmconv() -> Command {
    let mut command = Command::cargo_bin("plmconv").expect("the binary is built with the tests");
    // What looks like a model's name on the hub is not looked for there.
    command.env("HF_HUB_OFFLINE", "1");
    command
}

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

pub fn tiny_plm() -> PathBuf {
    fixtures().join("tiny-plm")
}

/// Prose of our own, some two thousand tokens long: what it is does not change with the documentation.
pub fn calibration_text() -> PathBuf {
    fixtures().join("text/calibration.txt")
}

/// Statistics of the tiny PLM, from windows of 64 tokens: measured once for all tests of a file, which `name` identifies.
pub fn statistics(name: &str) -> PathBuf {
    let stats = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).with_extension("gguf");
    let mut command = plmconv();
    command.arg("calibrate").arg(tiny_plm()).arg("--text").arg(calibration_text());
    command.args(["--force", "--calibration-ctx", "64", "--calibration-chunks", "12", "-o"]).arg(&stats);
    command.assert().success();
    stats
}

/// What a command writes as JSON on stdout.
pub fn json(command: &mut Command) -> Value {
    let output = command.arg("--json").assert().success().get_output().stdout.clone();
    serde_json::from_slice(&output).expect("JSON")
}

/// A writable copy of the tiny PLM, to be damaged.
pub fn copy_of_tiny_plm(into: &Path) -> PathBuf {
    let folder = into.join("tiny-plm");
    std::fs::create_dir(&folder).expect("create");
    for entry in std::fs::read_dir(tiny_plm()).expect("fixture") {
        let entry = entry.expect("entry");
        std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("copy");
    }
    folder
}

/// A tensor's bytes in a GGUF file.
pub fn tensor_bytes(file: &GgufFile, name: &str) -> Vec<u8> {
    let data = &file.tensor(name).unwrap_or_else(|| panic!("{name} is missing")).data;
    let mut bytes = Vec::new();
    data.read_rows(0..data.rows(), &mut bytes).expect("readable");
    bytes
}

/// For each tensor of a GGUF: type, shape in ggml's order, sha256 of its bytes.
pub fn digests(path: &Path) -> BTreeMap<String, (String, Vec<usize>, String)> {
    let file = GgufFile::open(path).expect("a GGUF");
    file.tensors
        .iter()
        .map(|t| {
            let shape = t.shape.iter().rev().copied().collect();
            let digest = hex(Sha256::digest(tensor_bytes(&file, &t.name)));
            (t.name.clone(), (t.data.dtype().name().to_string(), shape, digest))
        })
        .collect()
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
