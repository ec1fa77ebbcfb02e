//! `plmconv generate MODEL PROMPT`

use std::ops::ControlFlow;

use anyhow::{Context, Result};
use plmconv_formats::TextTokenizer;
use plmconv_validate::generate::{GenerateOptions, generate};

use crate::error::{At, Place};
use crate::evaluation::{chat, open_runnable};
use crate::interrupt;
use crate::report;
use crate::report::stream::Stream;
use crate::resolve::{EvaluatorRequest, GenerateRequest};

pub fn run(request: &GenerateRequest) -> Result<()> {
    let EvaluatorRequest { options, arithmetic, console } = request.evaluator;
    let model = open_runnable(&request.model, options, arithmetic, console)?;
    let tokenizer = model.tokenizer();
    let prompt = prompt_tokens(tokenizer, request).context("the prompt")?;
    let options = GenerateOptions {
        max_tokens: request.tokens,
        temperature: request.temperature,
        seed: request.seed,
        stop: (0..tokenizer.vocab_size() as u32).filter(|id| tokenizer.ends_generation(*id)).collect(),
        vocabulary: Some(model.meaningful_ids()),
    };
    if request.json {
        let tokens = generate(model.runner(), &prompt, &options, |_| interrupt::flow()).at(Place::Prompt)?;
        interrupt::check()?;
        return report::generation::print(tokenizer, &prompt, &tokens);
    }
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

fn prompt_tokens(tokenizer: &TextTokenizer, request: &GenerateRequest) -> Result<Vec<u32>> {
    if request.chat {
        return Ok(tokenizer.encode_chat(&chat::render_user_message(tokenizer, &request.prompt)?)?);
    }
    let mut tokens = tokenizer.encode(&request.prompt)?;
    if tokenizer.add_eos() && tokens.last() == tokenizer.eos().as_ref() {
        // The text goes on.
        tokens.pop();
    }
    Ok(tokens)
}
