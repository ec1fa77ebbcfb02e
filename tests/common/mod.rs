//! What the integration tests share: the binary, the fixture, checkpoints written on the fly.
#![allow(dead_code, reason = "each test file uses its own part")]

pub mod checkpoint;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::source::RowSource;
use sha2::{Digest, Sha256};

pub fn plmconv() -> Command {
    Command::cargo_bin("plmconv").expect("the binary is built with the tests")
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
            let digest = hex(&Sha256::digest(tensor_bytes(&file, &t.name)));
            (t.name.clone(), (t.data.dtype().name().to_string(), shape, digest))
        })
        .collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// What a run that writes `output` works on until it is complete, a file or a folder.
pub fn temporary_of(output: &Path) -> Option<PathBuf> {
    let folder = output.parent().expect("a folder");
    let prefix = format!(".plmconv-{}.", output.file_name().expect("a name").to_string_lossy());
    // Not that of an output whose name goes on after this one's.
    let is_its = |name: &String| {
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tmp"));
        random.is_some_and(|random| !random.contains('.'))
    };
    names(folder).into_iter().find(is_its).map(|name| folder.join(name))
}

/// Sends `signal` (`-INT`) to a child.
#[cfg(unix)]
pub fn send(signal: &str, child: &std::process::Child) {
    let mut kill = std::process::Command::new("kill");
    assert!(kill.args([signal, &child.id().to_string()]).status().expect("kill").success());
}

/// Runs plmconv and sends it `signal` as soon as it is `ready`; how it ended, or `None` if it was done before.
#[cfg(unix)]
pub fn signalled(
    args: &[impl AsRef<std::ffi::OsStr>],
    signal: &str,
    ready: impl Fn() -> bool,
) -> Option<std::process::ExitStatus> {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("plmconv"));
    let mut child = command.args(args).stderr(std::process::Stdio::null()).spawn().expect("starts");
    while !ready() {
        if child.try_wait().expect("a child").is_some() {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    send(signal, &child);
    Some(child.wait().expect("ends"))
}

/// Names in a folder, sorted.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("folder");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
