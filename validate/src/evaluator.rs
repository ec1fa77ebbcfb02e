//! A model ready to run: options, loading, and the calls that the measures are built on.

use std::sync::Arc;

use plmconv_formats::{Config, Layout, Model};
use plmconv_quant::simd::Level;
use rayon::ThreadPool;

use crate::arithmetic::Arithmetic;
use crate::batch::{Hidden, Sequence};
use crate::error::{Error, Result};
use crate::forward::{Forward, Observer};
use crate::kernels::Kernels;
use crate::linear::{Input, Linear, Rows, Target};
use crate::loaded::Loaded;
use crate::state::{Attention, KvCache};

/// How to run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads; 0 takes all the machine has. The numbers do not depend on it.
    pub threads: usize,
    /// The instruction set of the inner loops.
    pub kernel: Level,
    /// The form of latent attention; a runtime's arithmetic brings its own.
    pub attention: Attention,
    /// Whose rounding of activations is computed.
    pub arithmetic: Arithmetic,
    /// Products in f32 throughout. Otherwise, where many tokens are computed at once, operands of matrix
    /// products are rounded to 16 bits in groups of 64 columns and multiplied exactly.
    pub exact: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            threads: 0,
            kernel: Level::detect(),
            attention: Attention::default(),
            arithmetic: Arithmetic::Exact,
            exact: false,
        }
    }
}

impl Options {
    /// A runtime's arithmetic is that of the form of attention that its graph has.
    fn for_layout(self, layout: Layout) -> Options {
        let attention = match (self.arithmetic, layout) {
            (Arithmetic::Exact, _) => self.attention,
            (Arithmetic::Llama, Layout::Plm) => Attention::Expanded,
            (Arithmetic::Llama, Layout::Latent) => Attention::Absorbed,
        };
        Options { attention, ..self }
    }

    fn linear(&self) -> Linear {
        Linear::new(Kernels(self.kernel), self.exact, self.arithmetic)
    }
}

/// A model in memory and how it is run.
pub struct Evaluator {
    pub(crate) model: Loaded,
    options: Options,
    pool: Arc<ThreadPool>,
}

impl Evaluator {
    /// Reads all weights into memory, in the encoding they have on disk.
    ///
    /// # Errors
    /// Unreadable files, a missing tensor, a shape that does not follow from the config, a type that cannot
    /// be decoded.
    pub fn load(model: &Model, options: Options) -> Result<Evaluator> {
        let options = options.for_layout(model.config.layout);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .build()
            .map_err(|e| Error::Threads { detail: e.to_string() })?;
        let model = Loaded::new(model, options.attention, options.linear())?;
        Ok(Evaluator { model, options, pool: Arc::new(pool) })
    }

    /// The same model, without another copy of its weights, in another arithmetic.
    pub fn in_arithmetic(&self, arithmetic: Arithmetic) -> Evaluator {
        let options = Options { arithmetic, ..self.options }.for_layout(self.model.config.layout);
        let model = self.model.with(options.attention, options.linear());
        Evaluator { model, options, pool: self.pool.clone() }
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &Config {
        &self.model.config
    }

    /// The options it was loaded with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Bytes of encoded weights held in memory (norms not counted).
    pub fn weight_bytes(&self) -> usize {
        self.model.weights.byte_len()
    }

    /// An empty cache for this model and form of attention.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.model.config, self.options.attention)
    }

    /// Positions that can be run: the model's context, bounded by what the evaluator prepares for.
    pub fn context(&self) -> usize {
        self.model.context()
    }

    /// Runs sequences through all layers; `observer` sees the activations on the way.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, positions past the context, a foreign cache, activations that are not
    /// finite (the layer is named). On an error the caches' contents are unspecified.
    pub fn hidden(&self, batch: &mut [Sequence<'_>], observer: Option<Observer<'_>>) -> Result<Hidden> {
        self.check(batch)?;
        self.pool.install(|| Forward::new(&self.model, batch, observer).run())
    }

    fn check(&self, batch: &[Sequence<'_>]) -> Result<()> {
        let vocab_size = self.model.config.vocab_size;
        for sequence in batch {
            let past = sequence.cache.as_ref().map_or(0, |c| c.len());
            if sequence.tokens.is_empty() {
                return Err(Error::EmptySequence);
            }
            if sequence.wanted.start > sequence.wanted.end || sequence.wanted.end > sequence.tokens.len() {
                return Err(Error::WantedRows {
                    start: sequence.wanted.start,
                    end: sequence.wanted.end,
                    tokens: sequence.tokens.len(),
                });
            }
            if past + sequence.tokens.len() > self.context() {
                return Err(Error::ContextLength {
                    position: past + sequence.tokens.len() - 1,
                    context: self.context(),
                });
            }
            if let Some(cache) = &sequence.cache
                && !cache.matches(&self.model.config, self.options.attention)
            {
                return Err(Error::CacheMismatch);
            }
            let bad = sequence.tokens.iter().enumerate().find(|(_, t)| **t as usize >= vocab_size);
            if let Some((i, &token)) = bad {
                return Err(Error::TokenOutOfRange { token, position: past + i, vocab_size });
            }
        }
        Ok(())
    }

    /// `[rows, vocab_size]` logits of all of `hidden`.
    ///
    /// # Errors
    /// Logits that are not finite.
    pub fn logits(&self, hidden: &Hidden) -> Result<Vec<f32>> {
        let vocab_size = self.model.config.vocab_size;
        let mut all = vec![0.0; hidden.rows * vocab_size];
        let head = self.head(hidden);
        let mut tile = Vec::new();
        for columns in logit_columns(vocab_size) {
            self.logit_tile(&head, columns.clone(), &mut tile)?;
            let rows = all.chunks_exact_mut(vocab_size).zip(tile.chunks_exact(columns.len()));
            rows.for_each(|(out, row)| out[columns.clone()].copy_from_slice(row));
        }
        Ok(all)
    }

    /// Hidden states made ready for [`logit_tile`](Self::logit_tile).
    pub(crate) fn head<'a>(&self, hidden: &'a Hidden) -> Input<'a> {
        let rows = Rows::all(&hidden.values, self.model.config.hidden_size);
        self.pool.install(|| self.model.linear.prepare(rows, &[&self.model.weights.embedding]))
    }

    /// Replaces `out` by the logits of some columns of the vocabulary, `[rows, columns]`.
    pub(crate) fn logit_tile(
        &self,
        head: &Input<'_>,
        columns: std::ops::Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let width = columns.len();
        out.resize(head.tokens() * width, 0.0);
        let target = Target { stride: width, offset: 0 };
        self.pool.install(|| {
            self.model.linear.product_into(&self.model.weights.embedding, columns, head, out, target)
        });
        match out.iter().position(|x| !x.is_finite()) {
            Some(bad) => Err(Error::NonFiniteLogits { row: bad / width }),
            None => Ok(()),
        }
    }

    /// Logits of the wanted tokens of a batch: `[rows, vocab_size]`.
    ///
    /// # Errors
    /// As [`hidden`](Self::hidden) and [`logits`](Self::logits).
    pub fn forward(&self, batch: &mut [Sequence<'_>]) -> Result<Vec<f32>> {
        let hidden = self.hidden(batch, None)?;
        self.logits(&hidden)
    }

    /// Runs `work` on the evaluator's threads.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }
}

/// The columns of each tile of logits, in order.
pub(crate) fn logit_columns(vocab_size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    const COLUMNS: usize = 2048;
    (0..vocab_size).step_by(COLUMNS).map(move |first| first..(first + COLUMNS).min(vocab_size))
}
