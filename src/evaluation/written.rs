//! Texts that a model writes itself.

use std::ops::ControlFlow;

use anyhow::Result;
use plmconv_validate::generate::{GenerateOptions, generate};

use super::side::Loaded;
use crate::interrupt;
use crate::progress::Console;

/// Samples `count` tokens at temperature 1, in pieces that fit the model's context. The same for the same seed.
///
/// # Errors
/// What running a model may end with, and Ctrl-C where it is listened to.
pub fn write_text(model: &Loaded, count: usize, seed: u64, console: Console) -> Result<Vec<u32>> {
    let start = model.tokenizer.bos().or(model.tokenizer.eos()).unwrap_or(0);
    let piece = (model.evaluator.context() / 2).max(1);
    let bar = console.window_bar(count, "writing a text");
    let mut written = Vec::with_capacity(count);
    while written.len() < count {
        let options = GenerateOptions {
            max_tokens: piece.min(count - written.len()),
            temperature: 1.0,
            seed: seed.wrapping_add(written.len() as u64),
            stop: Vec::new(),
            vocabulary: Some(model.meaningful_ids()),
        };
        let tokens = generate(&model.evaluator, &[start], &options, |_| {
            bar.inc(1);
            if interrupt::is_pending() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        interrupt::check()?;
        written.extend(tokens);
    }
    bar.finish_and_clear();
    Ok(written)
}
