//! llama-perplexity's measure on one file, as JSON.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plmconv_interop::cli::{all_cores, finish};
use plmconv_interop::llama::{LoadOptions, Model, system_info};
use plmconv_interop::perplexity::{PerplexityOptions, perplexity};

/// Measure perplexity with llama.cpp as llama-perplexity does
#[derive(Debug, Parser)]
struct Arguments {
    model: PathBuf,
    text: PathBuf,
    /// Tokens of a window
    #[arg(long, default_value_t = 512)]
    ctx: usize,
    /// Tokens of a batch [default: as many whole windows as 2048 holds]
    #[arg(long)]
    batch: Option<usize>,
    /// Tokens that are computed at once
    #[arg(long, default_value_t = 512)]
    ubatch: usize,
    /// Windows at most
    #[arg(long)]
    chunks: Option<usize>,
    #[arg(long, default_value_t = all_cores())]
    threads: usize,
    #[arg(long)]
    flash_attention: bool,
}

fn main() -> ExitCode {
    finish(run(&Arguments::parse()))
}

#[allow(clippy::print_stdout, reason = "its result goes to stdout")]
fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let n_ctx = arguments.ctx;
    let largest = PerplexityOptions::default().n_batch;
    // As llama-perplexity cuts its default batch of 2048 where a window is larger.
    let whole_windows = ((largest / n_ctx.max(1)).max(1) * n_ctx).min(largest);
    let options = PerplexityOptions {
        n_ctx,
        n_batch: arguments.batch.unwrap_or(whole_windows),
        n_ubatch: arguments.ubatch,
        chunks: arguments.chunks,
        threads: arguments.threads,
        flash_attention: arguments.flash_attention,
    };
    let path = &arguments.text;
    let mut text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    // llama.cpp's programs drop the line break at a file's end.
    if text.ends_with('\n') {
        text.pop();
    }
    let load = LoadOptions { memory_map: true, check_tensors: false, repack: true };
    let model = Model::load(&arguments.model, load)?;
    let tokens = model.tokenize(&text, true, false)?;
    let mut report = serde_json::to_value(perplexity(&model, &tokens, options)?)?;
    report["model"] = model.description().into();
    report["tokens_in_text"] = tokens.len().into();
    report["ctx"] = n_ctx.into();
    report["threads"] = options.threads.into();
    report["flash_attention"] = options.flash_attention.into();
    report["system_info"] = system_info().into();
    println!("{report:#}");
    Ok(())
}
