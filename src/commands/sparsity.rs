//! `plmconv inspect --sparsity TEXT MODEL`

use std::path::Path;

use anyhow::Result;
use plmconv_validate::Site;
use plmconv_validate::perplexity::perplexity;
use plmconv_validate::sparsity::Sparsity;

use crate::args::{DEFAULT_CTX, InspectArgs};
use crate::error::{At, Place};
use crate::evaluation::{load_model, read_text, tokens_of, windows_of};
use crate::progress::Console;
use crate::report;

pub fn run(args: &InspectArgs, text: &Path) -> Result<()> {
    let console = Console { quiet: args.evaluator.quiet, verbose: false };
    let options = args.evaluator.options()?;
    let text = read_text(text)?;
    let loaded = load_model(&args.path, options, console)?;
    let tokens = tokens_of(&loaded.tokenizer, &text, console)?;
    let ctx = args.windows.ctx.unwrap_or(DEFAULT_CTX);
    let windows = windows_of(&tokens, &loaded.tokenizer, ctx, args.windows.chunks).at(Place::Windows)?;
    let bar = console.window_bar(windows.count(), "counting");
    let mut sparsity = Sparsity::new(loaded.evaluator.config());
    let mut observe = |site: Site, values: &[f32]| sparsity.observe(site, values);
    perplexity(&loaded.evaluator, &windows, Some(&mut observe), |p| bar.set_position(p.windows_done as u64))
        .at(Place::Windows)?;
    bar.finish_and_clear();
    report::sparsity::print(&args.path, &sparsity, args.json)
}
