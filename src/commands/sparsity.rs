//! `plmconv inspect --sparsity TEXT MODEL`

use anyhow::Result;
use plmconv_validate::Site;
use plmconv_validate::perplexity::perplexity;
use plmconv_validate::sparsity::Sparsity;

use crate::error::{At, Place};
use crate::evaluation::{OpenModel, tokens_of};
use crate::input::ModelInput;
use crate::progress::{Unit, follow};
use crate::report;
use crate::resolve::{EvaluatorRequest, SparsityRequest};

pub fn run(model: &ModelInput, request: &SparsityRequest, json: bool) -> Result<()> {
    let SparsityRequest { text, evaluator } = request;
    let EvaluatorRequest { options, console, .. } = *evaluator;
    let open = OpenModel::open(model, console)?;
    let tokens = tokens_of(&open.tokenizer, &text.text, console)?;
    let windows = text.windows(&tokens, &open.tokenizer)?;
    let loaded = open.load(options)?;
    let bar = console.bar(windows.count() as u64, Unit::Items, "counting");
    let mut sparsity = Sparsity::new(loaded.evaluator.config());
    let mut observe = |site: Site, values: &[f32]| sparsity.observe(site, values);
    perplexity(&loaded.evaluator, &windows, Some(&mut observe), |p| follow(&bar, p)).at(Place::Windows)?;
    bar.finish_and_clear();
    report::sparsity::print(&model.path, &sparsity, json)
}
