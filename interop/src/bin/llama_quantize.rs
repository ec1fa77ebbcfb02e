//! llama.cpp's own quantizer, to be timed beside ours:
//! `llama_quantize INPUT.gguf OUTPUT.gguf TYPE [--threads N] [--pure] [--imatrix FILE.gguf] [--allow-requantize]`

use std::path::PathBuf;
use std::process::ExitCode;

use plmconv_interop::options::Options;
use plmconv_interop::quantize::{Importance, QuantizeOptions, file_type, quantize};

const USAGE: &str = "usage: llama_quantize INPUT.gguf OUTPUT.gguf TYPE \
                     [--threads N] [--pure] [--imatrix FILE.gguf] [--allow-requantize]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut options = Options::from_env(USAGE);
    let importance: Option<PathBuf> = options.value("--imatrix")?;
    let quantize_options = QuantizeOptions {
        threads: options.value("--threads")?.unwrap_or(0),
        pure: options.flag("--pure"),
        allow_requantize: options.flag("--allow-requantize"),
        importance: importance
            .map(|path| Importance::open(&path))
            .transpose()
            .map_err(|error| error.to_string())?,
    };
    let [input, output, name] = options.positional()?;
    let number = file_type(&name).ok_or_else(|| format!("`{name}` is no file type that plmconv writes"))?;
    quantize(&PathBuf::from(input), &PathBuf::from(output), number, &quantize_options)
        .map_err(|error| error.to_string())
}
