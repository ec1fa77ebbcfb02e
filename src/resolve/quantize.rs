//! `quantize`

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use plmconv_calibrate::statistics::Statistics;
use plmconv_calibrate::{Direction, Limit};
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::onnx::QuantFormat;
use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Imatrix, small_file};
use plmconv_quant::feedback::Effort;
use plmconv_quant::policy::{FileType, Mixtures, Policy, parse_override, parse_tensor_type, split_override};

use super::calibrate::text_source;
use super::output::{
    FormatFlag, check_destination, gguf_flags, gguf_target, onnx_flags, onnx_target, refuse_flags,
};
use super::size::parse_size;
use super::unused;
use super::validate::limits;
use crate::args::{
    CheckArgs, EffortArg, FormatArg, LayoutArg, MixtureArg, OnnxBlockArgs, OnnxFloatArg, PartArg,
    QuantFormatArg, QuantizeArgs,
};
use crate::error::{At, Place, UsageError};
use crate::evaluation::{AskedLimits, DEFAULT_CTX, Text};
use crate::guidance::{Guidance, Source};
use crate::input::ModelInput;
use crate::outputs::Inputs;
use crate::run::Run;
use crate::target::{AnyTarget, Gguf, Onnx, OnnxWeights, Target, Types, WeightType};

/// A model in fewer bits.
pub struct QuantizeRequest {
    pub model: ModelInput,
    pub target: AnyTarget,
    pub guidance: Guidance,
    pub check: Option<CheckRequest>,
    pub inputs: Inputs,
    pub run: Run,
}

/// Validation right after writing.
pub struct CheckRequest {
    pub text: Text,
    pub ctx: usize,
    /// All, if not said.
    pub chunks: Option<usize>,
    pub limits: AskedLimits,
}

impl QuantizeRequest {
    pub(super) fn new(args: &QuantizeArgs) -> Result<QuantizeRequest> {
        refuse_swapped(args)?;
        let target = target(args)?;
        refuse_idle_limits(&args.check)?;
        let run = super::run(&args.output.run, args.output.dry_run);
        let options = [&args.stats, &args.imatrix, &args.like, &args.tensor_type_file, &args.check.validate];
        let model = super::model(&args.model, &args.adapters.lora, run.console)?;
        let inputs: Inputs =
            model.paths().chain(&args.calibrate).chain(options.into_iter().flatten()).collect();
        if !run.dry_run {
            check_destination(&target, &model.path, &inputs)?;
        }
        let guidance = guidance(args)?;
        let check = check(&args.check)?;
        unused::warn_of_quantize(args, run.console);
        Ok(QuantizeRequest { model, target, guidance, check, inputs, run })
    }
}

/// llama-quantize takes the type last.
fn refuse_swapped(args: &QuantizeArgs) -> Result<()> {
    let name = args.model.to_string_lossy();
    let is_type = |name: &str| name.eq_ignore_ascii_case("auto") || FileType::from_name(name).is_ok();
    if is_type(&args.file_type) || !is_type(&name) || !Path::new(&args.file_type).exists() {
        return Ok(());
    }
    Err(UsageError::with_hint(
        format!("`{}` is not a type; the type comes before the model", args.file_type),
        format!("plmconv quantize {name} {}", args.file_type),
    )
    .into())
}

/// The output that the arguments ask for.
pub(super) fn target(args: &QuantizeArgs) -> Result<AnyTarget> {
    Ok(match args.to {
        FormatArg::Gguf => AnyTarget::Gguf(gguf(args)?),
        FormatArg::Onnx => AnyTarget::Onnx(onnx(args)?),
        FormatArg::Safetensors => {
            let hint = "--to gguf or --to onnx; plmconv convert MODEL --to safetensors writes floats";
            return Err(UsageError::with_hint("a checkpoint holds no quantized weights", hint).into());
        }
        FormatArg::GgufLora => {
            let hint = "plmconv convert ADAPTER --to gguf-lora --base MODEL writes floats";
            return Err(UsageError::with_hint("an adapter is not quantized", hint).into());
        }
    })
}

fn gguf(args: &QuantizeArgs) -> Result<Target<Gguf>> {
    refuse_flags(args.to, &[&onnx_flags(&args.onnx)[..], &block_flags(&args.blocks)].concat())?;
    let limit = limit(args)?;
    let file_type = named(args, limit)?.map(FileType::from_name).transpose().map_err(usage)?;
    let policy = policy(args, file_type)?;
    let types = match limit {
        None => Types::Preset(policy),
        Some(limit) => Types::Budget { policy, file_type, limit },
    };
    let mut target = gguf_target(&args.output, types)?;
    target.allow_requantize = args.allow_requantize;
    target.format.resume = args.resume;
    Ok(target)
}

