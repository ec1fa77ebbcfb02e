//! How far a file is from its model inside llama.cpp, as llama-perplexity measures with `--kl-divergence`.
//!
//! Windows are those of [`crate::perplexity`]: of each, the logits of the second half's tokens but the last are compared.
//! Both models run window by window, so that no logits have to be kept.

use crate::error::{Error, Result};
use crate::golden::divergences;
use crate::llama::{Context, ContextOptions, Model, Token};

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub struct DivergenceOptions {
    /// Tokens in a window.
    pub n_ctx: usize,
    /// At most this many windows.
    pub chunks: Option<usize>,
    pub threads: usize,
    /// For the candidate; the reference runs without.
    pub flash_attention: bool,
}

/// What was measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Divergence {
    /// Mean Kullback-Leibler divergence in nats, of the reference from the candidate.
    pub mean: f64,
    /// One standard deviation of `mean`.
    pub standard_error: f64,
    pub tokens_scored: usize,
}

/// Compares two models of one vocabulary on `tokens`.
///
/// # Errors
/// [`Error::TextTooShort`] under one window; [`Error::Option`] for vocabularies that differ or windows too small; those
/// of [`Context`].
pub fn divergence(
    reference: &Model,
    candidate: &Model,
    tokens: &[Token],
    options: DivergenceOptions,
) -> Result<Divergence> {
    let DivergenceOptions { n_ctx, chunks, .. } = options;
    check(reference, candidate, tokens.len(), n_ctx)?;
    let vocab = reference.vocab_size();
    let scored = n_ctx / 2 * vocab..(n_ctx - 1) * vocab;
    let mut left = context(reference, options, false)?;
    let mut right = context(candidate, options, options.flash_attention)?;
    let mut found = Vec::new();
    for window in tokens.chunks_exact(n_ctx).take(chunks.unwrap_or(usize::MAX)) {
        let (a, b) = (left.logits_of(window)?, right.logits_of(window)?);
        found.extend(divergences(&a[scored.clone()], &b[scored.clone()], vocab));
    }
    let count = found.len() as f64;
    let mean = found.iter().sum::<f64>() / count;
    let variance = found.iter().map(|kl| (kl - mean).powi(2)).sum::<f64>() / (count - 1.0).max(1.0);
    Ok(Divergence { mean, standard_error: (variance / count).sqrt(), tokens_scored: found.len() })
}

fn check(reference: &Model, candidate: &Model, tokens: usize, n_ctx: usize) -> Result<()> {
    let refused = |what, value: usize, why| Err(Error::Option { what, value: value.to_string(), why });
    if n_ctx < 4 {
        return refused("n_ctx", n_ctx, "nothing is scored");
    }
    if reference.vocab_size() != candidate.vocab_size() {
        return refused("vocabulary", candidate.vocab_size(), "not that of the reference");
    }
    if tokens < n_ctx {
        return Err(Error::TextTooShort { tokens, n_ctx, needed: n_ctx });
    }
    Ok(())
}

fn context(model: &Model, options: DivergenceOptions, flash_attention: bool) -> Result<Context<'_>> {
    let DivergenceOptions { n_ctx, threads, .. } = options;
    // llama.cpp pads a cache to multiples of 256 cells.
    let cells = n_ctx.next_multiple_of(256);
    let more = ContextOptions::default();
    Context::new(model, ContextOptions { n_ctx: cells, n_batch: cells, threads, flash_attention, ..more })
}
