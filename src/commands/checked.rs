//! `plmconv quantize … --validate TEXT`: write, compare with the source, give it the name only if it passes.

use std::path::Path;

use anyhow::Result;
use plmconv_calibrate::resume::with_suffix;
use plmconv_formats::{Model, TextTokenizer};
use plmconv_validate::Options;

use super::write;
use crate::args::{QuantizeArgs, WindowArgs};
use crate::error::{At, ParityFailure, Place, leftover};
use crate::evaluation::{Request, Text, TextChoice, compare, windows_of};
use crate::outputs::Inputs;
use crate::pipeline::{REJECTED, Written};
use crate::plan::Target;
use crate::report;
use crate::report::validation::ValidationReport;

pub fn run(args: &QuantizeArgs, model: Model, target: Target, inputs: &Inputs, text: &Path) -> Result<()> {
    let text = Text::read(text)?;
    check_text(args, &model, &text)?;
    let Some((mut plan, written, elapsed)) = write::write(model, target, inputs, &args.output)? else {
        return Ok(());
    };
    let reject = |written: Written| {
        let named = plan.shards.iter().map(|shard| with_suffix(&shard.path, REJECTED));
        named.into_iter().try_for_each(|path| inputs.refuse(&path))?;
        written.reject()
    };
    let mut report = match validate(args, written.path(), &text) {
        Ok(report) => report,
        Err(error) if leftover(&error).is_some() => return Err(error),
        Err(error) => {
            // Not proven: it must not be taken for a file that was.
            reject(written)?;
            return Err(error.context("validating the written file, which is kept as .rejected"));
        }
    };
    if report.passed {
        written.commit()?;
    } else {
        let rejected = reject(written)?;
        plan.shards.iter_mut().zip(rejected).for_each(|(shard, path)| shard.path = path);
    }
    let path = plan.shards[0].path.clone();
    report.candidate.path = path.display().to_string();
    report::written::print(&plan.outline(), elapsed, args.output.json, Some(&report))?;
    if report.passed {
        return Ok(());
    }
    Err(ParityFailure { candidate: path, failed: report.failures() }.into())
}

/// A text that cannot be used is told before an hour of quantizing.
fn check_text(args: &QuantizeArgs, model: &Model, text: &Text) -> Result<()> {
    let tokenizer = TextTokenizer::from_model(model).at(Place::Model)?;
    let tokens = tokenizer.encode(&text.content)?;
    windows_of(&tokens, &tokenizer, args.check.validate_ctx, args.check.validate_chunks)
        .at(Place::CheckWindows)?;
    Ok(())
}

fn validate(args: &QuantizeArgs, written: &Path, text: &Text) -> Result<ValidationReport> {
    let threads = args.output.threads.map_or(0, |n| n.get());
    let comparison = compare(&Request {
        candidate: written,
        reference: &args.model,
        text: TextChoice::Given(text),
        windows: WindowArgs { ctx: Some(args.check.validate_ctx), chunks: args.check.validate_chunks },
        per_layer: false,
        limits: args.check.limits,
        options: Options { threads, ..Options::default() },
        arithmetic: None,
        console: args.output.console(),
    })
    .at(Place::CheckWindows)?;
    Ok(ValidationReport::new(&comparison, &args.model))
}