fn onnx(args: &QuantizeArgs) -> Result<Target<Onnx>> {
    refuse_flags(args.to, &[&own_gguf_flags(args)[..], &gguf_flags(&args.output)].concat())?;
    let float = match args.blocks.float_type.unwrap_or(OnnxFloatArg::F32) {
        OnnxFloatArg::F32 => DType::F32,
        OnnxFloatArg::F16 => DType::F16,
    };
    let overrides = overrides(args)?;
    let override_type = |text: &String| -> Result<_> {
        let (pattern, name) = split_override(text).map_err(usage)?;
        Ok((pattern, weight_type(name, float)?))
    };
    let mut target = onnx_target(&args.output, &args.onnx, float, onnx_weights(args)?)?;
    target.allow_requantize = args.allow_requantize;
    let format = &mut target.format;
    format.overrides = overrides.iter().map(override_type).collect::<Result<_>>()?;
    format.token_embedding =
        args.token_embedding_type.as_deref().map(|name| weight_type(name, float)).transpose()?;
    format.block_size = args.blocks.block_size;
    format.symmetric = !args.blocks.asymmetric;
    format.quant_format = match args.blocks.quant_format.unwrap_or(QuantFormatArg::Nbits) {
        QuantFormatArg::Nbits => QuantFormat::NBits,
        QuantFormatArg::Qdq => QuantFormat::Qdq,
    };
    format.accuracy_level = args.blocks.accuracy_level.unwrap_or(format.accuracy_level);
    Ok(target)
}

/// What only a GGUF has a use for.
fn own_gguf_flags(args: &QuantizeArgs) -> [FormatFlag; 5] {
    [
        ("--pure", args.pure),
        ("--like", args.like.is_some()),
        ("--mixture", args.mixture.is_some()),
        ("--resume", args.resume),
        ("--validate", args.check.validate.is_some()),
    ]
}

/// What only an ONNX graph has a use for.
fn block_flags(args: &OnnxBlockArgs) -> [FormatFlag; 5] {
    [
        ("--quant-format", args.quant_format.is_some()),
        ("--block-size", args.block_size.is_some()),
        ("--asymmetric", args.asymmetric),
        ("--accuracy-level", args.accuracy_level.is_some()),
        ("--float-type", args.float_type.is_some()),
    ]
}

/// Whoever gives a limit believes that it is kept.
fn refuse_idle_limits(args: &CheckArgs) -> Result<()> {
    let limits = [
        ("--max-kld", args.limits.max_kld.is_some()),
        ("--max-ppl-ratio", args.limits.max_ppl_ratio.is_some()),
        ("--min-top1", args.limits.min_top1.is_some()),
    ];
    match limits.iter().find(|(_, given)| *given && args.validate.is_none()) {
        Some((flag, _)) => Err(UsageError::with_hint(
            format!("{flag} is a limit of the validation, and there is none"),
            "add --validate TEXT; an ONNX folder is judged by plmconv validate",
        )
        .into()),
        None => Ok(()),
    }
}

/// What decides how an ONNX graph's matrices are stored.
fn onnx_weights(args: &QuantizeArgs) -> Result<OnnxWeights> {
    let limit = limit(args)?;
    let name = named(args, limit)?.map(onnx_type).transpose()?;
    Ok(match (limit, name) {
        (Some(limit), name) => OnnxWeights::Budget { name, limit },
        (None, Some(weights)) => OnnxWeights::Preset(weights),
        (None, None) => unreachable!("only a budget goes without a name"),
    })
}

/// The type of most weights of an ONNX graph.
fn onnx_type(name: &str) -> Result<WeightType> {
    let hint = match name.to_ascii_lowercase().as_str() {
        "q4" => return Ok(WeightType::Bits(4)),
        "q8" => return Ok(WeightType::Bits(8)),
        float @ ("f32" | "f16") => {
            format!("plmconv convert MODEL --to onnx --dtype {float} writes it without quantizing")
        }
        _ => "q4 and q8 are possible; q4_k_m and the like are types of GGUF".into(),
    };
    Err(UsageError::with_hint(format!("`{name}` is not a type that ONNX weights can be quantized to"), hint)
        .into())
}

/// The type of one tensor of an ONNX graph: `q4`, `q8`, or the graph's own float type.
fn weight_type(name: &str, float: DType) -> Result<WeightType> {
    let own = float.name().to_ascii_lowercase();
    match name.to_ascii_lowercase().as_str() {
        "q4" => Ok(WeightType::Bits(4)),
        "q8" => Ok(WeightType::Bits(8)),
        other if other == own => Ok(WeightType::Float),
        _ => {
            let hint =
                format!("q4, q8 and the graph's {own} are possible; q4_k and the like are types of GGUF");
            Err(UsageError::with_hint(format!("`{name}` is not a type of a weight in ONNX"), hint).into())
        }
    }
}

