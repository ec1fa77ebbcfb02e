//! `plmconv verify FILE MODEL`

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use indicatif::ProgressBar;
use plmconv_calibrate::Rounding;
use plmconv_formats::{Imatrix, Model};

use super::quantize;
use crate::error::{At, NotReproduced, Place, UsageError};
use crate::guidance::{Guidance, OwnStatistics, Source};
use crate::input::open_model;
use crate::onnx::{OnnxDraft, find_graph};
use crate::plan::Draft;
use crate::progress::Unit;
use crate::recipe::{Recipe, RecipeAdapter};
use crate::resolve::{VerifyRequest, of_recipe, refuse_unasked};
use crate::target::{AnyTarget, Arrangement};
use crate::verification::{Difference, GgufCandidate, OnnxCandidate, Verification};
use crate::{interrupt, report};

pub fn run(request: &VerifyRequest) -> Result<()> {
    let started = Instant::now();
    let model = open_model(&request.model, request.run.console)?;
    if model.tensors.iter().any(|tensor| tensor.source.dtype().is_quantized()) {
        request
            .run
            .console
            .warn("MODEL is itself quantized: that FILE follows from it says nothing about the checkpoint");
    }
    // All of it on one thread of the pool: what reading FILE takes is free again when the plan is made, and glibc keeps
    // what one thread has freed from the others.
    let found = request.run.pool()?.install(|| match find_graph(&request.file)? {
        Some(graph) => onnx(request, &graph, model),
        None => gguf(request, model),
    })?;
    let verification = Verification {
        file: request.file.clone(),
        model: request.model.path.clone(),
        identical: found.differences.is_empty(),
        recipe: found.recipe,
        file_type: found.file_type,
        excepted: request.except.clone(),
        tensors: found.tensors,
        bytes: found.bytes,
        differences: found.differences,
        elapsed: started.elapsed(),
    };
    report::verification::print(&verification, request.run.json)?;
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

fn gguf(request: &VerifyRequest, model: Model) -> Result<Found> {
    let mut file = GgufCandidate::open(&request.file)?;
    let (mut target, guidance) = match &file.recipe {
        Some(recipe) => match of_recipe(recipe, request)? {
            (AnyTarget::Gguf(target), guidance) => (target, guidance),
            (AnyTarget::Onnx(_), _) => bail!("{}: its recipe makes no GGUF", request.file.display()),
        },
        None => (file.plain_target()?, plain_guidance(&file, request, &model)?),
    };
    check_adapters(file.recipe.as_ref(), &model)?;
    target.format.arrangement = Arrangement::Like(file.arrangement(&request.except));
    // Whatever its source is: nothing is quantized again here.
    target.allow_requantize = true;
    let check = |rounding: &Rounding| match &file.recipe {
        Some(recipe) => check_digests(request, recipe, rounding),
        None => Ok(()),
    };
    let draft = Draft::new(model, target, guidance.has_importance())?;
    let plan = quantize::plan(draft, guidance, &OwnStatistics::none(), &check, request.run)?;
    let (file_type, tensors) = (plan.file_type.clone(), plan.tensors.len());
    let bytes = plan.source_bytes();
    let differences = with_bar(request, bytes, |bar| file.compare(plan, bar, request.run.console))?;
    Ok(Found { file_type, tensors, bytes: file.bytes(), differences, recipe: file.recipe })
}

fn onnx(request: &VerifyRequest, graph: &Path, model: Model) -> Result<Found> {
    let folder = OnnxCandidate::open(graph)?;
    let (mut target, guidance) = match of_recipe(&folder.recipe, request)? {
        (AnyTarget::Onnx(target), guidance) => (target, guidance),
        (AnyTarget::Gguf(_), _) => bail!("{}: its recipe makes no ONNX folder", request.file.display()),
    };
    check_adapters(Some(&folder.recipe), &model)?;
    target.allow_requantize = true;
    let draft = OnnxDraft::new(model, target)?;
    let check = |rounding: &Rounding| check_digests(request, &folder.recipe, rounding);
    let plan = quantize::onnx_plan(draft, guidance, &OwnStatistics::none(), &check, request.run)?;
    let compare = |bar: &ProgressBar| folder.compare(&plan, &request.except, bar, request.run.console);
    let (differences, bytes) = with_bar(request, plan.source_bytes(), compare)?;
    let tensors = plan.model.tensors.len();
    Ok(Found { recipe: Some(folder.recipe), file_type: plan.type_name, tensors, bytes, differences })
}

fn with_bar<T>(
    request: &VerifyRequest,
    bytes: u64,
    work: impl FnOnce(&ProgressBar) -> Result<T>,
) -> Result<T> {
    let _stoppable = interrupt::stoppable();
    let bar = request.run.console.bar(bytes, Unit::Bytes, "verifying");
    let done = work(&bar)?;
    bar.finish_and_clear();
    Ok(done)
}

/// What guided the rounding of a file that carries no recipe: at most the importance matrix that the user has.
fn plain_guidance(file: &GgufCandidate, request: &VerifyRequest, model: &Model) -> Result<Guidance> {
    refuse_unasked("--stats", "statistics", request.statistics.as_deref(), None)?;
    let Some(path) = &request.imatrix else {
        file.refuse_without_imatrix(model)?;
        return Ok(Guidance::none());
    };
    let imatrix = Imatrix::open(path).at(Place::Imatrix)?;
    Ok(Guidance { by: Source::Imatrix { imatrix, path: path.clone() }, ..Guidance::none() })
}

/// The adapters that a file was made with have to be given, and no others.
fn check_adapters(recipe: Option<&Recipe>, model: &Model) -> Result<()> {
    let wanted = recipe.map_or(&[][..], |recipe| &recipe.adapters);
    let given: Vec<RecipeAdapter> = model.adapters.iter().map(RecipeAdapter::from).collect();
    let list = |adapters: &[RecipeAdapter]| {
        let each = adapters.iter().map(RecipeAdapter::to_string);
        each.collect::<Vec<_>>().join(", then ")
    };
    let (message, hint) = match (wanted, given.as_slice()) {
        (wanted, given) if wanted == given => return Ok(()),
        ([], _) => ("the file was made without an adapter".to_string(), "leave out --lora"),
        (wanted, []) => (
            format!("the file was made with a LoRA adapter, which verifying needs: {}", list(wanted)),
            "give it with --lora ADAPTER[=SCALE]; `sha256sum ADAPTER/*` prints the digests",
        ),
        (wanted, given) => (
            format!("the file was made with the LoRA adapter {}, not with {}", list(wanted), list(given)),
            "give the same adapters in the same order and with the same scales; `sha256sum ADAPTER/*` prints the digests",
        ),
    };
    Err(UsageError::with_hint(message, hint).into())
}

fn check_digests(request: &VerifyRequest, recipe: &Recipe, rounding: &Rounding) -> Result<()> {
    let wanted = recipe.statistics.as_deref().or(recipe.imatrix.as_deref());
    let path = request.statistics.as_ref().or(request.imatrix.as_ref());
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
