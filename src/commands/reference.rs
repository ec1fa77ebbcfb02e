//! `plmconv reference MODEL --text FILE -o REF.safetensors`

use std::num::NonZeroUsize;

use anyhow::Result;
use plmconv_validate::reference::{MODEL_DIGEST, ReferenceOptions, TEXT_DIGEST, write_reference};

use crate::args::{DEFAULT_CTX, ReferenceArgs};
use crate::error::{At, Place};
use crate::evaluation::{
    TOKENIZER_DIGEST, load_model, model_digest, read_text, text_digest, tokens_of, windows_of,
};
use crate::outputs::Inputs;
use crate::progress::Console;
use crate::report;

pub fn run(args: &ReferenceArgs) -> Result<()> {
    let console = Console { quiet: args.evaluator.quiet, verbose: false };
    let options = args.evaluator.options()?;
    let inputs: Inputs = [&args.model, &args.text].into_iter().collect();
    inputs.check_file(&args.output, args.force)?;
    let text = read_text(&args.text)?;
    let loaded = load_model(&args.model, options, console)?;
    let tokens = tokens_of(&loaded.tokenizer, &text, console)?;
    let ctx = args.windows.ctx.unwrap_or(DEFAULT_CTX);
    let windows = windows_of(&tokens, &loaded.tokenizer, ctx, args.windows.chunks).at(Place::Windows)?;
    let options = ReferenceOptions {
        top_k: args.top_k.map(NonZeroUsize::get),
        metadata: vec![
            (MODEL_DIGEST.into(), model_digest(&loaded.model)?),
            (TEXT_DIGEST.into(), text_digest(&text)),
            (TOKENIZER_DIGEST.into(), loaded.tokenizer.digest()),
            ("plmconv.version".into(), env!("CARGO_PKG_VERSION").into()),
        ],
        overwrite: args.force,
    };
    // From here on it is run from memory.
    loaded.model.check_unchanged()?;
    let bar = console.window_bar(windows.count(), "running");
    let perplexity = write_reference(&loaded.evaluator, &windows, &args.output, &options, |p| {
        bar.set_position(p.windows_done as u64);
    })
    .at(Place::ReferenceOutput)?;
    bar.finish_and_clear();
    report::stored::print(&args.output, &windows, perplexity, args.json)
}
