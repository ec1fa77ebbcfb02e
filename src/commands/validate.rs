//! `plmconv validate CANDIDATE --against REFERENCE`

use anyhow::Result;

use crate::error::{At, ParityFailure, Place};
use crate::evaluation::{Comparable, TextChoice, compare};
use crate::report::validation::ValidationReport;
use crate::resolve::{EvaluatorRequest, ValidateRequest};

pub fn run(request: ValidateRequest) -> Result<()> {
    let EvaluatorRequest { options, arithmetic, console } = request.evaluator;
    let seed = request.seed;
    let text = match (&request.text, request.self_tokens) {
        (Some(text), _) => TextChoice::Given(text),
        (None, Some(tokens)) => TextChoice::Written { tokens: tokens.get(), seed },
        (None, None) => TextChoice::Default { seed },
    };
    let comparison = compare(&Comparable {
        candidate: &request.candidate,
        reference: &request.reference,
        text,
        windows: request.windows,
        per_layer: request.per_layer,
        limits: request.limits,
        options,
        arithmetic,
        console,
    })
    .at(Place::Windows)?;
    let report = ValidationReport::new(&comparison, &request.reference.path);
    report.print(request.json)?;
    request.forms.write(&report)?;
    if report.passed {
        return Ok(());
    }
    Err(ParityFailure { candidate: request.candidate, failed: report.failures() }.into())
}
