//! `plmconv validate CANDIDATE --against REFERENCE`

use std::path::Path;

use anyhow::Result;

use crate::args::ValidateArgs;
use crate::error::{At, ParityFailure, Place};
use crate::evaluation::{Request, TextChoice, compare};
use crate::progress::Console;
use crate::report::validation::ValidationReport;

pub fn run(args: &ValidateArgs) -> Result<()> {
    let text = match (&args.text, args.self_tokens) {
        (Some(path), _) => TextChoice::File(path.clone()),
        (None, Some(tokens)) => TextChoice::Written { tokens: tokens.get(), seed: args.seed },
        (None, None) => TextChoice::Default { seed: args.seed },
    };
    let comparison = compare(&Request {
        candidate: &args.candidate,
        reference: &args.against,
        text,
        windows: args.windows,
        per_layer: args.per_layer,
        limits: args.limits,
        options: args.evaluator.options()?,
        console: Console { quiet: args.evaluator.quiet, verbose: false },
    })
    .at(Place::Windows)?;
    let report = ValidationReport::new(&comparison, &args.against);
    report.print(args.json)?;
    write_forms(args, &report)?;
    if report.passed {
        return Ok(());
    }
    Err(ParityFailure { candidate: args.candidate.clone(), failed: report.failures() }.into())
}

fn write_forms(args: &ValidateArgs, report: &ValidationReport) -> Result<()> {
    if let Some(path) = &args.junit {
        save(path, &report.junit()?)?;
    }
    if let Some(path) = &args.markdown {
        save(path, &report.markdown())?;
    }
    if let Some(path) = &args.html {
        save(path, &report.html()?)?;
    }
    Ok(())
}

fn save(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).map_err(plmconv_formats::Error::io(path)).at(Place::Report)
}
