//! `plmconv`: see the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    plmconv::run(std::env::args_os()).into()
}
