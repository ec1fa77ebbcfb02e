//! Speed of llama.cpp with one file at given depths of context, as JSON:
//! `llama_generate MODEL.gguf [--depths 0,4096,16384] [--prompt 512] [--generate 64] [--batch 512] [--threads N]
//! [--flash-attention] [--compute-depths]`

use std::path::PathBuf;
use std::process::ExitCode;

use plmconv_interop::llama::{LoadOptions, Model, system_info};
use plmconv_interop::options::Options;
use plmconv_interop::speed::{SpeedOptions, speed};

const USAGE: &str = "usage: llama_generate MODEL.gguf [--depths 0,4096,16384] [--prompt 512] [--generate 64] \
                     [--batch 512] [--threads N] [--flash-attention] [--compute-depths]";

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
    let depths: String = options.value("--depths")?.unwrap_or_else(|| "0".to_owned());
    let speed_options = SpeedOptions {
        depths: depths
            .split(',')
            .map(|depth| depth.parse().map_err(|_| format!("--depths cannot be `{depth}`\n{USAGE}")))
            .collect::<Result<_, _>>()?,
        prompt: options.value("--prompt")?.unwrap_or(512),
        generate: options.value("--generate")?.unwrap_or(64),
        n_batch: options.value::<usize>("--batch")?.unwrap_or(512).max(1),
        threads: options.threads()?,
        flash_attention: options.flag("--flash-attention"),
        compute_depths: options.flag("--compute-depths"),
    };
    let [path] = options.positional()?;
    let load = LoadOptions { memory_map: true, check_tensors: false, repack: true };
    let model = Model::load(&PathBuf::from(path), load).map_err(|error| error.to_string())?;
    let result = speed(&model, &speed_options).map_err(|error| error.to_string())?;
    let mut report = serde_json::to_value(result).map_err(|error| error.to_string())?;
    report["model"] = model.description().into();
    report["tensor_bytes"] = model.tensor_bytes().into();
    report["threads"] = speed_options.threads.into();
    report["flash_attention"] = speed_options.flash_attention.into();
    report["system_info"] = system_info().into();
    println!("{report:#}");
    Ok(())
}