/// The budget, if there is one.
fn limit(args: &QuantizeArgs) -> Result<Option<Limit>> {
    let limit = match (&args.target_size, args.target_bpw) {
        (Some(size), _) => Limit::FileBytes(parse_size(size)?),
        (None, Some(bits)) if bits.is_finite() && bits > 0.0 => Limit::BitsPerWeight(bits),
        (None, Some(bits)) => {
            let message = format!("--target-bpw {bits}: not a number of bits that a weight can have");
            return Err(UsageError::with_hint(message, "write e.g. 4.5").into());
        }
        (None, None) => return Ok(None),
    };
    if args.stats.is_none() && args.calibrate.is_empty() && args.self_tokens.is_none() {
        return Err(UsageError::with_hint(
            "a budget depends on what each matrix does to the output, which has to be measured",
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

/// The type the user names; `auto` leaves it to the budget.
fn named(args: &QuantizeArgs, limit: Option<Limit>) -> Result<Option<&str>> {
    if !args.file_type.eq_ignore_ascii_case("auto") {
        return Ok(Some(&args.file_type));
    }
    match limit {
        Some(_) => Ok(None),
        None => {
            let hint = "add --target-size SIZE or --target-bpw BITS";
            Err(UsageError::with_hint("the type `auto` needs a budget", hint).into())
        }
    }
}

fn policy(args: &QuantizeArgs, file_type: Option<FileType>) -> Result<Policy> {
    let token_embedding_type = args.token_embedding_type.as_deref().map(parse_tensor_type).transpose();
    let overrides = overrides(args)?;
    Ok(Policy {
        // A budget replaces the mixture, so that only the exceptions count.
        file_type: file_type.unwrap_or(FileType::Q4KM),
        mixtures: match args.mixture {
            None | Some(MixtureArg::Current) => Mixtures::Current,
            Some(MixtureArg::March2025) => Mixtures::March2025,
        },
        pure: args.pure,
        token_embedding_type: token_embedding_type.map_err(usage)?,
        overrides: overrides
            .iter()
            .map(|text| parse_override(text))
            .collect::<Result<_, _>>()
            .map_err(usage)?,
        by_name: args.like.as_deref().map(types_of).transpose()?,
        has_importance: false,
    })
}

/// The types of a file's matrices, by name.
fn types_of(path: &Path) -> Result<BTreeMap<String, DType>> {
    let shards = GgufFile::open_shards(path).at(Place::Like)?;
    let tensors = shards.iter().flat_map(|shard| &shard.tensors);
    let matrices = tensors.filter(|tensor| tensor.shape.len() > 1);
    Ok(matrices.map(|tensor| (tensor.name.clone(), tensor.data.dtype())).collect())
}

/// What `--tensor-type` said, then the lines of the file.
fn overrides(args: &QuantizeArgs) -> Result<Vec<String>> {
    let mut texts = args.tensor_type.clone();
    if let Some(path) = &args.tensor_type_file {
        let text =
            small_file::utf8(path, small_file::read(path).at(Place::TensorTypes)?).at(Place::TensorTypes)?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        texts.extend(lines.map(str::to_string));
    }
    Ok(texts)
}

/// What guides the rounding. Statistics are opened; nothing is measured yet.
pub(super) fn guidance(args: &QuantizeArgs) -> Result<Guidance> {
    let by = if let Some(path) = &args.imatrix {
        if args.output.passes.iter().any(|name| !name.trim().is_empty()) {
            let message = "--passes changes the meaning of an importance matrix's columns";
            return Err(UsageError::with_hint(message, "give the text to --calibrate instead").into());
        }
        Source::Imatrix { imatrix: Imatrix::open(path).at(Place::Imatrix)?, path: path.clone() }
    } else if let Some(path) = &args.stats {
        Source::Statistics(Box::new(Statistics::open(path).at(Place::Statistics)?))
    } else if !args.calibrate.is_empty() || args.self_tokens.is_some() {
        Source::Text(text_source(&args.calibrate, args.self_tokens, &args.sample))
    } else {
        Source::Nothing
    };
    Ok(Guidance {
        by,
        effort: match args.effort.unwrap_or(EffortArg::Normal) {
            EffortArg::Fast => None,
            EffortArg::Normal => Some(Effort::Normal),
            EffortArg::Max => Some(Effort::Max),
        },
        without: args.without.iter().filter_map(|part| direction(*part)).collect(),
        balance: !args.without.contains(&PartArg::Balance),
    })
}

/// The direction of error feedback that a part is, if it is one.
fn direction(part: PartArg) -> Option<Direction> {
    match part {
        PartArg::Columns => Some(Direction::Columns),
        PartArg::Rows => Some(Direction::Rows),
        PartArg::Balance => None,
    }
}

fn check(args: &CheckArgs) -> Result<Option<CheckRequest>> {
    let Some(path) = &args.validate else { return Ok(None) };
    Ok(Some(CheckRequest {
        text: Text::read(path)?,
        ctx: args.validate_ctx.unwrap_or(DEFAULT_CTX),
        chunks: args.validate_chunks,
        limits: limits(args.limits),
    }))
}

fn usage(error: plmconv_quant::Error) -> anyhow::Error {
    UsageError::new(error.to_string()).into()
}
