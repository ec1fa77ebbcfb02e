//! `plmconv quantize TYPE MODEL`

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use plmconv_formats::{DType, Model};
use plmconv_quant::policy::{FileType, Policy, parse_override, parse_tensor_type, split_override};

use super::calibrate::{CalibrationText, Destination};
use super::{calibrate, checked, write};
use crate::args::{Format, LayoutArg, QuantizeArgs};
use crate::budget::{Budget, Limit};
use crate::error::{Interrupted, UsageError};
use crate::guidance::{self, Guidance};
use crate::onnx::{self, WeightType};
use crate::passes::{self, Pass};
use crate::pipeline;
use crate::plan::{Target, Types, output_path, parse_size};
use crate::resume::with_suffix;
use crate::sensitivity::Sensitivity;
use crate::statistics::Statistics;

pub fn run(args: &QuantizeArgs) -> Result<()> {
    match args.to {
        Format::Gguf => gguf(args),
        Format::Onnx => onnx(args),
    }
}

fn gguf(args: &QuantizeArgs) -> Result<()> {
    let request = Request::new(args)?;
    let model = Model::open(&args.model)?;
    let name = request.file_type.map_or("auto", FileType::name);
    let output = output_path(args.output.output.as_deref(), &model, request.target.layout, name);
    let statistics = OwnStatistics::new(args, &output);
    let target = request.resolve(&model, &statistics, &|_| Ok(()));
    statistics.close(target.and_then(|target| match &args.check.validate {
        None => write::run(model, target, &args.output),
        Some(text) => checked::run(args, model, target, text),
    }))
}

/// The GGUF of `model` that the arguments ask for. Runs no calibration text; `check` sees the guidance before anything
/// is measured by it.
pub fn gguf_target(args: &QuantizeArgs, model: &Model, check: &CheckGuidance<'_>) -> Result<Target> {
    Request::new(args)?.resolve(model, &OwnStatistics::none(), check)
}

/// Refuses guidance that is not the one wanted.
type CheckGuidance<'a> = dyn Fn(&Guidance) -> Result<()> + 'a;

/// What the arguments say of a GGUF before the model is opened.
struct Request<'a> {
    args: &'a QuantizeArgs,
    limit: Option<Limit>,
    file_type: Option<FileType>,
    policy: Policy,
    target: Target,
}

impl Request<'_> {
    fn new(args: &QuantizeArgs) -> Result<Request<'_>> {
        write::refuse_flag(args.onnx.given().or(args.blocks.given()), Format::Gguf)?;
        let limit = limit(args)?;
        let file_type = file_type(args, limit)?;
        Ok(Request {
            args,
            limit,
            file_type,
            policy: policy(args, file_type)?,
            target: write::target(&args.output)?,
        })
    }

    /// With the guidance, and with types by budget where they are asked for.
    fn resolve(self, model: &Model, statistics: &OwnStatistics, check: &CheckGuidance<'_>) -> Result<Target> {
        let Request { args, limit, file_type, mut policy, target } = self;
        let guidance = guidance(args, model, &target.passes, statistics)?;
        check(&guidance)?;
        let guidance = guidance.for_layout(target.layout).without(args.without);
        policy.has_importance = guidance.is_some();
        let types = match limit {
            None => Types::Preset(policy),
            Some(limit) => {
                let sensitivity = sensitivity(args, model, &guidance)?;
                Types::Budget(Budget { policy, file_type, limit, sensitivity })
            }
        };
        let (allow_requantize, resume) = (args.allow_requantize, args.resume);
        Ok(Target { types, allow_requantize, guidance, resume, ..target })
    }
}

fn onnx(args: &QuantizeArgs) -> Result<()> {
    let target = unguided_onnx_target(args)?;
    let model = Model::open(&args.model)?;
    let statistics = OwnStatistics::new(args, &target.output_path(&model));
    let target = with_guidance(target, args, &model, &statistics);
    statistics.close(target.and_then(|target| write::run_onnx(model, target, &args.output)))
}

/// The ONNX export of `model` that the arguments ask for, as [`gguf_target`].
pub fn onnx_target(args: &QuantizeArgs, model: &Model, check: &CheckGuidance<'_>) -> Result<onnx::Target> {
    let target = with_guidance(unguided_onnx_target(args)?, args, model, &OwnStatistics::none())?;
    check(&target.guidance)?;
    Ok(target)
}

fn with_guidance(
    target: onnx::Target,
    args: &QuantizeArgs,
    model: &Model,
    statistics: &OwnStatistics,
) -> Result<onnx::Target> {
    let guidance = guidance(args, model, &target.passes, statistics)?.without(args.without);
    Ok(onnx::Target { guidance, ..target })
}

