//! How a text is cut into windows, and which of their tokens are scored: llama-perplexity's convention.

use std::ops::Range;

use crate::error::{Error, Result};

/// Tokens run at once, unless one window is longer: weights are decoded once for all of them.
const BATCH_TOKENS: usize = 2048;

/// A text as windows of `ctx` tokens. The token at position p of a window is scored from the logits of
/// position p - 1, for p from `ctx / 2 + 1` to `ctx - 1`: every scored token has half a window of context.
#[derive(Clone, Debug)]
pub struct Windows<'a> {
    tokens: &'a [u32],
    ctx: usize,
    count: usize,
    bos: Option<u32>,
}

impl<'a> Windows<'a> {
    /// Cuts `tokens` into windows, `at_most` of them. `bos` replaces the first token of every window, for
    /// models whose tokenizer adds one.
    ///
    /// # Errors
    /// Fewer tokens than two windows have (llama-perplexity refuses them too), windows of less than four.
    pub fn new(
        tokens: &'a [u32],
        ctx: usize,
        at_most: Option<usize>,
        bos: Option<u32>,
    ) -> Result<Windows<'a>> {
        if ctx < 4 {
            return Err(Error::WindowTooShort { ctx });
        }
        if tokens.len() < 2 * ctx {
            return Err(Error::TextTooShort { tokens: tokens.len(), needed: 2 * ctx, ctx });
        }
        let whole = tokens.len() / ctx;
        Ok(Windows { tokens, ctx, count: at_most.map_or(whole, |n| n.clamp(1, whole)), bos })
    }

    /// Whole windows as they were stored; one is enough.
    pub(crate) fn stored(tokens: &'a [u32], ctx: usize) -> Windows<'a> {
        Windows { tokens, ctx, count: tokens.len() / ctx, bos: None }
    }

    /// Only the first `count` of them, but at least one.
    #[must_use]
    pub fn at_most(self, count: usize) -> Windows<'a> {
        Windows { count: self.count.min(count.max(1)), ..self }
    }

    /// Number of windows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Tokens of a window.
    pub fn ctx(&self) -> usize {
        self.ctx
    }

    /// Positions in a window whose logits are scored.
    pub fn scored(&self) -> Range<usize> {
        scored(self.ctx)
    }

    /// All scored tokens.
    pub fn tokens_scored(&self) -> usize {
        self.count * self.scored().len()
    }

    /// The tokens a model is given for window `index`.
    pub fn inputs(&self, index: usize) -> Vec<u32> {
        let mut tokens = self.original(index).to_vec();
        if let Some(bos) = self.bos {
            tokens[0] = bos;
        }
        tokens
    }

    /// The tokens that follow the scored positions of window `index`.
    pub fn targets(&self, index: usize) -> &'a [u32] {
        let scored = self.scored();
        &self.original(index)[scored.start + 1..scored.end + 1]
    }

    /// Runs of windows that are computed at once.
    pub fn batches(&self) -> Batches {
        self.batches_of(BATCH_TOKENS)
    }

    /// Runs of windows of so many tokens together, or of one window if it is longer.
    pub(crate) fn batches_of(&self, tokens: usize) -> Batches {
        let (step, count) = ((tokens / self.ctx).max(1), self.count);
        Batches { step, rest: 0..count }
    }

    fn original(&self, index: usize) -> &'a [u32] {
        &self.tokens[index * self.ctx..(index + 1) * self.ctx]
    }
}

/// Runs of windows, from the first to the last.
#[derive(Clone, Debug)]
pub struct Batches {
    step: usize,
    rest: Range<usize>,
}

impl Iterator for Batches {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.rest.is_empty() {
            return None;
        }
        let start = self.rest.start;
        self.rest.start = (start + self.step).min(self.rest.end);
        Some(start..self.rest.start)
    }
}

/// Positions whose logits are scored in a window of `ctx` tokens.
pub(crate) fn scored(ctx: usize) -> Range<usize> {
    ctx / 2..ctx - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_halves_are_scored() {
        let tokens: Vec<u32> = (0..1000).collect();
        let windows = Windows::new(&tokens, 256, None, Some(7)).expect("long enough");
        assert_eq!(windows.count(), 3);
        assert_eq!(windows.tokens_scored(), 3 * 127);
        assert_eq!(windows.inputs(1)[..2], [7, 257]);
        assert_eq!(windows.targets(1)[0], 256 + 129);
        assert_eq!(windows.targets(1).last(), Some(&511));
        assert!(windows.batches().eq(std::iter::once(0..3)));
    }

    #[test]
    fn short_texts_are_refused() {
        let tokens = [0; 511];
        assert!(matches!(
            Windows::new(&tokens, 256, None, None),
            Err(Error::TextTooShort { needed: 512, .. })
        ));
        assert!(matches!(Windows::new(&tokens, 3, None, None), Err(Error::WindowTooShort { .. })));
    }
}
