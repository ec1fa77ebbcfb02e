//! `plmconv quantize TYPE MODEL`

use std::path::Path;

use anyhow::{Context, Result};
use plmconv_formats::{DType, Model};
use plmconv_quant::policy::{FileType, Policy, parse_override, parse_tensor_type, split_override};

use super::{calibrate, checked, write};
use crate::args::{Format, QuantizeArgs};
use crate::error::UsageError;
use crate::guidance::{self, Guidance};
use crate::onnx::{self, WeightType};
use crate::passes::{self, Pass};
use crate::pipeline;
use crate::plan::{Target, Types};

pub fn run(args: &QuantizeArgs) -> Result<()> {
    match args.to {
        Format::Gguf => gguf(args),
        Format::Onnx => onnx(args),
    }
}

fn gguf(args: &QuantizeArgs) -> Result<()> {
    write::refuse_flag(args.onnx.given().or(args.blocks.given()), Format::Gguf)?;
    let mut policy = policy(args)?;
    let model = Model::open(&args.model)?;
    let target = write::target(&args.output)?;
    let guidance = guidance(args, &model, &target.passes)?;
    let guidance = guidance.for_layout(target.layout).without(args.without);
    policy.has_importance = guidance.is_some();
    let target =
        Target { types: Types::Preset(policy), allow_requantize: args.allow_requantize, guidance, ..target };
    match &args.check.validate {
        None => write::run(model, target, &args.output),
        Some(text) => checked::run(args, model, target, text),
    }
}

fn onnx(args: &QuantizeArgs) -> Result<()> {
    write::refuse_flag(args.gguf_only(), Format::Onnx)?;
    let float = args.blocks.float_type.map_or(DType::F32, DType::from);
    let overrides = overrides(args)?;
    let override_type = |text: &String| -> Result<_> {
        let (pattern, name) = split_override(text).map_err(usage)?;
        Ok((pattern, WeightType::from_name(name, float)?))
    };
    let token_embedding = args.token_embedding_type.as_deref();
    let target = onnx::Target {
        overrides: overrides.iter().map(override_type).collect::<Result<_>>()?,
        token_embedding: token_embedding.map(|name| WeightType::from_name(name, float)).transpose()?,
        passes: write::passes(&args.output)?,
        allow_requantize: args.allow_requantize,
        output: args.output.output.clone(),
        overwrite: args.output.force,
        ..onnx::Target::new(&args.onnx, float, onnx_type(&args.file_type)?).with_blocks(&args.blocks)
    };
    let model = Model::open(&args.model)?;
    let guidance = guidance(args, &model, &target.passes)?.without(args.without);
    write::run_onnx(model, onnx::Target { guidance, ..target }, &args.output)
}

/// The type of most weights.
fn onnx_type(name: &str) -> Result<WeightType> {
    let hint = match name.to_ascii_lowercase().as_str() {
        "q4" => return Ok(WeightType::Bits(4)),
        "q8" => return Ok(WeightType::Bits(8)),
        float @ ("f32" | "f16") => {
            format!("plmconv convert MODEL --to onnx --dtype {float} writes it without quantizing")
        }
        _ => "q4 and q8 are possible; q4_k_m and the like are types of GGUF".into(),
    };
    Err(UsageError::with_hint(format!("`{name}` is no type that ONNX weights are quantized to"), hint).into())
}

/// What the rounding goes by; runs the calibration text first, through the model as the passes leave it.
fn guidance(args: &QuantizeArgs, model: &Model, passes: &[Pass]) -> Result<Guidance> {
    let effort = guidance::effort(args.effort);
    if let Some(path) = &args.imatrix {
        if !passes.is_empty() {
            let message = "--passes changes what an importance matrix's columns stand for";
            return Err(UsageError::with_hint(message, "give the text to --calibrate instead").into());
        }
        return Guidance::from_imatrix(path);
    }
    if args.stats.is_none() && args.calibrate.is_empty() {
        return Ok(Guidance::default());
    }
    let rewritten;
    let model = if passes.is_empty() {
        model
    } else {
        rewritten = passes::apply(Model::open(&args.model)?, passes)?;
        &rewritten
    };
    if let Some(path) = &args.stats {
        return Guidance::from_statistics(path, model, effort);
    }
    pipeline::on_interrupt()?;
    // Beside the output: statistics of a large model are gigabytes, and a temporary folder may be memory.
    let beside = args.output.output.as_deref().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty());
    let folder = tempfile::Builder::new()
        .prefix(".plmconv-statistics-")
        .tempdir_in(beside.unwrap_or(Path::new(".")))
        .context("a temporary folder for the statistics")?;
    let path = folder.path().join("statistics.gguf");
    write::thread_pool(args.output.threads)?.install(|| {
        calibrate::collect(model, &args.calibrate, &args.sample, &path, false, args.output.console())
    })?;
    // The open file outlives its name.
    Guidance::from_statistics(&path, model, effort)
}

fn policy(args: &QuantizeArgs) -> Result<Policy> {
    let token_embedding_type = args.token_embedding_type.as_deref().map(parse_tensor_type).transpose();
    let overrides = overrides(args)?;
    Ok(Policy {
        file_type: FileType::from_name(&args.file_type).map_err(usage)?,
        pure: args.pure,
        token_embedding_type: token_embedding_type.map_err(usage)?,
        overrides: overrides
            .iter()
            .map(|text| parse_override(text))
            .collect::<Result<_, _>>()
            .map_err(usage)?,
        has_importance: false,
    })
}

/// What `--tensor-type` said, then the lines of the file.
fn overrides(args: &QuantizeArgs) -> Result<Vec<String>> {
    let mut texts = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        texts.extend(lines.map(str::to_string));
    }
    Ok(texts)
}

fn usage(error: plmconv_quant::Error) -> anyhow::Error {
    UsageError::new(error.to_string()).into()
}
