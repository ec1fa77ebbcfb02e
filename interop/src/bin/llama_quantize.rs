//! llama.cpp's own quantizer, to be timed beside ours.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plmconv_interop::cli::finish;
use plmconv_interop::quantize::{Importance, QuantizeOptions, file_type, quantize};

/// Quantize with llama.cpp's own quantizer
#[derive(Debug, Parser)]
struct Arguments {
    input: PathBuf,
    output: PathBuf,
    #[arg(value_name = "TYPE")]
    file_type: String,
    /// 0: as many as there are cores
    #[arg(long, default_value_t = 0)]
    threads: usize,
    #[arg(long)]
    pure: bool,
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    #[arg(long)]
    allow_requantize: bool,
}

fn main() -> ExitCode {
    finish(run(Arguments::parse()))
}

fn run(arguments: Arguments) -> Result<(), Box<dyn Error>> {
    let options = QuantizeOptions {
        threads: arguments.threads,
        pure: arguments.pure,
        allow_requantize: arguments.allow_requantize,
        importance: arguments.imatrix.map(|path| Importance::open(&path)).transpose()?,
    };
    let name = &arguments.file_type;
    let number = file_type(name).ok_or_else(|| format!("`{name}` is no file type that plmconv writes"))?;
    Ok(quantize(&arguments.input, &arguments.output, number, &options)?)
}
