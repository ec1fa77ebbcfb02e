//! `plmconv quantize TYPE MODEL`

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_calibrate::resume::{self, partial_path, with_suffix};
use plmconv_calibrate::statistics::Statistics;
use plmconv_calibrate::{Budget, Destination, Direction, Leftover, Limit, Rounding, Sensitivity};
use plmconv_formats::{DType, Imatrix, Model, small_file};
use plmconv_quant::policy::{FileType, Policy, parse_override, parse_tensor_type, split_override};

use super::{calibrate, checked, write};
use crate::args::{Format, LayoutArg, PartArg, QuantizeArgs};
use crate::error::{At, ParityFailure, Place, UsageError, interrupted, leftover};
use crate::input::open_model;
use crate::interrupt;
use crate::onnx::{self, WeightType};
use crate::outputs::Inputs;
use crate::passes::{self, Pass};
use crate::plan::{Target, Types, parse_size, shard_path};
use crate::progress::Watch;

pub fn run(args: &QuantizeArgs) -> Result<()> {
    match args.to {
        Format::Gguf => gguf(args),
        Format::Onnx => onnx(args),
    }
}

fn gguf(args: &QuantizeArgs) -> Result<()> {
    let request = Request::new(args)?;
    let model = open_model(&args.model, args.output.console())?;
    let target = &request.target;
    let output =
        target.output_path(&model, target.layout, request.file_type.map_or("auto", FileType::name))?;
    let inputs = inputs(args);
    if !args.output.dry_run {
        // How many shards there will be is not known yet, but whether there may be any is.
        if target.is_split() {
            inputs.check_shards(&output, &[shard_path(&output, 0, 1)], args.output.force)?;
        } else {
            inputs.check_file(&output, args.output.force)?;
        }
    }
    let statistics = OwnStatistics::new(args, &output, &inputs)?;
    let target = request.resolve(&model, &statistics, &|_| Ok(()));
    statistics.close(target.and_then(|target| match &args.check.validate {
        None => write::run(model, target, &inputs, &args.output),
        Some(text) => checked::run(args, model, target, &inputs, text),
    }))
}

/// All that the command reads.
fn inputs(args: &QuantizeArgs) -> Inputs {
    let options = [&args.stats, &args.imatrix, &args.tensor_type_file, &args.check.validate];
    std::iter::once(&args.model).chain(&args.calibrate).chain(options.into_iter().flatten()).collect()
}

/// The GGUF of `model` that the arguments ask for. Runs no calibration text; `check` sees the rounding before anything
/// is measured by it.
pub fn gguf_target(args: &QuantizeArgs, model: &Model, check: &CheckRounding<'_>) -> Result<Target> {
    Request::new(args)?.resolve(model, &OwnStatistics::none(), check)
}

/// Refuses rounding that is not the one wanted.
type CheckRounding<'a> = dyn Fn(&Rounding) -> Result<()> + 'a;

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

    /// With the rounding, and with types by budget where they are asked for.
    fn resolve(self, model: &Model, statistics: &OwnStatistics, check: &CheckRounding<'_>) -> Result<Target> {
        let Request { args, limit, file_type, mut policy, target } = self;
        let rounding = rounding(args, model, &target.passes, statistics)?;
        check(&rounding)?;
        let rounding = rounding.for_layout(target.layout).without(left_out(args));
        policy.has_importance = rounding.has_importance();
        let types = match limit {
            None => Types::Preset(policy),
            Some(limit) => {
                let sensitivity = sensitivity(args, model, &rounding)?;
                Types::Budget(Budget { policy, file_type, limit, sensitivity })
            }
        };
        let (allow_requantize, resume) = (args.allow_requantize, args.resume);
        Ok(Target { types, allow_requantize, rounding, resume, ..target })
    }
}