fn unguided_onnx_target(args: &QuantizeArgs) -> Result<onnx::Target> {
    write::refuse_flag(args.gguf_only(), Format::Onnx)?;
    let float = args.blocks.float_type.map_or(DType::F32, DType::from);
    let overrides = overrides(args)?;
    let override_type = |text: &String| -> Result<_> {
        let (pattern, name) = split_override(text).map_err(usage)?;
        Ok((pattern, WeightType::from_name(name, float)?))
    };
    let token_embedding = args.token_embedding_type.as_deref();
    Ok(onnx::Target {
        overrides: overrides.iter().map(override_type).collect::<Result<_>>()?,
        token_embedding: token_embedding.map(|name| WeightType::from_name(name, float)).transpose()?,
        passes: write::passes(&args.output)?,
        allow_requantize: args.allow_requantize,
        output: args.output.output.clone(),
        overwrite: args.output.force,
        ..onnx::Target::new(&args.onnx, float, onnx_type(&args.file_type)?).with_blocks(&args.blocks)
    })
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

/// Statistics that `quantize` measures itself: a file beside the output, kept only for a run that goes on.
struct OwnStatistics {
    path: Option<PathBuf>,
}

impl OwnStatistics {
    fn new(args: &QuantizeArgs, output: &Path) -> OwnStatistics {
        let measured = !args.calibrate.is_empty() || args.self_tokens.is_some();
        OwnStatistics { path: measured.then(|| with_suffix(output, ".statistics")) }
    }

    /// For what measures nothing.
    fn none() -> OwnStatistics {
        OwnStatistics { path: None }
    }

    /// Removes them, unless the run was interrupted and can go on with them.
    fn close(&self, result: Result<()>) -> Result<()> {
        let Some(path) = self.path.as_deref().filter(|path| path.is_file()) else { return result };
        let error = match result {
            Err(error) if error.is::<Interrupted>() => error,
            result => {
                std::fs::remove_file(path).map_err(plmconv_formats::Error::io(path))?;
                return result;
            }
        };
        let kept = error.downcast_ref().and_then(|Interrupted { kept }| kept.clone());
        Err(Interrupted { kept: Some(kept.unwrap_or_else(|| path.into())) }.into())
    }
}

/// What the rounding goes by; runs the calibration text first, through the model as the passes leave it.
fn guidance(
    args: &QuantizeArgs,
    model: &Model,
    passes: &[Pass],
    statistics: &OwnStatistics,
) -> Result<Guidance> {
    let effort = guidance::effort(args.effort);
    if let Some(path) = &args.imatrix {
        if !passes.is_empty() {
            let message = "--passes changes what an importance matrix's columns stand for";
            return Err(UsageError::with_hint(message, "give the text to --calibrate instead").into());
        }
        return Guidance::from_imatrix(path);
    }
    if args.stats.is_none() && statistics.path.is_none() {
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
    let Some(path) = &statistics.path else { return Ok(Guidance::default()) };
    let text = CalibrationText {
        files: &args.calibrate,
        written: args.self_tokens.map(NonZeroUsize::get),
        sample: &args.sample,
    };
    let request = text.request(model)?;
    let measured = || args.resume && Statistics::open(path).is_ok_and(|found| found.answers(&request));
    if !path.is_file() || !measured() {
        pipeline::on_interrupt()?;
        let to = Destination { path, overwrite: true, resume: args.resume };
        write::thread_pool(args.output.threads)?
            .install(|| calibrate::collect(model, &text, to, args.output.console()))?;
    }
    Guidance::from_statistics(path, model, effort)
}

/// The budget, if there is one.
fn limit(args: &QuantizeArgs) -> Result<Option<Limit>> {
    let limit = match (&args.target_size, args.target_bpw) {
        (Some(size), _) => Limit::FileBytes(match size.parse() {
            Ok(bytes) => bytes,
            Err(_) => parse_size(size)?,
        }),
        (None, Some(bits)) => Limit::BitsPerWeight(bits),
        (None, None) => return Ok(None),
    };
    if args.stats.is_none() && args.calibrate.is_empty() && args.self_tokens.is_none() {
        return Err(UsageError::with_hint(
            "a budget goes by what each matrix does to the output, which has to be measured",
            "add --stats STATS (from plmconv calibrate), --calibrate TEXT or --self N",
        )
        .into());
    }
    if args.output.layout == Some(LayoutArg::Latent) {
        return Err(UsageError::new("a budget needs --layout plm: the statistics are of its matrices").into());
    }
    if args.target_size.is_some() && args.output.split_max_size.is_some() {
        let message = "--target-size is the size of one file";
        return Err(UsageError::with_hint(message, "with --split-max-size say --target-bpw").into());
    }
    Ok(Some(limit))
}

/// The preset the user names; `auto` leaves it to the budget.
fn file_type(args: &QuantizeArgs, limit: Option<Limit>) -> Result<Option<FileType>> {
    if !args.file_type.eq_ignore_ascii_case("auto") {
        return FileType::from_name(&args.file_type).map(Some).map_err(usage);
    }
    match limit {
        Some(_) => Ok(None),
        None => {
            let hint = "add --target-size SIZE or --target-bpw BITS";
            Err(UsageError::with_hint("the type `auto` needs a budget", hint).into())
        }
    }
}

fn sensitivity(args: &QuantizeArgs, model: &Model, guidance: &Guidance) -> Result<Sensitivity> {
    pipeline::on_interrupt()?;
    let bar = args.output.console().steps("measuring");
    let pool = write::thread_pool(args.output.threads)?;
    let sensitivity = pool.install(|| Sensitivity::measure(model, guidance, &bar))?;
    bar.finish_and_clear();
    Ok(sensitivity)
}

fn policy(args: &QuantizeArgs, file_type: Option<FileType>) -> Result<Policy> {
    let token_embedding_type = args.token_embedding_type.as_deref().map(parse_tensor_type).transpose();
    let overrides = overrides(args)?;
    Ok(Policy {
        // A budget replaces the mixture, so that only the exceptions count.
        file_type: file_type.unwrap_or(FileType::Q4KM),
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
