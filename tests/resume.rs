//! Ctrl-C keeps what is finished, and `--resume` goes on with it to the same bytes.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use common::signals::{signalled, temporary_of};
use common::{calibration_text as text, copy_of_tiny_plm, names, plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use predicates::prelude::*;

/// Runs `args` and sends SIGINT once the temporary of `output` has data where its first tensor is (at `offset`).
/// False if the command was done before.
fn interrupted(args: &[String], output: &Path, offset: u64) -> bool {
    let Some(status) = signalled(plmconv().args(args), "-INT", || has_data(output, offset)) else {
        return false;
    };
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    status.code() == Some(130)
}

fn has_data(output: &Path, offset: u64) -> bool {
    let bytes = temporary_of(output).and_then(|path| std::fs::read(path).ok()).unwrap_or_default();
    bytes.get(offset as usize..).is_some_and(|data| data.iter().any(|&byte| byte != 0))
}

fn partial(output: &Path) -> PathBuf {
    output.with_file_name(format!("{}.partial", output.file_name().expect("a name").to_string_lossy()))
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
    let windows = [4, 16, 32].into_iter().find(|&windows| {
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
    let model = copy_of_tiny_plm(dir.path());
    run(&calibration(&path("stats.gguf"), 4), &[]).success();
    let quantize = |output: &Path, extra: &[&str]| {
        let mut args = strings(&["quantize", "q4_0", "-j", "1", "--stats"]);
        args.extend([path("stats.gguf"), model.clone()].map(|path| path.display().to_string()));
        args.extend(strings(extra));
        args.extend(["-o".into(), output.display().to_string()]);
        args
    };
    let (whole, parts) = (path("whole.gguf"), path("parts.gguf"));
    run(&quantize(&whole, &[]), &[]).success();
    assert!(interrupted(&quantize(&parts, &[]), &parts, first_offset(&whole)), "while there was work left");
    let left = ["parts.gguf.partial", "stats.gguf", "tiny-plm", "whole.gguf"];
    assert_eq!(names(dir.path()), left);
    let kept = std::fs::read(partial(&parts)).expect("kept");
    let is_as_it_was = || {
        assert_eq!(names(dir.path()), left);
        assert!(std::fs::read(partial(&parts)).expect("kept") == kept, "kept work was touched");
    };

    for other in [&["--tensor-type", "blk.5.ffn_down=q8_0"], &["--effort", "max"]] {
        let other = quantize(&parts, &[&other[..], &["--resume"]].concat());
        run(&other, &[]).code(2).stderr(predicate::str::contains("other arguments"));
        is_as_it_was();
    }

    // A part, and the journal, that are not what was written.
    for at in [first_offset(&whole) as usize, kept.len() - 60] {
        let mut damaged = kept.clone();
        damaged[at] ^= 1;
        std::fs::write(partial(&parts), &damaged).expect("writable");
        run(&quantize(&parts, &["--resume"]), &[]).code(1).stderr(predicate::str::contains("damaged"));
        assert!(std::fs::read(partial(&parts)).expect("kept") == damaged, "left alone");
    }
    std::fs::write(partial(&parts), &kept).expect("writable");

    // A kill that nothing can be done about, when the kept work was taken.
    let killed = signalled(plmconv().args(quantize(&parts, &["--resume"])), "-KILL", || {
        temporary_of(&parts).is_some()
    });
    if killed.is_some_and(|status| !status.success()) {
        assert!(std::fs::read(partial(&parts)).expect("kept") == kept, "a kill loses nothing");
        // The next run would remove it, but not before it could be taken for that run's.
        std::fs::remove_file(temporary_of(&parts).expect("a leftover")).expect("removed");
    } else {
        std::fs::remove_file(&parts).expect("complete");
        std::fs::write(partial(&parts), &kept).expect("writable");
    }

    // Starting over says what it does not take, and interrupted it leaves it there.
    let over = quantize(&parts, &["--tensor-type", "blk.5.ffn_down=q8_0"]);
    if interrupted(&over, &parts, first_offset(&whole)) {
        is_as_it_was();
    } else {
        std::fs::remove_file(&parts).expect("complete");
        std::fs::write(partial(&parts), &kept).expect("writable");
    }
    let said = predicate::str::contains("warning").and(predicate::str::contains("parts.gguf.partial"));
    run(&over, &["--dry-run"]).success();
    is_as_it_was();

    // Threads do not matter, and a second interruption keeps what the first had kept.
    let resume = quantize(&parts, &["--resume"]);
    if interrupted(&resume, &parts, first_offset(&whole)) {
        assert_eq!(names(dir.path()), left);
        run(&resume, &[]).success();
    }
    assert_eq!(names(dir.path()), ["parts.gguf", "stats.gguf", "tiny-plm", "whole.gguf"]);
    assert_eq!(std::fs::read(&whole).expect("file"), std::fs::read(&parts).expect("file"));

    // What was kept goes only with a complete output, and never with that of a source that changed meanwhile.
    std::fs::write(partial(&parts), &kept).expect("writable");
    let weights = std::fs::File::options().append(true).open(model.join("model.safetensors")).expect("open");
    weights.set_modified(std::time::UNIX_EPOCH).expect("a time");
    run(&quantize(&parts, &["--resume", "--force"]), &[])
        .code(2)
        .stderr(predicate::str::contains("another model"));
    run(&quantize(&parts, &["--force", "--effort", "fast"]), &[]).success().stderr(said);
    assert_eq!(names(dir.path()), ["parts.gguf", "stats.gguf", "tiny-plm", "whole.gguf"]);
}

#[test]
fn statistics_of_an_interrupted_quantization_are_used_again() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (whole, parts) = (dir.path().join("whole.gguf"), dir.path().join("parts.gguf"));
    let quantize = |output: &Path, extra: &[&str]| {
        let mut args = strings(&["quantize", "q4_0", "-q", "-j", "1", "--calibration-ctx", "64"]);
        args.extend(strings(&["--calibration-chunks", "4", "--calibrate"]));
        args.extend([text(), tiny_plm()].map(|path| path.display().to_string()));
        args.extend(strings(extra));
        args.extend(["-o".into(), output.display().to_string()]);
        args
    };
    run(&quantize(&whole, &[]), &[]).success();
    assert!(interrupted(&quantize(&parts, &[]), &parts, first_offset(&whole)), "while there was work left");
    let left = ["parts.gguf.partial", "parts.gguf.partial.statistics", "whole.gguf"];
    assert_eq!(names(dir.path()), left);
    let kept = std::fs::read(dir.path().join(left[1])).expect("kept");

    // Another calibration's statistics are not theirs; one that fails, or starts over, leaves them.
    run(&quantize(&parts, &["--resume", "--seed", "1"]), &[]).code(2).stderr(
        predicate::str::contains("parts.gguf.partial.statistics").and(predicate::str::contains("--resume")),
    );
    let full = quantize(&parts, &["--resume", "--tensor-type", "no_such=q8_0"]);
    run(&full, &[]).code(2).stderr(predicate::str::contains("matches no tensor"));
    let over = quantize(&parts, &["--seed", "1"]);
    run(&over, &["--tensor-type", "no_such=q8_0"]).code(2);
    assert_eq!(names(dir.path()), left);
    run(&quantize(&parts, &["--resume", "--dry-run"]), &[]).success();
    assert_eq!(names(dir.path()), left);
    assert_eq!(std::fs::read(dir.path().join(left[1])).expect("kept"), kept);

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

#[test]
fn a_signal_while_types_are_measured_keeps_the_statistics() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (whole, parts) = (dir.path().join("whole.gguf"), dir.path().join("parts.gguf"));
    let quantize = |output: &Path, extra: &[&str]| {
        let mut args = strings(&["quantize", "auto", "--target-bpw", "4.5", "-q"]);
        args.extend(strings(&["--calibration-ctx", "64", "--calibration-chunks", "4", "--calibrate"]));
        args.extend([text(), tiny_plm()].map(|path| path.display().to_string()));
        args.extend(strings(extra));
        args.extend(["-o".into(), output.display().to_string()]);
        args
    };
    let interrupted = |args: &[String], measured: &str| {
        let mut command = plmconv();
        command.args(args).args(["-j", "1"]);
        let status = signalled(&command, "-INT", || dir.path().join(measured).is_file());
        assert_eq!(status.and_then(|status| status.code()), Some(130), "measuring takes a while");
    };
    interrupted(&quantize(&parts, &[]), "parts.gguf.partial.statistics");
    assert_eq!(names(dir.path()), ["parts.gguf.partial.statistics"]);
    // A run that starts over stops as orderly: what it measured goes, what was kept before stays.
    interrupted(&quantize(&parts, &["--seed", "1"]), "parts.gguf.partial.new.statistics");
    assert_eq!(names(dir.path()), ["parts.gguf.partial.statistics"]);

    run(&quantize(&whole, &[]), &[]).success();
    run(&quantize(&parts, &["--resume"]), &[]).success();
    assert_eq!(names(dir.path()), ["parts.gguf", "whole.gguf"]);
    assert_eq!(std::fs::read(&whole).expect("file"), std::fs::read(&parts).expect("file"));
}
