//! What can be known before the work is said before it, and so are flags that change nothing.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use assert_cmd::Command;
use common::{copy_of_tiny_plm, fixtures, names, plmconv, tiny_plm};
use predicates::prelude::*;
use tempfile::TempDir;

/// Far less than what the commands here would take if they began.
const AT_ONCE: Duration = Duration::from_secs(60);

fn text() -> PathBuf {
    fixtures().join("text/own.txt")
}

fn dir() -> TempDir {
    tempfile::tempdir().expect("tempdir")
}

fn command(words: &str) -> Command {
    let mut command = plmconv();
    command.args(words.split(' ')).timeout(AT_ONCE);
    command
}

/// Every command that writes to `-o`, on a model that is not there: what names the output came before all else.
fn writers() -> Vec<(&'static str, Command)> {
    let lines = [
        "quantize q4 no-model",
        "quantize q4 no-model --split-max-size 1M",
        "quantize auto no-model --target-size 4M --self 1000000",
        "quantize q4 no-model --stats no-stats",
        "quantize q4 no-model --imatrix no-imatrix",
        "quantize q4 no-model --validate no-text",
        "quantize q4 no-model --layout latent --calibrate no-text",
        "convert no-model --to gguf",
        "calibrate no-model --text no-text",
        "calibrate --merge no-stats",
        "reference no-model --text no-text",
    ];
    lines.into_iter().map(|line| (line, command(line))).collect()
}

#[test]
fn a_place_that_cannot_be_written_is_told_before_anything_is_read() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("there"), b"mine").expect("write");
    std::fs::create_dir(path("folder")).expect("folder");
    let cases = [
        ("there", "there already exists"),
        ("folder", "it is a folder"),
        ("new/", "it is the name of a folder"),
        ("no/such/out", "no/such: no such file or folder"),
        ("there/out", "there"),
    ];
    for (output, said) in cases {
        for (line, mut command) in writers() {
            // The name of a set is not the name of any of its files.
            if line.contains("split") && ["there", "folder", "new/"].contains(&output) {
                continue;
            }
            let assert = command.arg("-o").arg(path(output)).assert();
            assert.code(1).stdout("").stderr(predicate::str::contains(said).and(calm()));
        }
    }
    std::fs::create_dir(path("precious")).expect("folder");
    std::fs::write(path("precious/notes"), b"mine").expect("write");
    for (output, said) in [
        ("there", "it is not a folder"),
        ("precious", "no ONNX graph"),
        ("no/such/out", "no/such: no such file or folder"),
    ] {
        for line in [
            "convert no-model --to onnx",
            "quantize q4 no-model --to onnx",
            "quantize q4 no-model --to onnx --self 1000000",
            "quantize q4 no-model --to onnx --stats no-stats",
        ] {
            let assert = command(line).arg("-o").arg(path(output)).assert();
            assert.code(1).stdout("").stderr(predicate::str::contains(said).and(calm()));
        }
    }
    assert_eq!(names(dir.path()), ["folder", "precious", "there"]);
}

/// No work is reported.
fn calm() -> impl Predicate<str> {
    predicate::str::contains("calibrated").or(predicate::str::contains("no-model")).not()
}

#[test]
fn a_default_name_is_checked_as_early() {
    let dir = dir();
    copy_of_tiny_plm(dir.path());
    for (line, taken) in [
        ("quantize q4 tiny-plm --self 1000000", "tiny-plm-q4_k_m.gguf"),
        ("quantize auto tiny-plm --target-bpw 4 --self 1000000", "tiny-plm-auto.gguf"),
        ("quantize q8 tiny-plm --layout latent --self 1000000", "tiny-plm-latent-q8_0.gguf"),
        ("convert tiny-plm --to gguf", "tiny-plm-converted.gguf"),
    ] {
        std::fs::write(dir.path().join(taken), b"mine").expect("write");
        let assert = command(line).current_dir(dir.path()).assert();
        assert.code(1).stdout("").stderr(predicate::str::contains(format!("{taken} already exists")));
        std::fs::remove_file(dir.path().join(taken)).expect("remove");
    }
}

#[test]
fn a_report_that_cannot_be_written_is_told_before_anything_is_read() {
    let dir = dir();
    std::fs::create_dir(dir.path().join("folder")).expect("folder");
    for flag in ["--html", "--markdown", "--junit"] {
        for (output, said) in [
            ("folder", "it is a folder"),
            ("new/", "it is the name of a folder"),
            ("no/such/report", "no/such: no such file or folder"),
        ] {
            let mut command = command("validate no-model --against no-reference --text no-text");
            let assert = command.arg(flag).arg(dir.path().join(output)).assert();
            assert.code(1).stdout("").stderr(predicate::str::contains(said).and(calm()));
        }
    }
    assert_eq!(names(dir.path()), ["folder"]);
}

