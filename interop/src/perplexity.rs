//! Perplexity as llama.cpp's program `llama-perplexity` measures it, through the C interface.
//!
//! The text is cut into windows of `n_ctx` tokens that share nothing; in each, the tokens of the second half but the
//! first are scored (the logits of positions `n_ctx / 2` to `n_ctx - 2` against the token after each). As many whole
//! windows as a batch holds are computed together, each its own sequence. A window's first token is replaced by the
//! beginning-of-sequence token where the vocabulary asks for one.

use std::num::NonZeroUsize;
use std::time::Instant;

use crate::error::{Error, Result};
use crate::llama::{Batch, Context, ContextOptions, Model, Token};

/// How to measure.
#[derive(Debug, Clone, Copy)]
pub struct PerplexityOptions {
    /// Tokens in a window.
    pub n_ctx: usize,
    /// Tokens in a batch; a multiple of `n_ctx`, or less than it.
    pub n_batch: usize,
    pub n_ubatch: usize,
    /// At most this many windows.
    pub chunks: Option<usize>,
    pub threads: usize,
    pub flash_attention: bool,
}

impl Default for PerplexityOptions {
    /// llama-perplexity's own values, but for flash attention (see [`ContextOptions`]).
    fn default() -> Self {
        Self { n_ctx: 512, n_batch: 2048, n_ubatch: 512, chunks: None, threads: 2, flash_attention: false }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Perplexity {
    pub perplexity: f64,
    /// One standard deviation of `perplexity`.
    pub standard_error: f64,
    /// Mean negative log-likelihood in nats.
    pub mean_nll: f64,
    pub tokens_scored: usize,
    pub tokens_evaluated: usize,
    /// From the first batch to the last score, without loading and tokenizing.
    pub seconds: f64,
    /// `tokens_evaluated / seconds`.
    pub tokens_per_second: f64,
    /// Key-value cache in bytes, as llama.cpp logs it.
    pub kv_cache_bytes: Option<f64>,
}

/// Measures `model` on `tokens`.
///
/// # Errors
/// [`Error::TextTooShort`] under two windows; [`Error::Option`] if batch and window do not fit each other; those of
/// [`Context`].
pub fn perplexity(model: &Model, tokens: &[Token], options: PerplexityOptions) -> Result<Perplexity> {
    let n_ctx = options.n_ctx;
    check(tokens.len(), options)?;
    let chunks = (tokens.len() / n_ctx).min(options.chunks.unwrap_or(usize::MAX));
    let n_seq = (options.n_batch / n_ctx).max(1);
    let mut context = Context::new(
        model,
        ContextOptions {
            n_ctx: n_seq * n_ctx,
            n_batch: options.n_batch.min(n_seq * n_ctx),
            n_ubatch: options.n_ubatch,
            n_seq,
            threads: options.threads,
            flash_attention: options.flash_attention,
        },
    )?;

    let start = Instant::now();
    let mut scores = Vec::with_capacity(chunks * (n_ctx - n_ctx / 2));
    let windows: Vec<&[Token]> = tokens.chunks_exact(n_ctx).take(chunks).collect();
    for group in windows.chunks(n_seq) {
        score_group(&mut context, group, options, &mut scores)?;
    }
    let seconds = start.elapsed().as_secs_f64();

    let count = scores.len() as f64;
    let mean = scores.iter().sum::<f64>() / count;
    let variance = scores.iter().map(|nll| nll * nll).sum::<f64>() / count - mean * mean;
    let standard_error = if variance > 0.0 { (variance / (count - 1.0)).sqrt() } else { 0.0 };
    let tokens_evaluated = chunks * n_ctx;
    Ok(Perplexity {
        perplexity: mean.exp(),
        standard_error: standard_error * mean.exp(),
        mean_nll: mean,
        tokens_scored: scores.len(),
        tokens_evaluated,
        seconds,
        tokens_per_second: tokens_evaluated as f64 / seconds,
        kv_cache_bytes: context.kv_cache_bytes(),
    })
}

fn check(tokens: usize, options: PerplexityOptions) -> Result<()> {
    let PerplexityOptions { n_ctx, n_batch, .. } = options;
    if n_ctx < 4 {
        return Err(Error::Option { what: "n_ctx", value: n_ctx.to_string(), why: "nothing is scored" });
    }
    if n_batch == 0 || (n_batch >= n_ctx && !n_batch.is_multiple_of(n_ctx)) {
        return Err(Error::Option {
            what: "n_batch",
            value: n_batch.to_string(),
            why: "a batch is a part of a window or whole windows",
        });
    }
    if options.chunks == Some(0) {
        return Err(Error::Option { what: "chunks", value: "0".into(), why: "nothing is scored" });
    }
    match tokens < 2 * n_ctx {
        true => Err(Error::TextTooShort { tokens, n_ctx, needed: 2 * n_ctx }),
        false => Ok(()),
    }
}

/// Computes the windows of `group` together and appends their scores.
fn score_group(
    context: &mut Context<'_>,
    group: &[&[Token]],
    options: PerplexityOptions,
    scores: &mut Vec<f64>,
) -> Result<()> {
    let n_ctx = options.n_ctx;
    let first = n_ctx / 2;
    let vocab = context.model().vocab_size();
    let bos = context.model().adds_bos().then(|| context.model().bos());
    let mut batch = Batch::default();
    let mut collected: Vec<f32> = Vec::new();
    context.clear();
    // Several batches to a window only where a window exceeds a batch, and then the group is that one window.
    for start in (0..n_ctx).step_by(options.n_batch) {
        batch.clear();
        for (sequence, window) in group.iter().enumerate() {
            for position in start..n_ctx.min(start + options.n_batch) {
                let token = if position == 0 { bos.unwrap_or(window[0]) } else { window[position] };
                batch.push(token, position, sequence, position >= first);
            }
        }
        context.decode(&mut batch)?;
        if options.n_batch < n_ctx && start + batch.len() > first {
            collected.extend_from_slice(context.logits()?);
        }
    }
    let logits = if collected.is_empty() { context.logits()? } else { &collected };
    for (window, logits) in group.iter().zip(logits.chunks_exact((n_ctx - first) * vocab)) {
        let rows: Vec<(&[f32], Token)> =
            logits.chunks_exact(vocab).zip(window[first + 1..].iter().copied()).collect();
        scores.extend(negative_log_likelihoods(&rows));
    }
    Ok(())
}

/// For each row of logits `[vocab]` and the token that follows, `-ln p(token)`; on all cores, in order.
fn negative_log_likelihoods(rows: &[(&[f32], Token)]) -> Vec<f64> {
    let threads = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let share = rows.len().div_ceil(threads).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = rows
            .chunks(share)
            .map(|rows| {
                scope
                    .spawn(move || rows.iter().map(|(logits, token)| nll(logits, *token)).collect::<Vec<_>>())
            })
            .collect();
        let parts =
            workers.into_iter().map(|worker| worker.join().expect("a score worker has nothing to panic on"));
        parts.flatten().collect()
    })
}

