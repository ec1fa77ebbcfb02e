//! The program under test: the `plmconv` that the workspace builds.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};

/// Where `plmconv` is: `$PLMCONV_BIN`, or beside the running test or program in Cargo's target folder.
///
/// # Panics
/// If it is in neither place: a test that cannot find it must not pass.
pub fn plmconv() -> PathBuf {
    if let Some(path) = std::env::var_os("PLMCONV_BIN").map(PathBuf::from) {
        assert!(path.is_file(), "PLMCONV_BIN names {}, which is no file", path.display());
        return path;
    }
    let running = std::env::current_exe().expect("a running program knows its own path");
    running
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("plmconv"))
        .find(|path| path.is_file())
        .unwrap_or_else(|| {
            panic!(
                "no plmconv beside {}: run `cargo build --release -p plmconv` first, or set PLMCONV_BIN",
                running.display()
            )
        })
}

/// Runs `plmconv quantize TYPE MODEL -o OUTPUT` with further arguments.
///
/// # Errors
/// [`Error::Command`] with its stderr if it fails.
pub fn quantize(file_type: &str, model: &Path, output: &Path, more: &[&str]) -> Result<()> {
    let mut command = Command::new(plmconv());
    command.arg("quantize").arg(file_type).arg(model).arg("-o").arg(output).args(more);
    stdout_of(&mut command).map(drop)
}

/// Runs a command and returns what it writes to stdout.
///
/// # Errors
/// [`Error::Command`] with its stderr if it fails.
pub fn stdout_of(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let program = PathBuf::from(command.get_program());
    let done = command.output().map_err(|source| Error::Io { path: program, source })?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let stderr = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(Error::Command { command: shown, status: done.status, stderr })
}
