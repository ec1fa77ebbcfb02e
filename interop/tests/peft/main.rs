//! Adapters that peft makes, merged by plmconv and by peft.
//!
//! Needs a Python with the packages of interop/python/requirements.txt, named by `PLMCONV_PYTHON`; `.ci/run` prepares it.

use std::path::Path;
use std::process::Command;

use plmconv_interop::{converter, golden};
use safetensors::{Dtype, SafeTensors};

/// Of the largest value of a tensor: two roundings of f32, and the order of a short sum.
const TOLERANCE: f32 = 3e-7;

fn run(command: &mut Command) {
    converter::stdout_of(command).unwrap_or_else(|error| panic!("{error}"));
}

fn floats(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let view = file.tensor(name).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(view.dtype(), Dtype::F32, "{name}");
    view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// Fails if any tensor of the merged checkpoint is not peft's.
fn compare(case: &str) {
    let python = std::env::var_os("PLMCONV_PYTHON").expect("PLMCONV_PYTHON names a Python with peft");
    let base = golden::fixtures().join("tiny-plm");
    let folder = tempfile::tempdir().expect("the system's temporary folder is writable");
    let path = |name: &str| folder.path().join(name);
    let (adapter, theirs, ours) = (path("adapter"), path("theirs.safetensors"), path("ours"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/merge_lora.py");
    run(Command::new(python)
        .env("HF_HUB_OFFLINE", "1")
        .arg(script)
        .arg(&base)
        .arg(case)
        .arg(&adapter)
        .arg(&theirs));
    let mut command = Command::new(converter::plmconv());
    command.arg("convert").arg(&base).args(["--to", "safetensors", "--dtype", "f32", "--lora"]).arg(&adapter);
    run(command.arg("-o").arg(&ours));

    let read =
        |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (theirs, ours) = (read(&theirs), read(&ours.join("model.safetensors")));
    let theirs = SafeTensors::deserialize(&theirs).expect("peft's weights");
    let ours = SafeTensors::deserialize(&ours).expect("our weights");
    for name in ours.names() {
        let (found, expected) = (floats(&ours, name), floats(&theirs, name));
        assert_eq!(found.len(), expected.len(), "{case}: {name}");
        let largest = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
        let difference = found
            .iter()
            .zip(&expected)
            .fold(0.0f32, |worst, (ours, theirs)| worst.max((ours - theirs).abs()));
        assert!(difference <= TOLERANCE * largest, "{case}: {name}: {difference} of {largest}");
    }
}

#[test]
fn products_are_equal() {
    compare("plain");
}

#[test]
fn rs_lora_is_equal() {
    compare("rslora");
}

#[test]
fn patterns_are_equal() {
    compare("patterns");
}

#[test]
fn saved_modules_are_equal() {
    compare("saved");
}

#[test]
fn embeddings_are_equal() {
    compare("embedding");
}
