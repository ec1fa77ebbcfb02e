//! Ctrl-C keeps what is finished, and `--resume` goes on with it to the same bytes.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{names, plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use predicates::prelude::*;

/// A text of some thousand tokens that is always there.
fn text() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

/// Runs `args` and sends SIGINT once the temporary of `output` has data where its first tensor stands (at `offset`).
/// False if the command was done before.
fn interrupted(args: &[String], output: &Path, offset: u64) -> bool {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("plmconv"))
        .args(args)
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    while !has_data(output, offset) {
        if child.try_wait().expect("a child").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let signalled = Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    assert!(signalled.success());
    let status = child.wait().expect("ends");
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    status.code() == Some(130)
}

fn has_data(output: &Path, offset: u64) -> bool {
    let folder = output.parent().expect("a folder");
    let prefix = format!(".plmconv-{}.", output.file_name().expect("a name").to_string_lossy());
    // Not that of the statistics, whose name goes on after the output's.
    let is_its = |name: &str| {
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tmp"));
        random.is_some_and(|random| !random.contains('.'))
    };
    let temporary = names(folder).into_iter().find(|name| is_its(name));
    let bytes = temporary.and_then(|name| std::fs::read(folder.join(name)).ok()).unwrap_or_default();
    bytes.get(offset as usize..).is_some_and(|data| data.iter().any(|&byte| byte != 0))
}

fn first_offset(file: &Path) -> u64 {
    GgufFile::open(file).expect("a GGUF").tensors.first().expect("a tensor").data.offset()
}

fn strings(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| arg.to_string()).collect()
}

fn calibration(output: &Path, windows: usize) -> Vec<String> {
    let mut args = strings(&[
        "calibrate",
        "-q",
        "-j",
        "1",
        "--calibration-ctx",
        "64",
        "--self",
        "128",
        "--calibration-chunks",
    ]);
    args.extend([windows.to_string(), "--text".into(), text().display().to_string()]);
    args.extend([tiny_plm().display().to_string(), "-o".into(), output.display().to_string()]);
    args
}

fn run(args: &[String], extra: &[&str]) -> assert_cmd::assert::Assert {
    plmconv().args(args).args(extra).assert()
}

#[test]
fn calibration_goes_on_where_it_was_interrupted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (whole, parts) = (dir.path().join("whole.gguf"), dir.path().join("parts.gguf"));
    // More work if the machine was faster than the signal.
    let windows = [16, 32, 64, 128].into_iter().find(|&windows| {
        run(&calibration(&whole, windows), &["--force"]).success();
        let _ = std::fs::remove_file(&parts);
        interrupted(&calibration(&parts, windows), &parts, first_offset(&whole))
    });
    let windows = windows.expect("interrupted while there was work left");
    assert_eq!(names(dir.path()), ["parts.gguf.partial", "whole.gguf"]);

    // Other arguments: the kept work is not theirs.
    let mut other = calibration(&parts, windows);
    other.extend(strings(&["--seed", "1"]));
    run(&other, &["--resume"]).code(2).stderr(predicate::str::contains("other arguments"));
    assert_eq!(names(dir.path()), ["parts.gguf.partial", "whole.gguf"]);

    run(&calibration(&parts, windows), &["--resume"]).success();
    assert_eq!(names(dir.path()), ["parts.gguf", "whole.gguf"]);
    assert_eq!(std::fs::read(&whole).expect("file"), std::fs::read(&parts).expect("file"));
}

#[test]
fn quantizing_goes_on_where_it_was_interrupted() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = |name: &str| dir.path().join(name);
    run(&calibration(&path("stats.gguf"), 16), &[]).success();
    let quantize = |output: &Path, extra: &[&str]| {
        let mut args = strings(&["quantize", "q4_k_m", "-q", "-j", "1", "--stats"]);
        args.extend([path("stats.gguf"), tiny_plm()].map(|path| path.display().to_string()));
        args.extend(strings(extra));
        args.extend(["-o".into(), output.display().to_string()]);
        args
    };
    let (whole, parts) = (path("whole.gguf"), path("parts.gguf"));
    run(&quantize(&whole, &[]), &[]).success();
    assert!(interrupted(&quantize(&parts, &[]), &parts, first_offset(&whole)), "while there was work left");
    assert_eq!(names(dir.path()), ["parts.gguf.partial", "stats.gguf", "whole.gguf"]);

    let other = quantize(&parts, &["--tensor-type", "blk.5.ffn_down=q8_0", "--resume"]);
    run(&other, &[]).code(2).stderr(predicate::str::contains("other arguments"));
    let other = quantize(&parts, &["--effort", "max", "--resume"]);
    run(&other, &[]).code(2).stderr(predicate::str::contains("other arguments"));
    assert!(path("parts.gguf.partial").exists());

    // Threads do not matter, and a second interruption keeps what the first had kept.
    let again = interrupted(&quantize(&parts, &["--resume"]), &parts, first_offset(&whole));
    if again {
        assert_eq!(names(dir.path()), ["parts.gguf.partial", "stats.gguf", "whole.gguf"]);
        run(&quantize(&parts, &["--resume"]), &[]).success();
    }
    assert_eq!(names(dir.path()), ["parts.gguf", "stats.gguf", "whole.gguf"]);
    assert_eq!(std::fs::read(&whole).expect("file"), std::fs::read(&parts).expect("file"));
}

#[test]
fn statistics_of_an_interrupted_quantization_are_used_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (whole, parts) = (dir.path().join("whole.gguf"), dir.path().join("parts.gguf"));
    let quantize = |output: &Path, extra: &[&str]| {
        let mut args = strings(&["quantize", "q4_0", "-q", "-j", "1", "--calibration-ctx", "64"]);
        args.extend(strings(&["--calibration-chunks", "16", "--calibrate"]));
        args.extend([text(), tiny_plm()].map(|path| path.display().to_string()));
        args.extend(strings(extra));
        args.extend(["-o".into(), output.display().to_string()]);
        args
    };
    run(&quantize(&whole, &[]), &[]).success();
    assert!(interrupted(&quantize(&parts, &[]), &parts, first_offset(&whole)), "while there was work left");
    assert_eq!(names(dir.path()), ["parts.gguf.partial", "parts.gguf.statistics", "whole.gguf"]);
    run(&quantize(&parts, &["--resume"]), &[]).success();
    assert_eq!(names(dir.path()), ["parts.gguf", "whole.gguf"]);
    assert_eq!(std::fs::read(&whole).expect("file"), std::fs::read(&parts).expect("file"));
}

#[test]
fn without_kept_work_resuming_starts_from_the_beginning() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (one, two) = (dir.path().join("one.gguf"), dir.path().join("two.gguf"));
    run(&calibration(&one, 2), &[]).success();
    run(&calibration(&two, 2), &["--resume"]).success();
    assert_eq!(std::fs::read(&one).expect("file"), std::fs::read(&two).expect("file"));
    run(&calibration(&two, 2), &["--resume"]).code(1).stderr(predicate::str::contains("--force"));
    // A file of that name that is not ours is neither taken nor removed.
    std::fs::write(dir.path().join("two.gguf.partial"), b"notes").expect("writable");
    run(&calibration(&two, 2), &["--resume", "--force"])
        .failure()
        .stderr(predicate::str::contains("damaged"));
    run(&calibration(&two, 2), &["--force"]).success();
    assert_eq!(names(dir.path()), ["one.gguf", "two.gguf", "two.gguf.partial"]);
}
