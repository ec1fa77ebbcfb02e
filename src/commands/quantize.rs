//! `plmconv quantize TYPE MODEL`

use std::path::Path;

use anyhow::{Context, Result};
use plmconv_formats::Model;
use plmconv_quant::policy::{FileType, Policy, parse_override, parse_tensor_type};

use super::{calibrate, checked, write};
use crate::args::QuantizeArgs;
use crate::error::UsageError;
use crate::guidance::{self, Guidance};
use crate::passes::{self, Pass};
use crate::pipeline;
use crate::plan::{Target, Types};
use crate::progress::Console;

pub fn run(args: &QuantizeArgs) -> Result<()> {
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
    let console = Console { quiet: args.output.quiet, verbose: args.output.verbose };
    pipeline::on_interrupt()?;
    // Beside the output: statistics of a large model are gigabytes, and a temporary folder may be memory.
    let beside = args.output.output.as_deref().and_then(Path::parent).filter(|p| !p.as_os_str().is_empty());
    let folder = tempfile::Builder::new()
        .prefix(".plmconv-statistics-")
        .tempdir_in(beside.unwrap_or(Path::new(".")))
        .context("a temporary folder for the statistics")?;
    let path = folder.path().join("statistics.gguf");
    write::thread_pool(args.output.threads)?
        .install(|| calibrate::collect(model, &args.calibrate, &args.sample, &path, false, console))?;
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
