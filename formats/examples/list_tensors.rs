//! The tensors of any GGUF or PLM folder: name, type and shape.

#![allow(clippy::print_stdout, reason = "its result goes to stdout")]

use std::path::Path;
use std::process::ExitCode;

use plmconv_formats::gguf::GgufFile;
use plmconv_formats::model::Tensor;
use plmconv_formats::source::RowSource;
use plmconv_formats::{Model, Result};

fn main() -> ExitCode {
    let Some(path) = std::env::args_os().nth(1) else {
        eprintln!("usage: list_tensors FILE_OR_FOLDER");
        return ExitCode::from(2);
    };
    match list(Path::new(&path)) {
        Ok(lines) => {
            lines.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A GGUF may hold anything; a folder has to be a PLM.
fn list(path: &Path) -> Result<Vec<String>> {
    if path.is_dir() {
        let model = Model::open(path)?;
        let line = |t: &Tensor| format!("{} {} {:?}", t.key, t.source.dtype(), t.shape);
        return Ok(model.tensors.iter().map(line).collect());
    }
    let file = GgufFile::open(path)?;
    Ok(file.tensors.iter().map(|t| format!("{} {} {:?}", t.name, t.data.dtype(), t.shape)).collect())
}
