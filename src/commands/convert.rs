//! `plmconv convert MODEL --to gguf`

use anyhow::Result;
use plmconv_formats::Model;
use plmconv_quant::policy::{FileType, Policy};

use super::write;
use crate::args::{ConvertArgs, FloatType, Format};
use crate::plan::{Target, Types};

pub fn run(args: &ConvertArgs) -> Result<()> {
    let Format::Gguf = args.to;
    let preset = |file_type| Types::Preset(Policy::preset(file_type));
    let types = match args.dtype {
        FloatType::F32 => preset(FileType::F32),
        FloatType::F16 => preset(FileType::F16),
        FloatType::Bf16 => preset(FileType::Bf16),
        FloatType::Auto => Types::Source,
    };
    write::run(Model::open(&args.model)?, Target { types, ..write::target(&args.output)? }, &args.output)
}
