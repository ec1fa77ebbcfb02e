//! The GitHub action `parity`: its one step is a script, which runs here as GitHub runs it.
#![cfg(unix)]

mod common;

use std::path::Path;

use common::{calibration_text, plmconv, tiny_plm};

/// Exit code, and what GitHub gets: outputs and summary.
fn step(folder: &Path, candidate: &str, arguments: &str) -> (Option<i32>, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(".github/actions/parity/run.sh");
    let [outputs, summary] = ["outputs", "summary"].map(|name| folder.join(name));
    for file in [&outputs, &summary] {
        std::fs::write(file, "").expect("writable");
    }
    let mut command = std::process::Command::new("bash");
    command.arg(script).current_dir(folder).env("PLMCONV", plmconv().get_program());
    command.env("CANDIDATE", candidate).env("REFERENCE", tiny_plm()).env("TEXT", calibration_text());
    command.env("ARGUMENTS", format!("--ctx 32 --chunks 2 {arguments}")).env("REPORTS", "reports");
    command.env("GITHUB_OUTPUT", &outputs).env("GITHUB_STEP_SUMMARY", &summary);
    let status = command.output().expect("bash runs").status;
    let read = |file| std::fs::read_to_string(file).expect("text");
    (status.code(), read(&outputs), read(&summary))
}

#[test]
fn the_action_tells_the_verdict_and_fails_beyond_the_limits() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut command = plmconv();
    command
        .current_dir(dir.path())
        .args(["quantize", "q8_0", "-o", "q8.gguf"])
        .arg(tiny_plm())
        .assert()
        .success();
    let (code, outputs, summary) = step(dir.path(), "q8.gguf", "");
    assert_eq!(code, Some(0), "{outputs}");
    let mean = outputs.lines().find_map(|line| line.strip_prefix("mean-kld=")).expect("an output");
    assert!(mean.parse::<f64>().is_ok_and(|mean| mean > 0.0 && mean < 0.01), "{mean}");
    assert!(outputs.contains("passed=true") && summary.contains("q8.gguf"));
    for report in ["parity.xml", "parity.md", "parity.html"] {
        assert!(dir.path().join("reports").join(report).exists(), "{report}");
    }
    let (code, outputs, summary) = step(dir.path(), "q8.gguf", "--max-kld 0");
    assert!(code == Some(3) && outputs.contains("passed=false") && !summary.is_empty(), "{outputs}");
    let (code, outputs, _) = step(dir.path(), "absent.gguf", "");
    assert!(code == Some(1) && outputs.is_empty(), "{outputs}");
}
