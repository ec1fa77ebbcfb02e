//! Signals that reach a run where they matter.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use assert_cmd::Command;

use super::names;

/// Starts `command` and waits until `is_reached` says so; `None` if it ended before.
pub fn started(command: &Command, is_reached: impl Fn() -> bool) -> Option<Child> {
    let mut process = std::process::Command::new(command.get_program());
    process.args(command.get_args()).stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null());
    let mut child = process.spawn().expect("starts");
    while !is_reached() {
        if child.try_wait().expect("a child").is_some() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Some(child)
}

/// Sends a signal by the name that kill(1) knows, such as `-TERM`.
pub fn signal(child: &Child, name: &str) {
    let sent =
        std::process::Command::new("kill").args([name, &child.id().to_string()]).status().expect("kill");
    assert!(sent.success());
}

/// The temporary that a running process has for the output of this name; signals are caught before there is one.
pub fn temporary(dir: &Path, name: &str) -> Option<PathBuf> {
    let prefix = format!(".plmconv-{name}.");
    let is_running = |found: &String| found.starts_with(&prefix) && !found.contains("killed");
    names(dir).into_iter().find(is_running).map(|found| dir.join(found))
}

/// Runs `command` and interrupts it once `output` has its temporary; again if the machine was faster than the signal.
pub fn interrupt(command: &Command, output: &Path) {
    let dir = output.parent().expect("a folder");
    let name = output.file_name().expect("a name").to_string_lossy();
    let is_interrupted = (0..20).any(|_| {
        let child = started(command, || temporary(dir, &name).is_some());
        let code = child.map_or(Some(0), |mut child| {
            signal(&child, "-INT");
            child.wait().expect("ends").code()
        });
        if code == Some(0) {
            let is_folder = output.is_dir();
            let removed =
                if is_folder { std::fs::remove_dir_all(output) } else { std::fs::remove_file(output) };
            removed.expect("whole");
        }
        code == Some(130)
    });
    assert!(is_interrupted, "it ends too fast, or otherwise");
}
