//! `plmconv convert MODEL --to gguf|onnx`

use anyhow::Result;
use plmconv_formats::DType;
use plmconv_quant::policy::{FileType, Policy};

use super::write;
use crate::args::{ConvertArgs, FloatType, Format};
use crate::error::UsageError;
use crate::input::open_model;
use crate::onnx;
use crate::outputs::Inputs;
use crate::plan::{Target, Types};

pub fn run(args: &ConvertArgs) -> Result<()> {
    match args.to {
        Format::Gguf => gguf(args),
        Format::Onnx => onnx(args),
    }
}

fn gguf(args: &ConvertArgs) -> Result<()> {
    let target = gguf_target(args)?;
    write::run(open_model(&args.model, args.output.console())?, target, &inputs(args), &args.output)
}

/// The GGUF that the arguments ask for.
pub fn gguf_target(args: &ConvertArgs) -> Result<Target> {
    write::refuse_flag(args.onnx.given(), Format::Gguf)?;
    let preset = |file_type| Types::Preset(Policy::preset(file_type));
    let types = match args.dtype.unwrap_or(FloatType::Auto) {
        FloatType::F32 => preset(FileType::F32),
        FloatType::F16 => preset(FileType::F16),
        FloatType::Bf16 => preset(FileType::Bf16),
        FloatType::Auto => Types::Source,
    };
    Ok(Target { types, ..write::target(&args.output)? })
}

fn onnx(args: &ConvertArgs) -> Result<()> {
    let target = onnx_target(args)?;
    write::run_onnx(open_model(&args.model, args.output.console())?, target, &inputs(args), &args.output)
}

/// The ONNX export that the arguments ask for.
pub fn onnx_target(args: &ConvertArgs) -> Result<onnx::Target> {
    write::refuse_flag(args.output.gguf_only(), Format::Onnx)?;
    let float = match args.dtype.unwrap_or(FloatType::F32) {
        FloatType::F32 => DType::F32,
        FloatType::F16 => DType::F16,
        FloatType::Bf16 | FloatType::Auto => {
            let message = "an ONNX graph has one float type, f32 or f16";
            return Err(UsageError::with_hint(message, "choose --dtype f32 or --dtype f16").into());
        }
    };
    Ok(onnx::Target {
        passes: write::passes(&args.output)?,
        output: args.output.output.clone(),
        overwrite: args.output.force,
        ..onnx::Target::new(&args.onnx, float, onnx::WeightType::Float)
    })
}

fn inputs(args: &ConvertArgs) -> Inputs {
    [&args.model].into_iter().collect()
}