/// `quantize … --self 1000000`, which would take hours.
fn endless(line: &str) -> Command {
    let mut command = command(&format!("{line} --self 1000000 -o out.gguf"));
    command.arg(tiny_plm());
    command
}

#[test]
fn what_would_fail_after_the_calibration_fails_before_it() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("latin"), b"caf\xe9").expect("write");
    std::fs::write(path("short"), b"Too short.").expect("write");
    let refuse = |line: &str, code: i32, said: &str| {
        let assert = endless(line).current_dir(dir.path()).assert();
        assert.code(code).stdout("").stderr(predicate::str::contains(said).and(calm()));
    };
    refuse("quantize q4 --validate latin", 1, "not UTF-8");
    refuse("quantize q4 --validate nowhere", 1, "nowhere");
    refuse("quantize q4 --validate short", 1, "does not fit");
    refuse("quantize q4 --calibrate latin", 1, "not UTF-8");
    refuse("quantize q4 --tensor-type nowhere=q8_0", 2, "matches no tensor");
    refuse("quantize auto --target-bpw 4 --tensor-type nowhere=q8_0", 2, "matches no tensor");
    refuse("quantize q4 --layout latent --tensor-type nowhere=q8_0", 2, "matches no tensor");
    refuse("quantize auto --target-bpw 0", 2, "--target-bpw 0");
    refuse("quantize q4 --tensor-type-file nowhere", 1, "nowhere");
    let onnx = |line: &str, said: &str| {
        let mut command = endless(line);
        command.current_dir(dir.path()).assert().code(2).stdout("").stderr(predicate::str::contains(said));
    };
    onnx("quantize q4 --to onnx --tensor-type nowhere=q8", "matches no tensor");
    assert_eq!(names(dir.path()), ["latin", "short"]);
}

#[test]
fn a_tokenizer_that_no_gguf_can_name_is_told_before_the_calibration() {
    let dir = dir();
    let folder = copy_of_tiny_plm(dir.path());
    let tokenizer = folder.join("tokenizer.json");
    let text = std::fs::read_to_string(&tokenizer).expect("read");
    let mut json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "[a-z]{3}".into();
    std::fs::write(&tokenizer, json.to_string()).expect("write");
    let mut command = command("quantize q4 tiny-plm --self 1000000");
    command.current_dir(dir.path()).assert().code(1).stderr(predicate::str::contains("[a-z]{3}"));
}

#[test]
fn a_place_for_a_rejected_file_is_checked_before_the_work() {
    let dir = dir();
    std::fs::create_dir(dir.path().join("out.gguf.rejected")).expect("folder");
    let mut command = command("quantize q4_0 -o out.gguf --validate-ctx 64 --max-kld 1e-9");
    command.arg(tiny_plm()).arg("--validate").arg(text()).current_dir(dir.path());
    command.assert().code(1).stdout("").stderr(predicate::str::contains("it is a folder"));
    assert_eq!(names(dir.path()), ["out.gguf.rejected"]);
}

