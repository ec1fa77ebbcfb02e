//! Signals that reach a run where they matter.

use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use assert_cmd::Command;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag::register_conditional_shutdown;

use super::names;

/// Starts `command` and waits until `is_reached` says so; `None` if it ended before.
pub fn started(command: &Command, is_reached: impl Fn() -> bool) -> Option<Child> {
    // A signal that this process was started to ignore (in the background of a script, by nohup) the child would ignore,
    // too; one with a handler it is given back as the default.
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        register_conditional_shutdown(signal, 128 + signal, Arc::new(AtomicBool::new(true)))
            .expect("a handler");
    }
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

/// What a running process that writes `output` works on until it is complete, a file or a folder; signals are caught
/// before it is there.
pub fn temporary_of(output: &Path) -> Option<PathBuf> {
    let folder = output.parent().expect("a folder");
    let prefix = format!(".plmconv-{}.", output.file_name().expect("a name").to_string_lossy());
    // Not that of an output whose name goes on after this one's, nor one that a test put there.
    let is_its = |name: &String| {
        let random = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".tmp"));
        random.is_some_and(|random| !random.contains('.') && random != "killed")
    };
    names(folder).into_iter().find(is_its).map(|name| folder.join(name))
}

/// Runs `command` and sends it a signal once `is_reached` says so; how it ended, or `None` if it was done before.
pub fn signalled(command: &Command, name: &str, is_reached: impl Fn() -> bool) -> Option<ExitStatus> {
    let mut child = started(command, is_reached)?;
    signal(&child, name);
    Some(child.wait().expect("ends"))
}

/// Runs `command` and interrupts it once `output` has its temporary; again if the machine was faster than the signal.
pub fn interrupt(command: &Command, output: &Path) {
    let is_interrupted = (0..20).any(|_| {
        let status = signalled(command, "-INT", || temporary_of(output).is_some());
        let code = status.map_or(Some(0), |status| status.code());
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