fn onnx(args: &QuantizeArgs) -> Result<()> {
    let target = unguided_onnx_target(args)?;
    let model = open_model(&args.model, args.output.console())?;
    let (output, inputs) = (target.output_path(&model), inputs(args));
    if !args.output.dry_run {
        inputs.check_folder(&output, args.output.force)?;
    }
    let statistics = OwnStatistics::new(args, &output, &inputs)?;
    let target = with_rounding(target, args, &model, &statistics);
    statistics.close(target.and_then(|target| write::run_onnx(model, target, &inputs, &args.output)))
}

/// The ONNX export of `model` that the arguments ask for, as [`gguf_target`].
pub fn onnx_target(args: &QuantizeArgs, model: &Model, check: &CheckRounding<'_>) -> Result<onnx::Target> {
    let target = with_rounding(unguided_onnx_target(args)?, args, model, &OwnStatistics::none())?;
    check(&target.rounding)?;
    Ok(target)
}

fn with_rounding(
    target: onnx::Target,
    args: &QuantizeArgs,
    model: &Model,
    statistics: &OwnStatistics,
) -> Result<onnx::Target> {
    let rounding = rounding(args, model, &target.passes, statistics)?.without(left_out(args));
    Ok(onnx::Target { rounding, ..target })
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
    /// Where this run's are.
    path: Option<PathBuf>,
    /// Where an interrupted run's are, that this run does not go on with; they go when its output is complete.
    earlier: Option<PathBuf>,
    /// This run goes on with what an interrupted one had measured.
    goes_on: bool,
    dry_run: bool,
}

impl OwnStatistics {
    fn new(args: &QuantizeArgs, output: &Path, inputs: &Inputs) -> Result<OwnStatistics> {
        let measured = !args.calibrate.is_empty() || args.self_tokens.is_some();
        let path = measured.then(|| with_suffix(output, ".partial.statistics"));
        path.iter().try_for_each(|path| inputs.refuse(path))?;
        let kept = path.as_ref().is_some_and(|path| path.exists() || partial_path(path).exists());
        let goes_on = kept && args.resume;
        let own = OwnStatistics { path, earlier: None, goes_on, dry_run: args.output.dry_run };
        Ok(match &own.path {
            Some(path) if kept && !goes_on => {
                args.output.console().warn(&format!(
                    "{} holds what an interrupted run had measured: --resume goes on with it. This run starts over; \
                     the file goes when this run is complete, and if this is interrupted, it stays",
                    path.display()
                ));
                OwnStatistics {
                    path: Some(with_suffix(output, ".partial.new.statistics")),
                    earlier: own.path,
                    ..own
                }
            }
            _ => own,
        })
    }

    /// Whether an interrupted run measured them already.
    ///
    /// # Errors
    /// They are of another run.
    fn are_there(&self, path: &Path, request: &str) -> Result<bool> {
        if !self.goes_on || !path.exists() {
            return Ok(false);
        }
        if Statistics::open(path).is_ok_and(|found| found.answers(request)) {
            return Ok(true);
        }
        let message =
            format!("{}: not statistics that a run on this model with these arguments kept", path.display());
        Err(UsageError::with_hint(message, "leave --resume away to start over").into())
    }

    /// What a signal leaves there from now on.
    fn announce(&self) {
        interrupt::keeps(self.earlier.as_deref().or(self.path.as_deref()));
    }

    /// For what measures nothing.
    fn none() -> OwnStatistics {
        OwnStatistics { path: None, earlier: None, goes_on: false, dry_run: true }
    }

    /// Removes them, unless the run was interrupted and can go on with them.
    fn close(&self, result: Result<()>) -> Result<()> {
        interrupt::keeps(None);
        let Some(path) = &self.path else { return result };
        let was_interrupted = result.as_ref().err().is_some_and(|error| leftover(error).is_some());
        let ended = result.as_ref().err().is_none_or(|error| error.is::<ParityFailure>());
        let is_complete = ended && !self.dry_run;
        let Some(earlier) = &self.earlier else {
            if was_interrupted && path.is_file() {
                return result.map_err(|error| keeping(error, path));
            }
            if is_complete || !(was_interrupted || self.goes_on) {
                remove(path)?;
            }
            return result;
        };
        remove(path)?;
        if is_complete {
            remove(earlier)?;
        }
        // What was kept of these statistics has just been removed; what was kept of the output is still there.
        result.map_err(|error| match leftover(&error) {
            Some(Leftover::Kept(kept)) if !kept.exists() => interrupted(Leftover::InTheWay(earlier.clone())),
            Some(Leftover::Nothing) => interrupted(Leftover::InTheWay(earlier.clone())),
            _ => error,
        })
    }
}

