//! What can run a model: this crate's evaluator, or a runtime outside of it.

use std::ops::Range;

use crate::batch::Sequence;
use crate::error::{Error, Result};
use crate::evaluator::Evaluator;
use crate::forward::Observer;
use crate::kernels::Kernels;
use crate::outputs::Outputs;
use crate::perplexity::hidden_of;
use crate::state::KvCache;
use crate::windows::{Batches, Windows};

/// A model that another program runs, such as an ONNX file in ONNX Runtime.
pub trait Runtime {
    /// Logits per position.
    fn vocab_size(&self) -> usize;
    /// Positions that can be run.
    fn context(&self) -> usize;
    /// A sequence without a past.
    ///
    /// # Errors
    /// Those of the runtime.
    fn start(&self) -> Result<Box<dyn RuntimeSequence + '_>>;
}

/// One sequence in a [`Runtime`] with the past it has run.
pub trait RuntimeSequence {
    /// Tokens that were run.
    fn len(&self) -> usize;
    /// True before the first token.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Runs `tokens` after the past; `[wanted, vocab_size]` logits of those of them.
    ///
    /// # Errors
    /// Those of the runtime.
    fn extend(&mut self, tokens: &[u32], wanted: Range<usize>) -> Result<Vec<f32>>;
}

/// A model and what runs it.
#[derive(Clone, Copy)]
pub enum Runner<'a> {
    /// This crate's evaluator.
    Evaluator(&'a Evaluator),
    /// A runtime outside of it.
    Runtime(&'a dyn Runtime),
}

impl<'a> From<&'a Evaluator> for Runner<'a> {
    fn from(evaluator: &'a Evaluator) -> Runner<'a> {
        Runner::Evaluator(evaluator)
    }
}

impl<'a> Runner<'a> {
    /// Logits per position.
    pub fn vocab_size(self) -> usize {
        match self {
            Runner::Evaluator(evaluator) => evaluator.config().vocab_size,
            Runner::Runtime(runtime) => runtime.vocab_size(),
        }
    }

    /// Positions that can be run.
    pub fn context(self) -> usize {
        match self {
            Runner::Evaluator(evaluator) => evaluator.context(),
            Runner::Runtime(runtime) => runtime.context(),
        }
    }

    /// The evaluator, if it is one.
    pub fn evaluator(self) -> Option<&'a Evaluator> {
        match self {
            Runner::Evaluator(evaluator) => Some(evaluator),
            Runner::Runtime(_) => None,
        }
    }

    /// Inner loops for what is computed from logits.
    pub(crate) fn kernels(self) -> Kernels {
        match self {
            Runner::Evaluator(evaluator) => evaluator.model.linear.workspace.kernels,
            Runner::Runtime(_) => Kernels::best(),
        }
    }

    /// Runs `work` on the evaluator's threads, or on those that all share.
    pub(crate) fn install<R: Send>(self, work: impl FnOnce() -> R + Send) -> R {
        match self {
            Runner::Evaluator(evaluator) => evaluator.install(work),
            Runner::Runtime(_) => work(),
        }
    }

    /// Runs some windows; only an evaluator shows its activations to `observer`.
    pub(crate) fn run(
        self,
        windows: &Windows<'_>,
        batch: Range<usize>,
        observer: Option<Observer<'_>>,
    ) -> Result<Outputs<'a>> {
        match self {
            Runner::Evaluator(evaluator) => {
                Ok(Outputs::Hidden(evaluator, hidden_of(evaluator, windows, batch, observer)?))
            }
            Runner::Runtime(runtime) => {
                self.check_length(windows.ctx())?;
                let mut logits = Vec::new();
                for window in batch {
                    logits.extend(runtime.start()?.extend(&windows.inputs(window), windows.scored())?);
                }
                Outputs::logits(logits, runtime.vocab_size())
            }
        }
    }

    /// Runs of windows to be computed at once. A runtime gives all logits of a window, not some columns of them, so
    /// it gets one at a time.
    pub(crate) fn batches(self, windows: &Windows<'_>) -> Batches {
        match self {
            Runner::Evaluator(_) => windows.batches(),
            Runner::Runtime(_) => windows.batches_of(windows.ctx()),
        }
    }

    /// A sequence without a past, to be decoded token by token.
    pub(crate) fn start(self) -> Result<Decoding<'a>> {
        Ok(match self {
            Runner::Evaluator(evaluator) => {
                Decoding { runner: self, state: State::Evaluator(evaluator, evaluator.new_cache()) }
            }
            Runner::Runtime(runtime) => Decoding { runner: self, state: State::Runtime(runtime.start()?) },
        })
    }

    fn check_length(self, tokens: usize) -> Result<()> {
        match self.context() {
            context if tokens > context => Err(Error::ContextLength { position: tokens - 1, context }),
            _ => Ok(()),
        }
    }
}

/// A sequence that grows.
pub(crate) struct Decoding<'a> {
    runner: Runner<'a>,
    state: State<'a>,
}

enum State<'a> {
    Evaluator(&'a Evaluator, KvCache),
    Runtime(Box<dyn RuntimeSequence + 'a>),
}

impl Decoding<'_> {
    /// Tokens that were run.
    pub fn len(&self) -> usize {
        match &self.state {
            State::Evaluator(_, cache) => cache.len(),
            State::Runtime(sequence) => sequence.len(),
        }
    }

    /// Runs `tokens` and returns the last one's logits.
    ///
    /// # Errors
    /// No tokens, more than the context has room for, logits that are not finite, and those of the runner.
    pub fn extend(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        let wanted = tokens.len().saturating_sub(1)..tokens.len();
        match &mut self.state {
            State::Evaluator(evaluator, cache) => {
                evaluator.forward(&mut [Sequence { tokens, wanted, cache: Some(cache) }])
            }
            State::Runtime(sequence) => {
                if tokens.is_empty() {
                    return Err(Error::EmptySequence);
                }
                self.runner.check_length(sequence.len() + tokens.len())?;
                let logits = sequence.extend(tokens, wanted)?;
                match logits.iter().all(|x| x.is_finite()) {
                    true => Ok(logits),
                    false => Err(Error::NonFiniteLogits { row: 0 }),
                }
            }
        }
    }
}
