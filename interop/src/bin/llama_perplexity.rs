//! llama-perplexity's measure on one file, as JSON:
//! `llama_perplexity MODEL.gguf TEXT [--ctx 512] [--batch 2048] [--ubatch 512] [--chunks N] [--threads N]
//! [--flash-attention]`

use std::path::PathBuf;
use std::process::ExitCode;

use plmconv_interop::llama::{LoadOptions, Model, system_info};
use plmconv_interop::options::Options;
use plmconv_interop::perplexity::{PerplexityOptions, perplexity};

const USAGE: &str = "usage: llama_perplexity MODEL.gguf TEXT [--ctx 512] [--batch 2048] [--ubatch 512] [--chunks N] \
                     [--threads N] [--flash-attention]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout, reason = "its result goes to stdout")]
fn run() -> Result<(), String> {
    let mut options = Options::from_env(USAGE);
    let n_ctx: usize = options.value("--ctx")?.unwrap_or(512);
    let defaults = PerplexityOptions::default();
    // As llama-perplexity cuts its default batch of 2048 where a window is larger.
    let n_batch = (defaults.n_batch / n_ctx.max(1)).max(1) * n_ctx;
    let perplexity_options = PerplexityOptions {
        n_ctx,
        n_batch: options.value("--batch")?.unwrap_or(n_batch.min(defaults.n_batch)),
        n_ubatch: options.value("--ubatch")?.unwrap_or(defaults.n_ubatch),
        chunks: options.value("--chunks")?,
        threads: options.threads()?,
        flash_attention: options.flag("--flash-attention"),
    };
    let [model, text] = options.positional()?;
    let mut text = std::fs::read_to_string(&text).map_err(|error| format!("{text}: {error}"))?;
    // llama.cpp's programs drop the line break at a file's end.
    if text.ends_with('\n') {
        text.pop();
    }
    let load = LoadOptions { memory_map: true, check_tensors: false, repack: true };
    let model = Model::load(&PathBuf::from(model), load).map_err(|error| error.to_string())?;
    let tokens = model.tokenize(&text, true, false).map_err(|error| error.to_string())?;
    let result = perplexity(&model, &tokens, perplexity_options).map_err(|error| error.to_string())?;
    let mut report = serde_json::to_value(result).map_err(|error| error.to_string())?;
    report["model"] = model.description().into();
    report["tokens_in_text"] = tokens.len().into();
    report["ctx"] = n_ctx.into();
    report["threads"] = perplexity_options.threads.into();
    report["flash_attention"] = perplexity_options.flash_attention.into();
    report["system_info"] = system_info().into();
    println!("{report:#}");
    Ok(())
}