/// Ctrl-C, with the statistics at `path` still there.
fn keeping(error: anyhow::Error, path: &Path) -> anyhow::Error {
    match leftover(&error) {
        Some(Leftover::Nothing) => interrupted(Leftover::Kept(path.into())),
        _ => error,
    }
}

/// Removes statistics and what was finished of them; a file that is none of ours stays.
fn remove(path: &Path) -> Result<()> {
    resume::discard(path);
    if Statistics::open(path).is_ok() {
        std::fs::remove_file(path).map_err(plmconv_formats::Error::io(path))?;
    }
    Ok(())
}

/// Directions of error feedback that the user wants left out.
fn left_out(args: &QuantizeArgs) -> Vec<Direction> {
    args.without.iter().filter_map(|part| part.direction()).collect()
}

/// What the rounding goes by; runs the calibration text first, through the model as the passes leave it.
fn rounding(
    args: &QuantizeArgs,
    model: &Model,
    passes: &[Pass],
    statistics: &OwnStatistics,
) -> Result<Rounding> {
    let effort = args.effort.into();
    let balance = !args.without.contains(&PartArg::Balance);
    if let Some(path) = &args.imatrix {
        if !passes.is_empty() {
            let message = "--passes changes what an importance matrix's columns stand for";
            return Err(UsageError::with_hint(message, "give the text to --calibrate instead").into());
        }
        let imatrix = Imatrix::open(path).at(Place::Imatrix)?;
        return Ok(Rounding::from_imatrix(imatrix, path, model, &Watch::new(args.output.console()))?);
    }
    if args.stats.is_none() && statistics.path.is_none() {
        return Ok(Rounding::default());
    }
    let rewritten;
    let model = if passes.is_empty() {
        model
    } else {
        rewritten = passes::apply(Model::open(&args.model).at(Place::Model)?, passes)?;
        &rewritten
    };
    if let Some(path) = &args.stats {
        let statistics = Statistics::open(path).at(Place::Statistics)?;
        return Ok(Rounding::from_statistics(statistics, model, effort, balance)?);
    }
    let Some(path) = &statistics.path else { return Ok(Rounding::default()) };
    let text = calibrate::read_text_of(&args.calibrate, args.self_tokens, &args.sample)?;
    if !statistics.are_there(path, &text.request(model)?)? {
        // What a killed run left there is in nobody's way.
        let to = Destination { path, overwrite: Statistics::open(path).is_ok(), resume: args.resume };
        write::thread_pool(args.output.threads)?
            .install(|| calibrate::run_text(model, &text, to, args.output.console()))?;
    }
    statistics.announce();
    let statistics = Statistics::open(path).at(Place::Statistics)?;
    Ok(Rounding::from_statistics(statistics, model, effort, balance)?)
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

fn sensitivity(args: &QuantizeArgs, model: &Model, rounding: &Rounding) -> Result<Sensitivity> {
    let pool = write::thread_pool(args.output.threads)?;
    let mut tensors = model.tensors.clone();
    if let Some(balance) = rounding.balance() {
        passes::balance::apply(&mut tensors, balance);
    }
    Ok(pool.install(|| Sensitivity::measure(&tensors, rounding, &Watch::new(args.output.console())))?)
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
        let text =
            small_file::utf8(path, small_file::read(path).at(Place::TensorTypes)?).at(Place::TensorTypes)?;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
        texts.extend(lines.map(str::to_string));
    }
    Ok(texts)
}

fn usage(error: plmconv_quant::Error) -> anyhow::Error {
    UsageError::new(error.to_string()).into()
}
