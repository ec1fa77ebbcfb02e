//! `plmconv perplexity MODEL --text FILE`

use anyhow::Result;
use plmconv_validate::perplexity::perplexity;

use crate::args::{DEFAULT_CTX, PerplexityArgs};
use crate::evaluation::{load_model, read_text, windows_of};
use crate::progress::Console;
use crate::report;

pub fn run(args: &PerplexityArgs) -> Result<()> {
    let console = Console { quiet: args.evaluator.quiet, verbose: false };
    let options = args.evaluator.options()?;
    let text = read_text(&args.text)?;
    let loaded = load_model(&args.model, options)?;
    let tokens = loaded.tokenizer.encode(&text)?;
    let windows =
        windows_of(&tokens, &loaded.tokenizer, args.windows.ctx.unwrap_or(DEFAULT_CTX), args.windows.chunks)?;
    let bar = console.window_bar(windows.count(), "scoring");
    let found = perplexity(&loaded.evaluator, &windows, None, |p| bar.set_position(p.windows_done as u64))?;
    bar.finish_and_clear();
    report::perplexity::print(&loaded, &windows, &found, args.json)
}
