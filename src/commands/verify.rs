//! `plmconv verify FILE MODEL`

use std::ffi::OsString;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::ProgressBar;
use plmconv_calibrate::Rounding;
use plmconv_formats::Model;

use super::{convert, quantize, write};
use crate::args::{Cli, Command, QuantizeArgs, VerifyArgs};
use crate::error::{NotReproduced, UsageError};
use crate::input::open_model;
use crate::onnx::{self, OnnxPlan, find_graph};
use crate::plan::{Arrangement, Plan, Target};
use crate::recipe::Recipe;
use crate::verification::{Difference, GgufCandidate, OnnxCandidate, Verification};
use crate::{interrupt, report};

pub fn run(args: &VerifyArgs) -> Result<()> {
    let real = |path: &Path| path.canonicalize().ok();
    if real(&args.file).is_some_and(|file| real(&args.model) == Some(file)) {
        let hint = "MODEL is what FILE was made from: the checkpoint, or its GGUF of f32, f16 or bf16";
        return Err(UsageError::with_hint("FILE and MODEL are the same", hint).into());
    }
    let started = Instant::now();
    let model = open_model(&args.model, args.console())?;
    if model.tensors.iter().any(|tensor| tensor.source.dtype().is_quantized()) {
        args.console()
            .warn("MODEL is quantized itself: that FILE follows from it says nothing of the checkpoint");
    }
    // All of it on one thread of the pool: what reading FILE takes is free again when the plan is made, and glibc keeps
    // what one thread has freed from the others.
    let found = write::thread_pool(args.threads)?.install(|| match find_graph(&args.file)? {
        Some(graph) => onnx(args, &graph, model),
        None => gguf(args, model),
    })?;
    let verification = Verification {
        file: args.file.clone(),
        model: args.model.clone(),
        identical: found.differences.is_empty(),
        recipe: found.recipe,
        file_type: found.file_type,
        excepted: args.except.clone(),
        tensors: found.tensors,
        bytes: found.bytes,
        differences: found.differences,
        elapsed: started.elapsed(),
    };
    report::verification::print(&verification, args.json)?;
    if verification.identical { Ok(()) } else { Err(NotReproduced::new(&verification).into()) }
}

/// What the two formats tell.
struct Found {
    recipe: Option<Recipe>,
    file_type: String,
    tensors: usize,
    bytes: u64,
    differences: Vec<Difference>,
}

fn gguf(args: &VerifyArgs, model: Model) -> Result<Found> {
    let mut file = GgufCandidate::open(&args.file)?;
    let target = match &file.recipe {
        Some(recipe) => recipe_target(args, recipe, &model)?,
        None => {
            refuse_unasked("--stats", "statistics", args.stats.as_deref(), None)?;
            file.plain_target(&model, args.imatrix.as_deref(), args.console())?
        }
    };
    let target = Target {
        arrangement: Arrangement::Like(file.arrangement(&args.except)),
        // Whatever its source is: nothing is quantized again here.
        allow_requantize: true,
        ..target
    };
    let plan = Plan::new(model, target)?;
    let (file_type, tensors) = (plan.file_type.clone(), plan.tensors.len());
    let bytes = plan.source_bytes();
    let differences = with_bar(args, bytes, |bar| file.compare(plan, bar, args.console()))?;
    Ok(Found { file_type, tensors, bytes: file.bytes(), differences, recipe: file.recipe })
}

fn onnx(args: &VerifyArgs, graph: &Path, model: Model) -> Result<Found> {
    let folder = OnnxCandidate::open(graph)?;
    let target = recipe_onnx_target(args, &folder.recipe, &model)?;
    let target = onnx::Target { allow_requantize: true, ..target };
    let plan = OnnxPlan::new(model, target)?;
    let compare = |bar: &ProgressBar| folder.compare(&plan, &args.except, bar, args.console());
    let (differences, bytes) = with_bar(args, plan.source_bytes(), compare)?;
    let tensors = plan.model.tensors.len();
    Ok(Found { recipe: Some(folder.recipe), file_type: plan.type_name, tensors, bytes, differences })
}

fn with_bar<T>(args: &VerifyArgs, bytes: u64, work: impl FnOnce(&ProgressBar) -> Result<T>) -> Result<T> {
    let _stoppable = interrupt::stoppable();
    let bar = args.console().bar(bytes, "verifying");
    let done = work(&bar)?;
    bar.finish_and_clear();
    Ok(done)
}

