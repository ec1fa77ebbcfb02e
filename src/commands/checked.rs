//! `plmconv quantize … --validate TEXT`: write, compare with the source, give it the name only if it passes.

use std::path::Path;

use anyhow::Result;
use plmconv_calibrate::resume::with_suffix;
use plmconv_formats::{Model, TextTokenizer};
use plmconv_validate::Options;

use super::write::write_gguf;
use crate::error::{At, ParityFailure, Place, leftover};
use crate::evaluation::{Comparable, TextChoice, WindowChoice, compare, windows_of};
use crate::input::ModelInput;
use crate::outputs::Inputs;
use crate::pipeline::{REJECTED, Written};
use crate::plan::Plan;
use crate::report;
use crate::report::validation::ValidationReport;
use crate::resolve::CheckRequest;
use crate::run::Run;

/// A validation that a file has to pass to get its name.
pub struct Check {
    request: CheckRequest,
    model: ModelInput,
    run: Run,
}

impl Check {
    /// Refuses a text that cannot be used before hours of calibrating and quantizing.
    ///
    /// # Errors
    /// The text has too few tokens for its windows.
    pub fn new(request: CheckRequest, input: ModelInput, model: &Model, run: Run) -> Result<Check> {
        let tokenizer = TextTokenizer::from_model(model).at(Place::Model)?;
        let tokens = tokenizer.encode(&request.text.content)?;
        windows_of(&tokens, &tokenizer, request.ctx, request.chunks).at(Place::CheckWindows)?;
        Ok(Check { request, model: input, run })
    }

    /// Writes what is planned and validates it.
    ///
    /// # Errors
    /// As writing, or [`ParityFailure`]: the file then has another name.
    pub fn run(&self, mut plan: Plan, inputs: &Inputs) -> Result<()> {
        let Some(written) = write_gguf(&plan, inputs, true, self.run)? else { return Ok(()) };
        let reject = |written: Written| {
            let named = plan.shards.iter().map(|shard| with_suffix(&shard.path, REJECTED));
            named.into_iter().try_for_each(|path| inputs.refuse(&path))?;
            written.reject()
        };
        let mut report = match self.validate(written.path()) {
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
        report::written::print(&plan.outline(), self.run, Some(&report))?;
        if report.passed {
            return Ok(());
        }
        Err(ParityFailure { candidate: path, failed: report.failures() }.into())
    }

    fn validate(&self, written: &Path) -> Result<ValidationReport> {
        let threads = self.run.threads.map_or(0, |n| n.get());
        let comparison = compare(&Comparable {
            candidate: written,
            reference: &self.model,
            text: TextChoice::Given(&self.request.text),
            windows: WindowChoice { ctx: Some(self.request.ctx), chunks: self.request.chunks },
            per_layer: false,
            limits: self.request.limits,
            options: Options { threads, ..Options::default() },
            arithmetic: None,
            console: self.run.console,
        })
        .at(Place::CheckWindows)?;
        Ok(ValidationReport::new(&comparison, &self.model.path))
    }
}
