//! `plmconv perplexity MODEL --text FILE`

use anyhow::Result;
use plmconv_validate::perplexity::perplexity;

use crate::args::{DEFAULT_CTX, PerplexityArgs};
use crate::error::{At, Place};
use crate::evaluation::{open_runnable, read_text, tokens_of, windows_of};
use crate::progress::Console;
use crate::report;

pub fn run(args: &PerplexityArgs) -> Result<()> {
    let console = Console { quiet: args.evaluator.quiet, verbose: false };
    let options = args.evaluator.options()?;
    let text = read_text(&args.text)?;
    let model = open_runnable(&args.model, options, args.evaluator.arithmetic(), console)?;
    let tokens = tokens_of(model.tokenizer(), &text, console)?;
    let ctx = args.windows.ctx.unwrap_or(DEFAULT_CTX);
    let windows = windows_of(&tokens, model.tokenizer(), ctx, args.windows.chunks).at(Place::Windows)?;
    let bar = console.window_bar(windows.count(), "scoring");
    let found = perplexity(model.runner(), &windows, None, |p| bar.set_position(p.windows_done as u64))
        .at(Place::Windows)?;
    bar.finish_and_clear();
    report::perplexity::print(&model, &windows, &found, args.json)
}
