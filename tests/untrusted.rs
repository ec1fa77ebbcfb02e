//! Models come from anybody: what their files, names and templates must not do to who looks at them.

mod common;

use std::path::{Path, PathBuf};

use common::checkpoint::Checkpoint;
use common::{copy_of_tiny_plm, fixtures, plmconv, tiny_plm};
use plmconv_formats::gguf::{Directory, Metadata, Value as GgufValue};
use predicates::prelude::*;
use serde_json::{Value, json};

/// Escape sequence, bell, C1, a character that reverses the direction of writing, and a line end.
const HOSTILE: &str = "x\u{1b}]0;title\u{7}\u{9b}31m\u{202e}y\nz";

/// True for bytes that a terminal shows as they are.
fn harmless(bytes: &[u8]) -> bool {
    let text = std::str::from_utf8(bytes).expect("UTF-8");
    !text.chars().any(|c| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c))
}

/// Runs with these arguments; what is printed is harmless and shows what was hidden.
#[track_caller]
fn shows(arguments: &[&Path], sign: &str) {
    let output = plmconv().args(arguments).output().expect("runs");
    let all = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(harmless(&all), "{:?}", String::from_utf8_lossy(&all));
    assert!(String::from_utf8_lossy(&all).contains(sign), "{}", String::from_utf8_lossy(&all));
}

fn hostile_gguf(dir: &Path) -> PathBuf {
    let path = dir.join("hostile.gguf");
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", GgufValue::String(HOSTILE.into()));
    metadata.set(format!("key.{HOSTILE}"), GgufValue::String(HOSTILE.into()));
    let directory = Directory::new(&metadata, []).expect("lays out");
    std::fs::write(&path, &directory.head).expect("write");
    path
}

#[test]
fn nothing_hidden_reaches_a_terminal() {
    let dir = tempfile::tempdir().expect("tempdir");
    let inspect = Path::new("inspect");
    let gguf = hostile_gguf(dir.path());
    shows(&[inspect, &gguf], "architecture x\\u{1b}]0;title\\u{7}\\u{9b}31m\\u{202e}y\\nz");
    shows(&[inspect, "--verbose".as_ref(), &gguf], "key.x\\u{1b}");
    shows(&[Path::new("quantize"), "q4".as_ref(), &gguf, "-o".as_ref(), &dir.path().join("o")], "\\u{1b}]0;");
    shows(&[inspect, &dir.path().join(HOSTILE)], "\\u{1b}]0;title\\u{7}");
    // clap's own message.
    shows(&[inspect, HOSTILE.as_ref(), HOSTILE.as_ref()], "\\u{9b}31m\\u{202e}y");

    let header = json!({HOSTILE: {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).to_string();
    let tensors = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &[0]].concat();
    let path = dir.path().join("names.safetensors");
    std::fs::write(&path, tensors).expect("write");
    shows(&[inspect, &path], "x\\u{1b}]0;title\\u{7}\\u{9b}31m\\u{202e}y\\nz");
}

#[test]
fn json_holds_the_exact_names_without_a_control_character() {
    let dir = tempfile::tempdir().expect("tempdir");
    let output = plmconv().args(["inspect", "--json"]).arg(hostile_gguf(dir.path())).output().expect("runs");
    assert!(harmless(&output.stdout));
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["architecture"], HOSTILE);
    assert_eq!(json["metadata"][format!("key.{HOSTILE}")], HOSTILE);
}

/// The tiny PLM with another chat template.
fn with_template(dir: &Path, template: &str) -> PathBuf {
    let folder = copy_of_tiny_plm(dir);
    let path = folder.join("tokenizer_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).expect("read")).expect("JSON");
    config["chat_template"] = template.into();
    std::fs::write(&path, config.to_string()).expect("write");
    folder
}

#[test]
fn a_template_gets_what_transformers_gives_it() {
    let dir = tempfile::tempdir().expect("tempdir");
    let template = "{% generation %}{% set seen %}{{ messages[0]|tojson }} {{ tools is none }} {{ pad_token }} \
                    {{ strftime_now('%Y')|length }}{% endset %}{{ raise_exception(seen) }}{% endgeneration %}";
    let said = r#"{"role": "user", "content": "Grüße"} True <|endoftext|> 4"#;
    let mut command = plmconv();
    command.args(["generate", "--chat"]).arg(with_template(dir.path(), template)).args(["Grüße", "-n", "1"]);
    command.assert().code(1).stderr(predicate::str::contains(said));
}

#[test]
fn a_hostile_template_is_one_error() {
    let cases = [
        (
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
            "beyond what a template may do",
        ),
        ("{{ 'x'.replace('', 'y' * 100000000) }}", "makes too much text"),
        ("{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}", "namespace"),
        (&format!("{{{{ {}1 }}}}", "-".repeat(50_000)), "parts"),
        ("{{ raise_exception('\u{1b}]0;x\u{7}') }}", "\\u{1b}]0;x\\u{7}"),
    ];
    for (template, said) in cases {
        let dir = tempfile::tempdir().expect("tempdir");
        let folder = with_template(dir.path(), template);
        let output = plmconv().args(["generate", "--chat"]).arg(folder).arg("Hi").output().expect("runs");
        let stderr = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.contains("chat template does not render") && stderr.contains(said), "{stderr}");
        assert!(harmless(stderr.as_bytes()) && stderr.lines().count() <= 2, "{stderr}");
    }
}

