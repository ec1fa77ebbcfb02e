//! What plmconv gives the shell, and what people type who come from llama.cpp's tools.

mod common;

use common::{plmconv, tiny_plm};
use predicates::prelude::*;

const COMMANDS: [&str; 11] = [
    "quantize",
    "calibrate",
    "convert",
    "inspect",
    "perplexity",
    "validate",
    "verify",
    "reference",
    "generate",
    "edit",
    "types",
];

fn stdout(args: &[&str]) -> String {
    let output = plmconv().args(args).assert().success().stderr("").get_output().stdout.clone();
    String::from_utf8(output).expect("text")
}

#[test]
fn every_shell_gets_completions_of_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = stdout(&["completions", shell]);
        for word in COMMANDS.into_iter().chain(["--target-size"]) {
            let word = if shell == "fish" { word.trim_start_matches('-') } else { word };
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    plmconv().args(["completions", "tcsh"]).assert().code(2);
}

#[test]
fn types_are_listed_from_the_smallest_on() {
    let json = common::json(plmconv().arg("types"));
    let json = json["types"].as_array().expect("a list");
    let bits: Vec<f64> = json.iter().filter_map(|line| line["bits_per_weight"].as_f64()).collect();
    assert!(bits.is_sorted() && bits.len() == json.len() && bits[bits.len() - 1] == 32.0, "{bits:?}");
    let text = stdout(&["types"]);
    for line in json {
        let name = line["name"].as_str().expect("a name");
        assert!(text.lines().any(|shown| shown.split_whitespace().next() == Some(name)), "{name}: {text}");
    }
    let usual = json.iter().find(|line| line["name"] == "q4_k_m").expect("there is one");
    assert_eq!((usual["bits_per_weight"].as_f64(), usual["block"].as_u64()), (Some(4.5), Some(256)));
}

#[cfg(unix)]
#[test]
fn bash_reads_its_completions() {
    let mut bash = assert_cmd::Command::new("bash");
    let script = stdout(&["completions", "bash"]);
    bash.args(["-c", "source /dev/stdin && complete -p plmconv"]).write_stdin(script).assert().success();
}

#[test]
fn there_is_a_page_for_the_program_and_for_each_command() {
    let page = stdout(&["man"]);
    assert!(page.contains(".TH plmconv") && COMMANDS.iter().all(|command| page.contains(command)), "{page}");
    assert!(page.contains("Exit codes"));
    for command in COMMANDS {
        let page = stdout(&["man", command]);
        assert!(page.contains(&format!(".TH plmconv-{command}")), "{page}");
        assert!(page.contains(".SH OPTIONS"));
    }
    plmconv().args(["man", "quantise"]).assert().code(2).stderr(predicate::str::contains("--help"));
}

#[test]
fn llama_cpps_spellings_are_understood() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = tiny_plm().display().to_string();
    let out = dir.path().join("out.gguf").display().to_string();
    let runs: [(&[&str], &str); 5] = [
        (&["convert", &model, "--to", "gguf", "--outtype", "f16", "--outfile", &out], "37 F16"),
        (&["quantize", "q4_0", &model, "--output-tensor-type", "q8_0", "-o", &out], "1 Q8_0"),
        (&["quantize", "Q3_K", &model, "-o", &out], "18 Q3_K"),
        (&["quantize", "q6", &model, "-o", &out], "37 Q6_K"),
        (&["quantize", "q8_0", &model, "--split-max-size", "4000K", "-o", &out], "37 Q8_0"),
    ];
    for (args, says) in runs {
        let mut command = plmconv();
        command.args(args).arg("--force").assert().success().stdout(predicate::str::contains(says));
    }
    let [ours, theirs] = [vec!["The"], vec!["-p", "The"]].map(|prompt| {
        let args = [&["generate", model.as_str(), "-n", "4"][..], &prompt].concat();
        plmconv().args(args).assert().success().get_output().stdout.clone()
    });
    assert!(!ours.is_empty() && ours == theirs);
    plmconv().args(["generate", &model, "The", "-p", "A"]).assert().code(2);
    plmconv().args(["generate", &model]).assert().code(2);
}

#[test]
fn the_type_comes_before_the_model() {
    let model = tiny_plm().display().to_string();
    for name in ["q4", "IQ4_XS", "auto"] {
        let mut command = plmconv();
        command.args(["quantize", &model, name]).assert().code(2).stderr(
            predicate::str::contains("the type comes before the model")
                .and(predicate::str::contains(format!("plmconv quantize {name} {model}"))),
        );
    }
}

#[test]
fn stdout_is_no_place_for_a_model() {
    let dir = tempfile::tempdir().expect("tempdir");
    let model = tiny_plm().display().to_string();
    let text = common::calibration_text().display().to_string();
    for args in [
        &["quantize", "q8", &model][..],
        &["convert", &model, "--to", "gguf"],
        &["quantize", "q8", &model, "--to", "onnx"],
        &["calibrate", &model, "--text", &text],
        &["reference", &model, "--text", &text],
    ] {
        let mut command = plmconv();
        command.current_dir(dir.path()).args(args).args(["-o", "-"]);
        command.assert().code(2).stderr(predicate::str::contains("`./-`"));
    }
    assert_eq!(std::fs::read_dir(dir.path()).expect("readable").count(), 0);
}