/// The target that a GGUF's recipe stands for, resolved as the command line is.
fn recipe_target(args: &VerifyArgs, recipe: &Recipe, model: &Model) -> Result<Target> {
    let target = match command_of(args, recipe)? {
        Command::Quantize(command) => {
            quantize::gguf_target(&command, model, &|rounding| check_digests(args, recipe, rounding))?
        }
        Command::Convert(command) => convert::gguf_target(&command)?,
        _ => bail!("{}: its recipe makes no model", args.file.display()),
    };
    Ok(Target { made_by: recipe.version.clone(), ..target })
}

fn recipe_onnx_target(args: &VerifyArgs, recipe: &Recipe, model: &Model) -> Result<onnx::Target> {
    let target = match command_of(args, recipe)? {
        Command::Quantize(command) => {
            quantize::onnx_target(&command, model, &|rounding| check_digests(args, recipe, rounding))?
        }
        Command::Convert(command) => convert::onnx_target(&command)?,
        _ => bail!("{}: its recipe makes no model", args.file.display()),
    };
    Ok(onnx::Target { made_by: recipe.version.clone(), ..target })
}

/// The command line that a recipe stands for, with the files that the user gives.
fn command_of(args: &VerifyArgs, recipe: &Recipe) -> Result<Command> {
    let (statistics, imatrix) = (recipe.statistics.as_deref(), recipe.imatrix.as_deref());
    refuse_unasked("--stats", "statistics", args.stats.as_deref(), statistics)?;
    refuse_unasked("--imatrix", "an importance matrix", args.imatrix.as_deref(), imatrix)?;
    let words = ["plmconv"].into_iter().chain(recipe.arguments.iter().map(String::as_str));
    let words = words.map(OsString::from).chain([OsString::from("--"), args.model.clone().into()]);
    let parsed = Cli::try_parse_from(words).map_err(|error| {
        let reason = error.to_string();
        anyhow::anyhow!(reason.lines().next().unwrap_or_default().to_string())
    });
    let mut command = parsed
        .with_context(|| {
            let (file, recipe) = (args.file.display(), recipe.command());
            format!("{file}: this plmconv does not know its recipe {recipe:?}")
        })?
        .command;
    if let Command::Quantize(quantize) = &mut command {
        // Whoever wrote the file does not choose what is read or run here.
        if names_files(quantize) {
            bail!("{}: its recipe names files, which no recipe of plmconv does", args.file.display());
        }
        quantize.stats.clone_from(&args.stats);
        quantize.imatrix.clone_from(&args.imatrix);
        quantize.output.threads = args.threads;
        quantize.output.quiet = args.quiet;
    }
    Ok(command)
}

fn names_files(args: &QuantizeArgs) -> bool {
    !args.calibrate.is_empty()
        || args.self_tokens.is_some()
        || args.stats.is_some()
        || args.imatrix.is_some()
        || args.tensor_type_file.is_some()
}

/// A file has to be given where its digest is known, and only there.
fn refuse_unasked(flag: &str, what: &str, given: Option<&Path>, wanted: Option<&str>) -> Result<()> {
    let (message, hint) = match (given, wanted) {
        (None, Some(digest)) => (
            format!("the file was rounded by {what}, which verifying needs: SHA-256 {digest}"),
            format!("give the file with {flag}; docs/verify.md says how to get one again"),
        ),
        (Some(path), None) => {
            (format!("{}: the file was not rounded by {what}", path.display()), format!("leave {flag} out"))
        }
        _ => return Ok(()),
    };
    Err(UsageError::with_hint(message, hint).into())
}

fn check_digests(args: &VerifyArgs, recipe: &Recipe, rounding: &Rounding) -> Result<()> {
    let wanted = recipe.statistics.as_deref().or(recipe.imatrix.as_deref());
    let path = args.stats.as_ref().or(args.imatrix.as_ref());
    match (wanted, rounding.digest(), path) {
        (Some(wanted), Some(found), Some(path)) if wanted != found => {
            let path = path.display();
            let message = format!("{path}: SHA-256 {found}, but the file was rounded by {wanted}");
            Err(UsageError::with_hint(message, "find the file with that SHA-256; `sha256sum` prints it")
                .into())
        }
        _ => Ok(()),
    }
}
