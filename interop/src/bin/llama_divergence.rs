//! How far files are from a reference inside llama.cpp, as JSON: one object a file.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plmconv_interop::cli::{all_cores, finish};
use plmconv_interop::divergence::{DivergenceOptions, divergence};
use plmconv_interop::llama::{LoadOptions, Model};

/// Measure mean KL divergence with llama.cpp as llama-perplexity does
#[derive(Debug, Parser)]
struct Arguments {
    /// The model in f32
    reference: PathBuf,
    #[arg(required = true)]
    candidates: Vec<PathBuf>,
    /// Each is measured on its own
    #[arg(long, required = true)]
    text: Vec<PathBuf>,
    /// Tokens of a window
    #[arg(long, default_value_t = 512)]
    ctx: usize,
    /// Windows at most
    #[arg(long)]
    chunks: Option<usize>,
    #[arg(long, default_value_t = all_cores())]
    threads: usize,
    /// For the candidates
    #[arg(long)]
    flash_attention: bool,
}

fn main() -> ExitCode {
    finish(run(&Arguments::parse()))
}

#[allow(clippy::print_stdout, reason = "its results go to stdout")]
fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let options = DivergenceOptions {
        n_ctx: arguments.ctx,
        chunks: arguments.chunks,
        threads: arguments.threads,
        flash_attention: arguments.flash_attention,
    };
    let load = LoadOptions { memory_map: true, check_tensors: false, repack: true };
    let reference = Model::load(&arguments.reference, load)?;
    for path in &arguments.candidates {
        let candidate = Model::load(path, load)?;
        for text_path in &arguments.text {
            let text = std::fs::read_to_string(text_path)
                .map_err(|error| format!("{}: {error}", text_path.display()))?;
            let tokens = reference.tokenize(&text, true, false)?;
            let mut report = serde_json::to_value(divergence(&reference, &candidate, &tokens, options)?)?;
            report["candidate"] = path.display().to_string().into();
            report["text"] = text_path.display().to_string().into();
            println!("{report}");
        }
    }
    Ok(())
}
