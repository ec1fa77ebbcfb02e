//! What the commands that write a model have in common: the format, the passes, and where the output goes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::onnx::{Opset, Profile};
use plmconv_formats::{DType, Layout};
use plmconv_formats::{checkpoint, hub, onnx};

use super::size::parse_size;
use crate::args::{FormatArg, LayoutArg, OnnxArgs, OpsetArg, OutputArgs, ProfileArg};
use crate::error::{At, Place, UsageError};
use crate::outputs::Inputs;
use crate::passes::Pass;
use crate::target::{
    AnyTarget, Arrangement, Gguf, Onnx, OnnxWeights, Safetensors, Target, Types, shard_path,
};

/// A flag that belongs to one format, and whether it was given.
pub(super) type FormatFlag = (&'static str, bool);

/// A GGUF of these types, as far as the arguments of both commands say it.
pub(super) fn gguf_target(args: &OutputArgs, types: Types) -> Result<Target<Gguf>> {
    let split_max_size = args.split_max_size.as_deref().map(parse_size).transpose()?;
    let format = Gguf {
        tokenizer_pre: args.tokenizer_pre.clone(),
        arrangement: split_max_size.map_or(Arrangement::OneFile, Arrangement::Shards),
        layout: match args.layout.unwrap_or(LayoutArg::Plm) {
            LayoutArg::Plm => Layout::Plm,
            LayoutArg::Latent => Layout::Latent,
        },
        ..Gguf::new(types)
    };
    target(args, format)
}

/// An ONNX folder with these weights, as far as the arguments of both commands say it.
pub(super) fn onnx_target(
    args: &OutputArgs,
    onnx: &OnnxArgs,
    float: DType,
    weights: OnnxWeights,
) -> Result<Target<Onnx>> {
    let format = Onnx {
        profile: match onnx.profile.unwrap_or(ProfileArg::Latent) {
            ProfileArg::Latent => Profile::Latent,
            ProfileArg::Genai => Profile::Genai,
            ProfileArg::Hf => Profile::Hf,
        },
        opset: match onnx.opset.unwrap_or(OpsetArg::V21) {
            OpsetArg::V21 => Opset::V21,
            OpsetArg::V23 => Opset::V23,
        },
        num_logits_to_keep: onnx.num_logits_to_keep,
        ..Onnx::new(float, weights)
    };
    target(args, format)
}

pub(super) fn target<F>(args: &OutputArgs, format: F) -> Result<Target<F>> {
    Ok(Target {
        output: args.output.clone(),
        overwrite: args.force,
        passes: passes(&args.passes)?,
        ..Target::new(format)
    })
}

/// The passes the user names. None by default: none was measured to help a quantized file (docs/latent.md).
fn passes(names: &[String]) -> Result<Vec<Pass>> {
    let named = names.iter().map(|n| n.trim()).filter(|n| !n.is_empty());
    let found = named.map(|name| {
        Pass::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = Pass::all().map(Pass::name).collect();
            UsageError::with_hint(format!("unknown pass `{name}`"), format!("known: {}", known.join(", ")))
                .into()
        })
    });
    found.collect()
}

/// The flags that only a GGUF has a use for.
pub(super) fn gguf_flags(args: &OutputArgs) -> [FormatFlag; 3] {
    [
        ("--split-max-size", args.split_max_size.is_some()),
        ("--layout", args.layout.is_some()),
        ("--tokenizer-pre", args.tokenizer_pre.is_some()),
    ]
}

/// The flags that only an ONNX graph has a use for.
pub(super) fn onnx_flags(args: &OnnxArgs) -> [FormatFlag; 3] {
    [
        ("--profile", args.profile.is_some()),
        ("--opset", args.opset.is_some()),
        ("--num-logits-to-keep", args.num_logits_to_keep),
    ]
}

/// Refuses the first given flag of those that say nothing about `format`.
///
/// # Errors
/// One was given.
pub(super) fn refuse_flags(format: FormatArg, flags: &[FormatFlag]) -> Result<()> {
    let Some((flag, _)) = flags.iter().find(|(_, given)| *given) else { return Ok(()) };
    let (other, hint) = match (format, *flag) {
        (FormatArg::Gguf, _) => ("an ONNX graph", "add --to onnx, or leave it out"),
        (FormatArg::Safetensors, "--layout" | "--tokenizer-pre") => ("a GGUF", "leave it out"),
        (FormatArg::Safetensors, _) => ("an ONNX graph", "leave it out"),
        (FormatArg::GgufLora, "--layout" | "--tokenizer-pre" | "--split-max-size" | "--passes") => {
            ("a model", "leave it out")
        }
        (FormatArg::GgufLora, _) => ("an ONNX graph", "leave it out"),
        (FormatArg::Onnx, "--layout") => {
            ("a GGUF", "leave it out; --profile chooses the cache of an ONNX graph")
        }
        (FormatArg::Onnx, _) => ("a GGUF", "leave it out, or write a GGUF with --to gguf"),
    };
    Err(UsageError::with_hint(format!("{flag} is about {other}"), hint).into())
}

/// Checks that the output can be written where it goes.
///
/// # Errors
/// It belongs to an input, exists (without leave to overwrite), or cannot be written there.
pub(super) fn check_destination(target: &AnyTarget, model: &Path, inputs: &Inputs) -> Result<()> {
    let source = &source_of(model)?;
    match target {
        AnyTarget::Gguf(target) => {
            let output = target.output_path(source).at(Place::Output)?;
            if target.is_split() {
                // How many shards there will be is not known yet, but whether there may be any is.
                inputs.check_shards(&output, &[shard_path(&output, 0, 1)], target.overwrite)
            } else {
                inputs.check_file(&output, target.overwrite)
            }
        }
        AnyTarget::Onnx(target) => {
            inputs.check_folder(&target.output_path(source), target.overwrite, onnx::may_replace)
        }
    }
}

/// The same for a Hugging Face folder.
pub(super) fn check_checkpoint(target: &Target<Safetensors>, model: &Path, inputs: &Inputs) -> Result<()> {
    inputs.check_folder(&target.output_path(&source_of(model)?), target.overwrite, checkpoint::may_replace)
}

/// Where a model is read from: in the hub's cache a snapshot.
fn source_of(model: &Path) -> Result<PathBuf> {
    let snapshot = hub::snapshot(model).at(Place::Model)?;
    Ok(snapshot.unwrap_or_else(|| model.to_path_buf()))
}
