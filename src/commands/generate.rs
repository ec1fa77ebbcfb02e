//! `plmconv generate MODEL PROMPT`

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use plmconv_formats::TextTokenizer;
use plmconv_validate::generate::{GenerateOptions, generate};

use crate::args::GenerateArgs;
use crate::error::{At, Place};
use crate::evaluation::{chat, open_runnable};
use crate::progress::Console;
use crate::report::stream::Stream;

pub fn run(args: &GenerateArgs) -> Result<()> {
    let console = Console { quiet: args.evaluator.quiet, verbose: false };
    let model = open_runnable(&args.model, args.evaluator.options()?, args.evaluator.arithmetic(), console)?;
    let tokenizer = model.tokenizer();
    let prompt = prompt_tokens(tokenizer, args).context("the prompt")?;
    let options = GenerateOptions {
        max_tokens: args.tokens,
        temperature: args.temperature,
        seed: args.seed,
        stop: (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.ends_generation(*id)).collect(),
        vocabulary: Some(model.meaningful_ids()),
    };
    let mut stream = Stream::new(tokenizer);
    // A closed pipe is a reader that has seen enough.
    let on_token = |token| match stream.push(token) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    };
    generate(model.runner(), &prompt, &options, on_token).at(Place::Prompt)?;
    stream.finish();
    Ok(())
}

fn prompt_tokens(tokenizer: &TextTokenizer, args: &GenerateArgs) -> Result<Vec<u32>> {
    if args.chat {
        return Ok(tokenizer.encode_chat(&chat::render_user_message(tokenizer, &args.prompt)?)?);
    }
    let mut tokens = tokenizer.encode(&args.prompt)?;
    if tokenizer.add_eos() && tokens.last() == tokenizer.eos().as_ref() {
        // The text goes on.
        tokens.pop();
    }
    Ok(tokens)
}
