//! `plmconv quantize TYPE MODEL`

use anyhow::{Context, Result};
use plmconv_quant::policy::{FileType, Policy, parse_override, parse_tensor_type};

use super::write;
use crate::args::QuantizeArgs;
use crate::error::UsageError;
use crate::plan::{Target, Types};

pub fn run(args: &QuantizeArgs) -> Result<()> {
    let target = Target {
        types: Types::Preset(policy(args)?),
        allow_requantize: args.allow_requantize,
        ..write::target(&args.output)?
    };
    write::run(&args.model, target, &args.output)
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
