//! Texts that a model writes itself, many at once: every weight that is read serves all of them.

use std::ops::ControlFlow;

use plmconv_formats::TextTokenizer;
use plmconv_quant::random::SplitMix64;
use rayon::prelude::*;

use crate::batch::Sequence;
use crate::error::Result;
use crate::evaluator::Evaluator;
use crate::generate::{choose, meaningful_ids};
use crate::state::KvCache;

/// Bytes that the caches of the texts written at once may take.
const CACHE_BYTES: usize = 1 << 30;
/// Texts written at once, at most.
const MOST_TEXTS: usize = 256;

/// What is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleOptions {
    /// Tokens, over all texts.
    pub tokens: usize,
    /// Tokens of a text; the last one may be shorter. None is longer than the model's context.
    pub length: usize,
    /// Chooses what is written.
    pub seed: u64,
}

/// Samples texts at temperature 1, one after another in what is returned; the same for the same options, on any number of
/// threads. `on_token` gets the number of tokens so far, and may end it.
///
/// # Errors
/// What running a model may end with.
pub fn sample_text(
    evaluator: &Evaluator,
    tokenizer: &TextTokenizer,
    options: SampleOptions,
    mut on_token: impl FnMut(usize) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    let length = options.length.clamp(1, evaluator.context());
    let start = tokenizer.bos().or(tokenizer.eos()).unwrap_or(0);
    let vocabulary = meaningful_ids(tokenizer).min(evaluator.config().vocab_size);
    let cache_bytes = evaluator.new_cache().bytes_of(length);
    let at_once = (CACHE_BYTES / cache_bytes).clamp(1, MOST_TEXTS) * length;
    let mut written = Vec::with_capacity(options.tokens);
    for first in (0..options.tokens).step_by(at_once) {
        let tokens = at_once.min(options.tokens - first);
        let mut texts: Vec<Text> = (0..tokens)
            .step_by(length)
            .map(|at| Text {
                tokens: vec![start],
                wanted: length.min(tokens - at),
                cache: evaluator.new_cache(),
                random: SplitMix64::new(options.seed.wrapping_add((first + at) as u64)),
            })
            .collect();
        for done in 1..=length {
            extend(evaluator, &mut texts, vocabulary)?;
            let count: usize = texts.iter().map(|text| done.min(text.wanted)).sum();
            if on_token(first + count).is_break() {
                return Ok(written);
            }
        }
        written.extend(texts.iter().flat_map(|text| &text.tokens[1..]));
    }
    Ok(written)
}

/// One text on its way.
struct Text {
    /// The token it starts with, and what is written.
    tokens: Vec<u32>,
    wanted: usize,
    cache: KvCache,
    random: SplitMix64,
}

impl Text {
    fn is_complete(&self) -> bool {
        self.tokens.len() > self.wanted
    }
}

/// Adds a token to all texts that lack one. Ids from `vocabulary` on are not drawn.
fn extend(evaluator: &Evaluator, texts: &mut [Text], vocabulary: usize) -> Result<()> {
    let mut open: Vec<&mut Text> = texts.iter_mut().filter(|text| !text.is_complete()).collect();
    if open.is_empty() {
        return Ok(());
    }
    let mut batch: Vec<Sequence<'_>> = open
        .iter_mut()
        .map(|text| {
            let last = &text.tokens[text.tokens.len() - 1..];
            Sequence { tokens: last, wanted: 0..1, cache: Some(&mut text.cache) }
        })
        .collect();
    let logits = evaluator.forward(&mut batch)?;
    let width = logits.len() / open.len();
    let drawn: Vec<u32> = evaluator.install(|| {
        let rows = logits.par_chunks_exact(width).zip(open.par_iter_mut());
        rows.map(|(row, text)| choose(&row[..vocabulary], 1.0, &mut text.random)).collect()
    });
    open.iter_mut().zip(drawn).for_each(|(text, token)| text.tokens.push(token));
    Ok(())
}
