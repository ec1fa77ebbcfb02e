//! Models in the Hugging Face hub's cache, whose files are links and whose folders are named after commits.
#![cfg(unix)]

mod common;

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use common::{names, plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use predicates::prelude::*;

const COMMIT: &str = "3f2a9c0d1e4b5a6978877665544332211ffeedcc";

/// The tiny PLM as `huggingface-cli download PLM-Team/PLM-1.8B-Instruct` would leave it: the model's folder.
fn cached(dir: &Path) -> PathBuf {
    let folder = dir.join("hub/models--PLM-Team--PLM-1.8B-Instruct");
    let (blobs, snapshot) = (folder.join("blobs"), folder.join("snapshots").join(COMMIT));
    for path in [&blobs, &snapshot, &folder.join("refs")] {
        std::fs::create_dir_all(path).expect("create");
    }
    for (number, name) in names(&tiny_plm()).into_iter().enumerate() {
        let blob = format!("{number:040x}");
        std::fs::copy(tiny_plm().join(&name), blobs.join(&blob)).expect("copy");
        symlink(Path::new("../../blobs").join(blob), snapshot.join(name)).expect("link");
    }
    std::fs::write(folder.join("refs/main"), COMMIT).expect("write");
    folder
}

#[test]
fn a_snapshot_goes_by_its_models_name_however_it_is_spelled() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = cached(dir.path());
    let snapshot = folder.join("snapshots").join(COMMIT);
    symlink(&snapshot, dir.path().join("latest")).expect("link");
    let here = dir.path().join("here");
    let spellings = [
        (dir.path(), snapshot.clone()),
        (dir.path(), snapshot.join("")),
        (dir.path(), dir.path().join("latest")),
        (dir.path(), folder.clone()),
        (snapshot.as_path(), PathBuf::from(".")),
        (folder.as_path(), Path::new("snapshots").join(COMMIT)),
    ];
    for (from, model) in spellings {
        // The default output lies in the current folder, so that a snapshot gets one that has to go again.
        let made = from.join("PLM-1.8B-Instruct-q8_0.gguf");
        plmconv().current_dir(from).args(["quantize", "q8_0"]).arg(&model).assert().success();
        std::fs::rename(&made, &here).unwrap_or_else(|_| panic!("{}: {:?}", model.display(), names(from)));
        let metadata = GgufFile::open(&here).expect("a GGUF").metadata;
        let general = |key: &str| metadata.string(&format!("general.{key}")).unwrap_or_default().to_string();
        assert_eq!(general("name"), "PLM 1.8B Instruct", "{}", model.display());
        // The tiny PLM is far from 1.8 billion weights, which so is no size.
        assert_eq!(general("finetune"), "1.8b-Instruct", "{}", model.display());
        assert_eq!(general("organization"), "PLM Team", "{}", model.display());
    }
}

#[test]
fn a_gguf_in_the_cache_goes_by_its_own_name() {
    let dir = tempfile::tempdir().expect("tempdir");
    let snapshot = cached(dir.path()).join("snapshots").join(COMMIT);
    let blob = dir.path().join("0123abcd");
    plmconv().args(["convert", "--to", "gguf"]).arg(tiny_plm()).arg("-o").arg(&blob).assert().success();
    symlink(&blob, snapshot.join("tiny-f16.gguf")).expect("link");
    let model = snapshot.join("tiny-f16.gguf");
    plmconv().current_dir(dir.path()).args(["quantize", "q8_0"]).arg(&model).assert().success();
    assert!(dir.path().join("tiny-f16-q8_0.gguf").is_file(), "{:?}", names(dir.path()));
}

#[test]
fn a_models_folder_that_does_not_tell_its_snapshot_is_refused() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = cached(dir.path());
    std::fs::create_dir(folder.join("snapshots/0000")).expect("create");
    plmconv().arg("inspect").arg(&folder).assert().success();
    std::fs::remove_file(folder.join("refs/main")).expect("remove");
    plmconv()
        .arg("inspect")
        .arg(&folder)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("2 snapshots").and(predicate::str::contains(COMMIT)));
}
