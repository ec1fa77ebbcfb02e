//! `plmconv validate CANDIDATE --against REFERENCE`

use std::collections::HashSet;
use std::path::PathBuf;

use anyhow::Result;

use crate::args::ValidateArgs;
use crate::error::{At, ParityFailure, Place, UsageError};
use crate::evaluation::{Request, Text, TextChoice, compare};
use crate::outputs::Inputs;
use crate::progress::Console;
use crate::report::file::ReportFile;
use crate::report::validation::ValidationReport;

pub fn run(args: &ValidateArgs) -> Result<()> {
    let forms = Forms::create(args)?;
    let given = args.text.as_deref().map(Text::read).transpose()?;
    let text = match (&given, args.self_tokens) {
        (Some(text), _) => TextChoice::Given(text),
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
        arithmetic: args.evaluator.arithmetic(),
        console: Console { quiet: args.evaluator.quiet, verbose: false },
    })
    .at(Place::Windows)?;
    let report = ValidationReport::new(&comparison, &args.against);
    report.print(args.json)?;
    forms.write(&report)?;
    if report.passed {
        return Ok(());
    }
    Err(ParityFailure { candidate: args.candidate.clone(), failed: report.failures() }.into())
}

/// The files that the report goes into, in its several forms.
struct Forms {
    junit: Option<ReportFile>,
    markdown: Option<ReportFile>,
    html: Option<ReportFile>,
}

impl Forms {
    fn create(args: &ValidateArgs) -> Result<Forms> {
        let inputs: Inputs = [&args.candidate, &args.against].into_iter().chain(&args.text).collect();
        let create = |path: &Option<PathBuf>| -> Result<Option<ReportFile>> {
            path.as_deref().map(|path| ReportFile::create(path, &inputs)).transpose()
        };
        let forms = Forms {
            junit: create(&args.junit)?,
            markdown: create(&args.markdown)?,
            html: create(&args.html)?,
        };
        forms.refuse_duplicates()?;
        Ok(forms)
    }

    fn refuse_duplicates(&self) -> Result<()> {
        let mut seen = HashSet::new();
        for form in [&self.junit, &self.markdown, &self.html].into_iter().flatten() {
            if let ReportFile::Atomic(file) = form
                && !seen.insert(file.destination())
            {
                let message = format!("{}: two reports cannot go into one file", file.target().display());
                return Err(UsageError::new(message).into());
            }
        }
        Ok(())
    }

    fn write(self, report: &ValidationReport) -> Result<()> {
        if let Some(file) = self.junit {
            file.write(&report.junit()?)?;
        }
        if let Some(file) = self.markdown {
            file.write(&report.markdown())?;
        }
        if let Some(file) = self.html {
            file.write(&report.html()?)?;
        }
        Ok(())
    }
}