#[test]
fn both_sides_of_a_validation_are_looked_at_before_one_is_run() {
    let dir = dir();
    std::fs::write(dir.path().join("notes.safetensors"), b"notes").expect("write");
    for (reference, said) in [
        ("nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("notes.safetensors", "notes.safetensors"),
        ("nowhere", "nowhere: no such file"),
    ] {
        let mut command = command("validate");
        command.arg(tiny_plm()).args(["--against", reference]).current_dir(dir.path());
        command.assert().code(1).stdout("").stderr(predicate::str::contains(said));
    }
}

/// Expects that `line` says of exactly these flags that they have no effect.
fn idle(line: &str, model: &Path, flags: &[&str]) {
    let output = command(line).arg(model).assert().get_output().stderr.clone();
    let said = String::from_utf8(output).expect("UTF-8");
    let found: Vec<&str> = said
        .lines()
        .filter_map(|line| line.strip_prefix("warning: ")?.split_once(" has no effect").map(|(flag, _)| flag))
        .collect();
    assert_eq!(found, flags, "{line}: {said}");
}

#[test]
fn flags_without_effect_are_said() {
    let tiny = tiny_plm();
    let text = text().display().to_string();
    let stats = fixtures().join("golden/imatrix.gguf").display().to_string();
    idle("quantize q4 --dry-run", &tiny, &[]);
    idle("quantize q4 --dry-run --effort max --without rows", &tiny, &["--effort", "--without"]);
    idle("quantize q4 --dry-run --effort normal", &tiny, &["--effort"]);
    idle(&format!("quantize q4 --dry-run --imatrix {stats} --effort max"), &tiny, &["--effort"]);
    idle(
        "quantize q4 --dry-run --seed 0 --calibration-ctx 64 --calibration-chunks 4 --resume",
        &tiny,
        &["--calibration-ctx", "--seed", "--calibration-chunks", "--resume"],
    );
    idle("quantize q4 --dry-run -q --effort max", &tiny, &[]);
    idle(
        "quantize f16 --dry-run -o x.gguf --self 64 --calibration-ctx 64 --calibration-chunks 1 --effort fast \
         --without rows",
        &tiny,
        &["--without", "--calibration-chunks"],
    );
    idle(
        "quantize q4 --dry-run --to onnx --quant-format qdq --accuracy-level 0",
        &tiny,
        &["--accuracy-level"],
    );
    idle("quantize q4 --dry-run --to onnx --quant-format nbits --accuracy-level 0", &tiny, &[]);
    idle("inspect", &tiny, &[]);
    idle(
        "inspect --ctx 64 --chunks 1 -j 1 --kernel auto --arithmetic exact --exact --attention expanded",
        &tiny,
        &["--ctx", "--chunks", "--threads", "--kernel", "--arithmetic", "--exact", "--attention"],
    );
    idle(&format!("inspect -v --ctx 64 --chunks 2 --sparsity {text}"), &tiny, &["--verbose"]);
    let against = tiny.display();
    idle(
        &format!("validate --against {against} --text {text} --seed 1 --ctx 64 --chunks 2"),
        &tiny,
        &["--seed"],
    );
    let mut generate = command("generate -n 1 --seed 1");
    let said = predicate::str::contains("--seed has no effect with --temp 0");
    generate.arg(&tiny).arg("Hello").assert().success().stderr(said.clone());
    generate.args(["--temp", "1"]).assert().success().stderr(said.not());
}

#[test]
fn guidance_of_a_type_that_needs_none_is_said() {
    let imatrix = fixtures().join("golden/imatrix.gguf");
    for (file_type, said) in [("f16", true), ("q4", false)] {
        let mut command = command(&format!("quantize {file_type} --dry-run --imatrix"));
        let warned = predicate::str::contains("changes no weight");
        let output = command.arg(&imatrix).arg(tiny_plm()).assert().success();
        assert_eq!(warned.eval(&String::from_utf8_lossy(&output.get_output().stderr)), said, "{file_type}");
    }
}

#[test]
fn flags_of_stored_outputs_and_of_merged_statistics_are_said() {
    let dir = dir();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (text, reference) = (text().display().to_string(), path("r.safetensors"));
    let mut store = command(&format!("reference -q --ctx 64 --chunks 2 --text {text} -o {reference}"));
    store.arg(tiny_plm()).assert().success();
    idle(&format!("validate --against {reference} --seed 1"), &tiny_plm(), &["--seed"]);
    for (flag, said) in [("--self 64", "cannot write a text"), ("--per-layer", "have no layers")] {
        let mut command = command(&format!("validate no-model --against {reference} {flag}"));
        command.assert().code(2).stdout("").stderr(predicate::str::contains(said));
    }
    let stats = path("stats.gguf");
    let calibrate = format!("calibrate --self 128 --calibration-ctx 64 --calibration-chunks 1 -o {stats}");
    idle(&calibrate, &tiny_plm(), &["--calibration-chunks"]);
    let merge = format!("calibrate --seed 1 -j 1 --calibration-ctx 64 -o {} --merge", path("merged.gguf"));
    idle(&merge, Path::new(&stats), &["--calibration-ctx", "--seed", "--threads"]);
}

#[test]
fn a_limit_that_nothing_is_held_to_is_refused() {
    for flag in ["--max-kld", "--max-ppl-ratio", "--min-top1"] {
        let mut command = command(&format!("quantize q4 --dry-run {flag} 0.5"));
        let said = predicate::str::contains(format!("{flag} is a limit of the validation"));
        command.arg(tiny_plm()).assert().code(2).stdout("").stderr(said);
    }
}
