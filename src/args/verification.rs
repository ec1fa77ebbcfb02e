//! `verify`.

use std::path::PathBuf;

use clap::Args;

use super::{LoraArgs, RunArgs};

/// Rebuild a file from its source and compare every byte, without writing anything
#[derive(Debug, Args)]
#[command(after_help = "\
FILE itself tells how it was made: by its types, or by the recipe that plmconv wrote into it. Files that llama.cpp's
convert_hf_to_gguf.py and llama-quantize wrote can be verified as well.

Exit codes: 0 every byte is what MODEL gives, 1 a file that cannot be read, 2 usage, 3 something differs.

Examples: plmconv verify PLM-1.8B-Instruct-q4_k_m.gguf ./PLM-1.8B-Instruct
          plmconv verify guided.gguf ./PLM-1.8B-Instruct --stats stats.gguf")]
pub struct VerifyArgs {
    /// A GGUF (of a set the first shard), an ONNX graph, or the folder it was exported to
    pub file: PathBuf,
    /// What it was made from: a Hugging Face folder, or a PLM GGUF
    pub model: PathBuf,
    #[command(flatten)]
    pub adapters: LoraArgs,
    /// The statistics that guided its rounding
    #[arg(long, value_name = "STATS", conflicts_with = "imatrix")]
    pub stats: Option<PathBuf>,
    /// The importance matrix that guided its rounding
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// A metadata key, or a file of an exported folder, that may differ; repeatable
    #[arg(long, value_name = "NAME")]
    pub except: Vec<String>,
    #[command(flatten)]
    pub run: RunArgs,
}
