//! `plmconv edit`: metadata changes, tensors do not.

mod common;

use std::path::{Path, PathBuf};

use common::{digests, names, plmconv, tiny_plm};
use predicates::prelude::*;
use serde_json::Value;

fn quantized(dir: &Path, more: &[&str]) -> PathBuf {
    let out = dir.join("model.gguf");
    plmconv().args(["quantize", "q4_0"]).arg(tiny_plm()).arg("-o").arg(&out).args(more).assert().success();
    out
}

fn value(file: &Path, key: &str) -> String {
    let mut command = plmconv();
    let output = command.arg("inspect").arg(file).args(["--key", key]).assert().success();
    let text = String::from_utf8(output.get_output().stdout.clone()).expect("text");
    text.strip_suffix('\n').expect("a line").to_string()
}

#[test]
fn values_change_and_tensors_do_not() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = quantized(dir.path(), &[]);
    let tensors = digests(&file);
    let template = dir.path().join("template.jinja");
    std::fs::write(&template, "{% for m in messages %}{{ m.content }}\n{% endfor %}").expect("write");
    let mut command = plmconv();
    command.arg("edit").arg(&file).args([
        "--set",
        "general.name=An = other",
        "--set",
        "plm.context_length=8192",
    ]);
    command.args(["--set", "my.flag=bool:true", "--remove", "general.size_label", "--chat-template"]);
    let output = command.arg(&template).arg("--json").assert().success().get_output().stdout.clone();
    let report: Value = serde_json::from_slice(&output).expect("JSON");
    assert_eq!(report["files"].as_array().map(Vec::len), Some(1));
    let context =
        report["changes"].as_array().and_then(|c| c.iter().find(|c| c["key"] == "plm.context_length"));
    assert_eq!(context.map(|c| (&c["before"], &c["after"])), Some((&4096.into(), &8192.into())));

    assert_eq!(value(&file, "general.name"), "An = other");
    assert_eq!(value(&file, "plm.context_length"), "8192");
    assert_eq!(value(&file, "my.flag"), "true");
    assert_eq!(value(&file, "tokenizer.chat_template"), std::fs::read_to_string(&template).expect("text"));
    let mut gone = plmconv();
    gone.arg("inspect").arg(&file).args(["--key", "general.size_label"]);
    gone.assert().code(2).stderr(predicate::str::contains("nearest"));
    assert_eq!(digests(&file), tensors);
    plmconv().args(["generate", "-n", "2"]).arg(&file).arg("The").assert().success();
    assert_eq!(names(dir.path()), ["model.gguf", "template.jinja"]);
}

#[test]
fn an_edited_file_and_back_is_the_same_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = quantized(dir.path(), &[]);
    let before = std::fs::read(&file).expect("written");
    let name = value(&file, "general.name");
    for name in ["something much longer than it was", &name] {
        plmconv().arg("edit").arg(&file).args(["--set", &format!("general.name={name}")]).assert().success();
    }
    assert!(std::fs::read(&file).expect("written") == before);
}

#[test]
fn another_output_leaves_the_file_as_it_is() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = quantized(dir.path(), &[]);
    let before = std::fs::read(&file).expect("written");
    let out = dir.path().join("out.gguf");
    let edit = |more: &[&str]| {
        let mut command = plmconv();
        command.arg("edit").arg(&file).args(["--set", "general.author=Ann"]).args(more);
        command
    };
    edit(&["-o", &out.display().to_string()]).assert().success();
    assert_eq!(value(&out, "general.author"), "Ann");
    edit(&["-o", &out.display().to_string()]).assert().code(1).stderr(predicate::str::contains("exists"));
    edit(&["-o", &out.display().to_string(), "--force"]).assert().success();
    // Its own name is not another one.
    edit(&["-o", &file.display().to_string(), "--force"]).assert().code(2);
    edit(&["--dry-run"]).assert().success().stdout(predicate::str::contains("none -> \"Ann\""));
    assert!(std::fs::read(&file).expect("written") == before);
}

#[test]
fn shards_stay_a_set() {
    let dir = tempfile::tempdir().expect("tempdir");
    quantized(dir.path(), &["--split-max-size", "1M"]);
    let shards = names(dir.path());
    assert!(shards.len() > 2, "{shards:?}");
    let first = dir.path().join(&shards[0]);
    let tensors = digests(&first);
    plmconv().arg("edit").arg(&first).args(["--set", "general.name=Mine"]).assert().success();
    assert_eq!((value(&first, "general.name").as_str(), names(dir.path())), ("Mine", shards));
    assert_eq!(digests(&first), tensors);
    let out = dir.path().join("copy.gguf");
    plmconv().arg("edit").arg(&first).args(["--remove", "general.type", "-o"]).arg(&out).assert().success();
    let copied: Vec<String> =
        names(dir.path()).into_iter().filter(|name| name.starts_with("copy-")).collect();
    assert_eq!(digests(&dir.path().join(&copied[0])), tensors);
    // A shard of the set that was is none of the set that is.
    std::fs::copy(dir.path().join(&copied[1]), dir.path().join(&names(dir.path())[copied.len() + 1]))
        .expect("copy");
    plmconv().arg("inspect").arg(&first).assert().code(1);
}

#[test]
fn what_is_wrong_is_said_and_nothing_changes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let file = quantized(dir.path(), &[]);
    let before = std::fs::read(&file).expect("written");
    let cases: [(&[&str], i32, &str); 8] = [
        (&[], 2, "nothing to edit"),
        (&["--set", "general.name"], 2, "not KEY=VALUE"),
        (&["--set", "plm.block_count=many"], 2, "not a u32"),
        (&["--set", "tokenizer.ggml.tokens=x"], 2, "is an array"),
        (&["--set", "general.alignment=64"], 2, "cannot be edited"),
        (&["--remove", "general.nam"], 2, "general.name"),
        (&["--chat-template", "/nonexistent"], 1, "/nonexistent"),
        (&["--set", "a=b", "--force"], 2, "--output"),
    ];
    for (args, code, says) in cases {
        let mut command = plmconv();
        command.arg("edit").arg(&file).args(args).assert().code(code).stderr(predicate::str::contains(says));
    }
    plmconv().arg("edit").arg(tiny_plm()).args(["--set", "a=b"]).assert().code(1);
    assert!(std::fs::read(&file).expect("written") == before);
    assert_eq!(names(dir.path()), ["model.gguf"]);
}