/// `-ln softmax(logits)[token]`: exponentials in single precision, their sum in double, as llama-perplexity has it.
fn nll(logits: &[f32], token: Token) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from((logit - max).exp())).sum();
    let logit = usize::try_from(token).ok().and_then(|token| logits.get(token)).copied().unwrap_or(f32::NAN);
    -(f64::from(logit - max) - sum.ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_logits_cost_the_logarithm_of_the_vocabulary() {
        let logits = vec![3.5f32; 1000];
        assert!((nll(&logits, 7) - 1000f64.ln()).abs() < 1e-12);
    }

    #[test]
    fn likelihoods_keep_the_order_of_the_rows() {
        let logits = [0.0f32, 1.0, 2.0];
        let rows: Vec<(&[f32], Token)> = [2, 0, 1, 2, 0].iter().map(|&token| (&logits[..], token)).collect();
        let together = negative_log_likelihoods(&rows);
        let one_by_one: Vec<f64> = rows.iter().map(|(logits, token)| nll(logits, *token)).collect();
        assert_eq!(together, one_by_one);
        assert!(together[0] < together[2] && together[2] < together[1]);
    }

    #[test]
    fn windows_and_batches_that_do_not_fit_are_refused() {
        let options = |n_ctx, n_batch| PerplexityOptions { n_ctx, n_batch, ..Default::default() };
        assert!(check(1024, options(512, 512)).is_ok());
        assert!(check(1024, options(512, 100)).is_ok());
        assert!(matches!(check(1024, options(512, 768)), Err(Error::Option { what: "n_batch", .. })));
        assert!(matches!(check(1023, options(512, 512)), Err(Error::TextTooShort { needed: 1024, .. })));
        assert!(matches!(check(1024, options(2, 512)), Err(Error::Option { what: "n_ctx", .. })));
    }
}
