//! Speed of llama.cpp with one file at given depths of context, as JSON.

use std::error::Error;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use plmconv_interop::cli::{all_cores, finish};
use plmconv_interop::llama::{LoadOptions, Model, system_info};
use plmconv_interop::speed::{SpeedOptions, speed};

/// Measure how fast llama.cpp reads and generates tokens
#[derive(Debug, Parser)]
struct Arguments {
    model: PathBuf,
    /// Tokens in the cache before each measurement
    #[arg(long, value_delimiter = ',', default_value = "0")]
    depths: Vec<usize>,
    /// Tokens to read at each depth
    #[arg(long, default_value_t = 512)]
    prompt: usize,
    /// Tokens to generate at each depth
    #[arg(long, default_value_t = 64)]
    generate: usize,
    /// Tokens of a batch
    #[arg(long, default_value = "512")]
    batch: NonZeroUsize,
    #[arg(long, default_value_t = all_cores())]
    threads: usize,
    #[arg(long)]
    flash_attention: bool,
    /// Compute every token in the cache instead of repeating the first ones
    #[arg(long)]
    compute_depths: bool,
}

fn main() -> ExitCode {
    finish(run(&Arguments::parse()))
}

#[allow(clippy::print_stdout, reason = "its result goes to stdout")]
fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let options = SpeedOptions {
        depths: arguments.depths.clone(),
        prompt: arguments.prompt,
        generate: arguments.generate,
        n_batch: arguments.batch.get(),
        threads: arguments.threads,
        flash_attention: arguments.flash_attention,
        compute_depths: arguments.compute_depths,
    };
    let load = LoadOptions { memory_map: true, check_tensors: false, repack: true };
    let model = Model::load(&arguments.model, load)?;
    let mut report = serde_json::to_value(speed(&model, &options)?)?;
    report["model"] = model.description().into();
    report["tensor_bytes"] = model.tensor_bytes().into();
    report["threads"] = options.threads.into();
    report["flash_attention"] = options.flash_attention.into();
    report["system_info"] = system_info().into();
    println!("{report:#}");
    Ok(())
}
