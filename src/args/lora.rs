//! What is merged into a model before anything else.

use std::ffi::OsString;

use clap::Args;

/// LoRA adapters.
#[derive(Clone, Debug, Default, Args)]
pub struct LoraArgs {
    /// Merge this LoRA adapter (a folder that peft saved) into the checkpoint first, times SCALE; repeatable, in order
    #[arg(long, value_name = "ADAPTER[=SCALE]")]
    pub lora: Vec<OsString>,
}
