//! `plmconv perplexity MODEL --text FILE`

use anyhow::Result;
use plmconv_validate::perplexity::perplexity;

use crate::error::{At, Place};
use crate::evaluation::{open_runnable, tokens_of};
use crate::progress::{Unit, follow};
use crate::report;
use crate::resolve::{EvaluatorRequest, PerplexityRequest};

pub fn run(request: &PerplexityRequest) -> Result<()> {
    let PerplexityRequest { model, text, json, evaluator } = request;
    let EvaluatorRequest { options, arithmetic, console } = *evaluator;
    let model = open_runnable(model, options, arithmetic, console)?;
    let tokens = tokens_of(model.tokenizer(), &text.text, console)?;
    let windows = text.windows(&tokens, model.tokenizer())?;
    let bar = console.bar(windows.count() as u64, Unit::Items, "scoring");
    let found = perplexity(model.runner(), &windows, None, |p| follow(&bar, p)).at(Place::Windows)?;
    bar.finish_and_clear();
    report::perplexity::print(&model, &windows, &found, *json)
}
