//! `convert`

use std::path::PathBuf;

use anyhow::Result;
use plmconv_formats::DType;
use plmconv_quant::policy::{FileType, Policy};

use super::output::{
    check_checkpoint, check_destination, gguf_flags, gguf_target, onnx_flags, onnx_target, refuse_flags,
};
use super::size::parse_size;
use crate::args::{ConvertArgs, DtypeArg, FormatArg};
use crate::error::{At, Place, UsageError};
use crate::hub::{Wanted, local_path};
use crate::input::ModelInput;
use crate::outputs::Inputs;
use crate::progress::Console;
use crate::run::Run;
use crate::target::{AnyTarget, GgufLora, OnnxWeights, Safetensors, Target, Types, WeightType};

/// A model in another format, not quantized.
pub struct ConvertRequest {
    pub model: ModelInput,
    pub target: ConvertTarget,
    pub inputs: Inputs,
    pub run: Run,
}

/// A model for a runtime, or a checkpoint again.
pub enum ConvertTarget {
    Runtime(AnyTarget),
    Checkpoint(Target<Safetensors>),
    /// An adapter for this base model.
    Adapter {
        target: Target<GgufLora>,
        base: PathBuf,
    },
}

impl ConvertRequest {
    pub(super) fn new(args: ConvertArgs) -> Result<ConvertRequest> {
        let run = super::run(&args.output.run, args.output.dry_run);
        let target = match args.to {
            FormatArg::Safetensors => ConvertTarget::Checkpoint(checkpoint(&args)?),
            FormatArg::GgufLora => adapter(&args, run.console)?,
            FormatArg::Gguf | FormatArg::Onnx => ConvertTarget::Runtime(target(&args)?),
        };
        let model = match args.to {
            FormatArg::GgufLora => ModelInput::plain(local_path(&args.model, Wanted::Adapter, run.console)?),
            _ => super::model(&args.model, &args.adapters.lora, run.console)?,
        };
        if args.base.is_some() && args.to != FormatArg::GgufLora {
            let hint = "add --to gguf-lora, or leave it out; --lora ADAPTER merges an adapter into MODEL";
            return Err(UsageError::with_hint("--base is the model of an adapter", hint).into());
        }
        let inputs: Inputs = model.paths().chain(&args.base).collect();
        match &target {
            _ if run.dry_run => {}
            ConvertTarget::Runtime(target) => check_destination(target, &model.path, &inputs)?,
            ConvertTarget::Checkpoint(target) => check_checkpoint(target, &model.path, &inputs)?,
            ConvertTarget::Adapter { target, .. } => {
                inputs.check_file(&target.output_path(&model.path).at(Place::Output)?, target.overwrite)?;
            }
        }
        Ok(ConvertRequest { model, target, inputs, run })
    }
}

fn checkpoint(args: &ConvertArgs) -> Result<Target<Safetensors>> {
    let [_, gguf_flags @ ..] = gguf_flags(&args.output);
    refuse_flags(args.to, &[&onnx_flags(&args.onnx)[..], &gguf_flags].concat())?;
    let dtype = match args.dtype.unwrap_or(DtypeArg::Auto) {
        DtypeArg::F32 => Some(DType::F32),
        DtypeArg::F16 => Some(DType::F16),
        DtypeArg::Bf16 => Some(DType::Bf16),
        DtypeArg::Auto => None,
    };
    let shard_bytes = args.output.split_max_size.as_deref().map(parse_size).transpose()?;
    super::output::target(&args.output, Safetensors { dtype, shard_bytes })
}

fn adapter(args: &ConvertArgs, console: Console) -> Result<ConvertTarget> {
    let passes = ("--passes", !args.output.passes.is_empty());
    refuse_flags(args.to, &[&onnx_flags(&args.onnx)[..], &gguf_flags(&args.output), &[passes]].concat())?;
    let Some(base) = &args.base else {
        let hint = "add --base MODEL; adapter_config.json names it (base_model_name_or_path)";
        return Err(UsageError::with_hint("an adapter is converted for its base model", hint).into());
    };
    if !args.adapters.lora.is_empty() {
        let hint = "--to gguf-lora converts one adapter, which is given in place of MODEL";
        return Err(UsageError::with_hint("--lora merges an adapter into a model", hint).into());
    }
    let dtype = match args.dtype.unwrap_or(DtypeArg::F32) {
        DtypeArg::F32 => DType::F32,
        DtypeArg::F16 => DType::F16,
        DtypeArg::Bf16 => DType::Bf16,
        DtypeArg::Auto => {
            let hint = "choose --dtype f32, f16 or bf16";
            return Err(UsageError::with_hint("the matrices of an adapter get one type", hint).into());
        }
    };
    let base = local_path(base, Wanted::Config, console)?;
    Ok(ConvertTarget::Adapter { target: super::output::target(&args.output, GgufLora { dtype })?, base })
}

/// The output that the arguments ask for: one that is for a runtime.
pub(super) fn target(args: &ConvertArgs) -> Result<AnyTarget> {
    match args.to {
        FormatArg::GgufLora => {
            let hint = "an adapter is made by plmconv convert ADAPTER --to gguf-lora --base MODEL";
            Err(UsageError::with_hint("an adapter is not a model", hint).into())
        }
        FormatArg::Safetensors => {
            let hint = "a checkpoint is made by plmconv convert MODEL --to safetensors";
            Err(UsageError::with_hint("a checkpoint is not for a runtime", hint).into())
        }
        FormatArg::Gguf => {
            refuse_flags(args.to, &onnx_flags(&args.onnx))?;
            let preset = |file_type| Types::Preset(Policy::preset(file_type));
            let types = match args.dtype.unwrap_or(DtypeArg::Auto) {
                DtypeArg::F32 => preset(FileType::F32),
                DtypeArg::F16 => preset(FileType::F16),
                DtypeArg::Bf16 => preset(FileType::Bf16),
                DtypeArg::Auto => Types::Source,
            };
            Ok(AnyTarget::Gguf(gguf_target(&args.output, types)?))
        }
        FormatArg::Onnx => {
            refuse_flags(args.to, &gguf_flags(&args.output))?;
            let float = match args.dtype.unwrap_or(DtypeArg::F32) {
                DtypeArg::F32 => DType::F32,
                DtypeArg::F16 => DType::F16,
                DtypeArg::Bf16 | DtypeArg::Auto => {
                    let message = "an ONNX graph has one float type, f32 or f16";
                    return Err(UsageError::with_hint(message, "choose --dtype f32 or --dtype f16").into());
                }
            };
            let weights = OnnxWeights::Preset(WeightType::Float);
            Ok(AnyTarget::Onnx(onnx_target(&args.output, &args.onnx, float, weights)?))
        }
    }
}