#[test]
fn generation_stops_at_every_end_token() {
    let dir = tempfile::tempdir().expect("tempdir");
    let folder = copy_of_tiny_plm(dir.path());
    let generate = || {
        let mut command = plmconv();
        command.arg("generate").arg(&folder).args(["The ferry left", "-n", "8"]);
        command.assert().success().get_output().stdout.clone()
    };
    assert!(generate().len() > 8);
    // Every token is one: the first that is written ends the text.
    let all: Vec<u32> = (0..4096).collect();
    std::fs::write(folder.join("generation_config.json"), json!({"eos_token_id": all}).to_string())
        .expect("write");
    assert_eq!(generate(), b"\n");
}

/// A reference of zeros: every difference from it is infinite.
#[test]
fn what_is_not_finite_is_said() {
    let dir = tempfile::tempdir().expect("tempdir");
    let (reference, candidate) = (dir.path().join("zero"), dir.path().join("odd"));
    let mut checkpoint = Checkpoint::odd();
    checkpoint.save(&candidate);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        checkpoint.tensors.get_mut(name).expect("a tensor").bytes.fill(0);
    }
    checkpoint.save(&reference);
    let html = dir.path().join("report.html");
    let validate = || {
        let mut command = plmconv();
        command.arg("validate").arg(&candidate).arg("--against").arg(&reference).arg("--per-layer");
        command.arg("--text").arg(fixtures().join("text/own.txt")).args(["--ctx", "16", "--chunks", "2"]);
        command
    };
    let limits = ["--max-kld", "inf", "--max-ppl-ratio", "inf", "--min-top1", "0"];
    let output = validate().args(limits).arg("--html").arg(&html).output().expect("runs");
    assert!(String::from_utf8_lossy(&output.stdout).contains("not finite"));
    assert!(std::fs::read_to_string(&html).expect("a report").contains("not finite, so not drawn: layer 0"));
    let output = validate().args(limits).arg("--json").output().expect("runs");
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["layers"][0]["relative_error"], Value::Null);
    validate().args(["--max-kld", "nan"]).assert().code(2);
}

#[test]
fn a_name_cannot_break_out_of_a_report() {
    let dir = tempfile::tempdir().expect("tempdir");
    let name = "a`|b\n<script>&\u{1b}\u{202e}.gguf";
    let candidate = dir.path().join(name);
    plmconv().args(["quantize", "q8_0"]).arg(tiny_plm()).arg("-o").arg(&candidate).assert().success();
    let report = |extension: &str| dir.path().join(format!("report.{extension}"));
    let mut command = plmconv();
    command.arg("validate").arg(&candidate).arg("--against").arg(tiny_plm());
    command.arg("--text").arg(fixtures().join("text/own.txt")).args(["--ctx", "16", "--chunks", "2"]);
    command.arg("--html").arg(report("html")).arg("--markdown").arg(report("md"));
    command.arg("--junit").arg(report("xml")).output().expect("runs");
    for (extension, shown) in [
        ("html", "a`|b\n&lt;script&gt;&amp;\\u{1b}\\u{202e}.gguf"),
        ("md", "a`\\|b\\n<script>&\\u{1b}\\u{202e}.gguf ``"),
        ("xml", "a`|b\\n&lt;script&gt;&amp;\\u{1b}\\u{202e}.gguf against"),
    ] {
        let text = std::fs::read_to_string(report(extension)).expect("a report");
        assert!(text.contains(shown), "{extension}: {}", text.lines().take(5).collect::<Vec<_>>().join("\n"));
        assert!(harmless(text.as_bytes()), "{extension}");
    }
}
