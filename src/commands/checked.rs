//! `plmconv quantize … --validate TEXT`: write, compare with the source, keep the name only if it passes.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::{Error as FormatError, Model, TextTokenizer};
use plmconv_validate::Options;

use super::write;
use crate::args::{QuantizeArgs, WindowArgs};
use crate::error::{At, ParityFailure, Place};
use crate::evaluation::{Request, TextChoice, compare, read_text, windows_of};
use crate::plan::{Plan, Target};
use crate::report;
use crate::report::validation::ValidationReport;

pub fn run(args: &QuantizeArgs, model: Model, target: Target, text: &Path) -> Result<()> {
    check_text(args, &model, text)?;
    let Some((mut plan, elapsed)) = write::write(model, target, &args.output)? else {
        return Ok(());
    };
    let first = plan.shards[0].path.clone();
    let report = match validate(args, &first, text) {
        Ok(report) => report,
        Err(error) => {
            // Not proven: it must not be taken for a file that was.
            reject(&mut plan)?;
            return Err(error.context("validating the written file, which is renamed to .rejected"));
        }
    };
    if !report.passed {
        reject(&mut plan)?;
    }
    report::written::print(&plan.outline(), elapsed, args.output.json, Some(&report))?;
    if report.passed {
        return Ok(());
    }
    Err(ParityFailure { candidate: plan.shards[0].path.clone(), failed: report.failures() }.into())
}

/// A text that cannot be used is told before an hour of quantizing.
fn check_text(args: &QuantizeArgs, model: &Model, text: &Path) -> Result<()> {
    let tokenizer = TextTokenizer::from_model(model).at(Place::Model)?;
    let tokens = tokenizer.encode(&read_text(text)?)?;
    windows_of(&tokens, &tokenizer, args.check.validate_ctx, args.check.validate_chunks)
        .at(Place::CheckWindows)?;
    Ok(())
}

fn validate(args: &QuantizeArgs, written: &Path, text: &Path) -> Result<ValidationReport> {
    let threads = args.output.threads.map_or(0, |n| n.get());
    let comparison = compare(&Request {
        candidate: written,
        reference: &args.model,
        text: TextChoice::File(text.into()),
        windows: WindowArgs { ctx: Some(args.check.validate_ctx), chunks: args.check.validate_chunks },
        per_layer: false,
        limits: args.check.limits,
        options: Options { threads, ..Options::default() },
        console: args.output.console(),
    })
    .at(Place::CheckWindows)?;
    Ok(ValidationReport::new(&comparison, &args.model))
}

/// Renames all shards in their folder; an earlier rejected file of the name is replaced.
fn reject(plan: &mut Plan) -> Result<()> {
    for shard in &mut plan.shards {
        let mut name = shard.path.as_os_str().to_os_string();
        name.push(".rejected");
        let rejected = PathBuf::from(name);
        std::fs::rename(&shard.path, &rejected).map_err(FormatError::io(&shard.path))?;
        shard.path = rejected;
    }
    Ok(())
}
