//! A recipe of a file, resolved as the command line that it stands for.

use std::ffi::OsString;

use anyhow::{Context, Result, bail};

use super::verify::{VerifyRequest, refuse_unasked};
use super::{convert, quantize};
use crate::args::{self, Command, QuantizeArgs};
use crate::guidance::Guidance;
use crate::recipe::Recipe;
use crate::target::AnyTarget;

/// What the file of `request` was made to be, and what guided its rounding, by its recipe and the files that the user
/// gives.
///
/// # Errors
/// A recipe that this version does not know, or that names files; files that are missing or that nothing needs.
pub fn of_recipe(recipe: &Recipe, request: &VerifyRequest) -> Result<(AnyTarget, Guidance)> {
    let (statistics, imatrix) = (recipe.statistics.as_deref(), recipe.imatrix.as_deref());
    refuse_unasked("--stats", "statistics", request.statistics.as_deref(), statistics)?;
    refuse_unasked("--imatrix", "an importance matrix", request.imatrix.as_deref(), imatrix)?;
    let file = request.file.display();
    let (mut target, guidance) = match command_of(recipe, request)? {
        Command::Quantize(mut args) => {
            // Whoever wrote the file does not choose what is read or run here.
            if names_files(&args) {
                bail!("{file}: its recipe names files, which no recipe of plmconv does");
            }
            args.stats.clone_from(&request.statistics);
            args.imatrix.clone_from(&request.imatrix);
            (quantize::target(&args)?, quantize::guidance(&args)?)
        }
        Command::Convert(args) if args.adapters.lora.is_empty() => {
            (convert::target(&args)?, Guidance::none())
        }
        _ => bail!("{file}: its recipe makes no model"),
    };
    let made_by = match &mut target {
        AnyTarget::Gguf(target) => &mut target.made_by,
        AnyTarget::Onnx(target) => &mut target.made_by,
    };
    made_by.clone_from(&recipe.version);
    Ok((target, guidance))
}

fn command_of(recipe: &Recipe, request: &VerifyRequest) -> Result<Command> {
    let words = ["plmconv"].into_iter().chain(recipe.arguments.iter().map(String::as_str));
    let words = words.map(OsString::from).chain([OsString::from("--"), request.model.path.clone().into()]);
    args::parse_quietly(words).map_err(anyhow::Error::msg).with_context(|| {
        let (file, recipe) = (request.file.display(), recipe.command());
        format!("{file}: this plmconv does not know its recipe {recipe:?}")
    })
}

fn names_files(args: &QuantizeArgs) -> bool {
    !args.calibrate.is_empty()
        || args.self_tokens.is_some()
        || args.stats.is_some()
        || args.imatrix.is_some()
        || args.tensor_type_file.is_some()
        || args.like.is_some()
        || !args.adapters.lora.is_empty()
}
