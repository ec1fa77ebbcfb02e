//! A model ready to run: options, loading, and the calls that the measures are built on.

use plmconv_formats::{Config, Model};
use rayon::ThreadPool;

use crate::error::{Error, Result};
use crate::forward::{Forward, Observer};
use crate::kernels::{Kernel, Kernels};
use crate::linear::{Input, Linear, Rows, Target};
use crate::rope::Rope;
use crate::site::{Point, Site};
use crate::state::KvCache;
use crate::weights::Weights;

/// Which form of multi-head latent attention is computed. Both are the same function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Attention {
    /// Keys and values of every head are made from the latent, as the published code does.
    #[default]
    Expanded,
    /// Queries are taken into the latent space and attend to the latent itself; the cache holds
    /// `kv_lora_rank + qk_rope_head_dim` values a token and layer.
    Absorbed,
}

/// How to run a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Threads; 0 takes all the machine has. The numbers do not depend on it.
    pub threads: usize,
    /// The instruction set of the inner loops.
    pub kernel: Kernel,
    pub attention: Attention,
    /// Products in f32 throughout. Otherwise, where many tokens are computed at once, operands of matrix
    /// products are rounded to 16 bits in groups of 64 columns and multiplied exactly.
    pub exact: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { threads: 0, kernel: Kernel::best(), attention: Attention::default(), exact: false }
    }
}

/// Tokens of one sequence, to be run after what its cache holds.
#[derive(Debug)]
pub struct Sequence<'a> {
    pub tokens: &'a [u32],
    /// Tokens whose logits are wanted.
    pub wanted: std::ops::Range<usize>,
    /// The sequence's past, extended by this call; without one the sequence starts at position 0.
    pub cache: Option<&'a mut KvCache>,
}

/// The normalized last hidden states of the wanted tokens, sequence after sequence.
#[derive(Clone, Debug)]
pub struct Hidden {
    /// `[rows, hidden_size]`
    pub values: Vec<f32>,
    pub rows: usize,
    /// FFN neurons, over all tokens and layers, whose activation was not zero.
    pub active_neurons: u64,
    /// All of them.
    pub neurons: u64,
}

impl Hidden {
    /// Some of the rows; the counts stay those of the whole.
    pub(crate) fn part(&self, rows: std::ops::Range<usize>) -> Hidden {
        let width = self.values.len() / self.rows.max(1);
        let values = self.values[rows.start * width..rows.end * width].to_vec();
        Hidden { values, rows: rows.len(), ..*self }
    }
}

/// A model in memory and how it is run.
pub struct Evaluator {
    pub(crate) config: Config,
    pub(crate) weights: Weights,
    pub(crate) options: Options,
    pub(crate) linear: Linear,
    pub(crate) rope: Rope,
    pool: ThreadPool,
}

impl Evaluator {
    /// Reads all weights into memory, in the encoding they have on disk.
    ///
    /// # Errors
    /// Unreadable files, a missing tensor, a shape that does not follow from the config, a type that cannot
    /// be decoded, a kernel this CPU does not run.
    pub fn load(model: &Model, options: Options) -> Result<Evaluator> {
        let kernels = Kernels::new(options.kernel)?;
        let config = model.config.clone();
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(options.threads)
            .build()
            .map_err(|e| Error::Threads { detail: e.to_string() })?;
        Ok(Evaluator {
            weights: Weights::load(model)?,
            linear: Linear::new(kernels, options.exact),
            rope: Rope::new(
                config.qk_rope_head_dim,
                config.rope_theta,
                config.max_position_embeddings.min(MAX_POSITIONS),
            ),
            config,
            options,
            pool,
        })
    }

    /// The model's hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The options it was loaded with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Bytes of encoded weights held in memory (norms not counted).
    pub fn weight_bytes(&self) -> usize {
        self.weights.byte_len()
    }

    /// An empty cache for this model and form of attention.
    pub fn new_cache(&self) -> KvCache {
        KvCache::new(&self.config, self.options.attention)
    }

    /// Positions that can be run: the model's context, bounded by what the evaluator prepares for.
    pub fn context(&self) -> usize {
        self.config.max_position_embeddings.min(MAX_POSITIONS)
    }

    /// Runs sequences through all layers; `observer` sees the activations on the way.
    ///
    /// # Errors
    /// Tokens outside the vocabulary, positions past the context, a foreign cache, activations that are not
    /// finite (the layer is named). On an error the caches' contents are unspecified.
    pub fn hidden(&self, batch: &mut [Sequence<'_>], observer: Option<Observer<'_>>) -> Result<Hidden> {
        self.check(batch)?;
        self.pool.install(|| Forward::new(self, batch, observer).run())
    }

    fn check(&self, batch: &[Sequence<'_>]) -> Result<()> {
        let vocab_size = self.config.vocab_size;
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
                && !cache.matches(&self.config, self.options.attention)
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
        let vocab_size = self.config.vocab_size;
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
        let rows = Rows::all(&hidden.values, self.config.hidden_size);
        self.pool.install(|| self.linear.prepare(rows))
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
        self.pool.install(|| self.linear.product_into(&self.weights.embedding, columns, head, out, target));
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

    /// `1 / sqrt(mean of squares + eps)` of one row.
    pub(crate) fn rms_scale(&self, row: &[f32]) -> f32 {
        let squares = self.linear.kernels.dot(row, row);
        1.0 / (squares / row.len() as f32 + self.config.rms_norm_eps).sqrt()
    }
}

/// Sines and cosines are prepared for at most this many positions.
const MAX_POSITIONS: usize = 1 << 17;

/// The columns of each tile of logits, in order.
pub(crate) fn logit_columns(vocab_size: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    const COLUMNS: usize = 2048;
    (0..vocab_size).step_by(COLUMNS).map(move |first| first..(first + COLUMNS).min(vocab_size))
}

/// Names the first activation that is not finite.
pub(crate) fn check_finite(values: &[f32], width: usize, layer: usize, point: Point) -> Result<()> {
    // A sum is not finite if any term is not; it vectorizes, a search does not.
    let suspicious = values.chunks(width).position(|row| {
        let mut sums = [0.0f32; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x * 0.0;
            }
        }
        !(sums.iter().sum::<f32>() + rest.iter().map(|x| x * 0.0).sum::<f32>()).is_finite()
    });
    match suspicious {
        None => Ok(()),
        Some(token) => Err(Error::NonFinite { site: Site::in_layer(layer, point), token }),
    }
}
