//! Perplexity: llama-perplexity's measure and standard error.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use rayon::prelude::*;

use crate::batch::{Hidden, Sequence};
use crate::error::{Error, Result};
use crate::estimate::{Estimate, Mean};
use crate::evaluator::{Evaluator, logit_columns};
use crate::forward::Observer;
use crate::outputs::Outputs;
use crate::runner::Runner;
use crate::windows::Windows;

/// What [`perplexity`] found.
#[derive(Clone, Debug)]
pub struct Perplexity {
    /// exp of the mean negative log-likelihood, and its standard error.
    pub perplexity: Estimate,
    /// Tokens whose probability counts.
    pub tokens_scored: usize,
    /// Tokens run through the model.
    pub tokens: usize,
    /// How long it took.
    pub elapsed: Duration,
    /// Share of FFN activations that were not zero; a runtime does not show them.
    pub active_neurons: Option<f64>,
}

impl Perplexity {
    /// Tokens run in a second, scored or not.
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// How far a measure has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Windows that are done.
    pub windows_done: usize,
    /// All windows.
    pub windows: usize,
    /// Perplexity so far, with its standard error.
    pub perplexity: Estimate,
}

impl Progress {
    /// Tells it, and ends the run if that is the answer.
    pub(crate) fn tell(self, mut progress: impl FnMut(Progress) -> ControlFlow<()>) -> Result<()> {
        if progress(self).is_break() { Err(Error::Stopped) } else { Ok(()) }
    }
}

/// Runs all windows and scores their second halves; `progress` is called after every batch and may end the run.
///
/// # Errors
/// [`Error::Stopped`]; as [`Evaluator::hidden`] and [`Evaluator::logits`], or those of a runtime.
pub fn perplexity<'a>(
    runner: impl Into<Runner<'a>>,
    windows: &Windows<'_>,
    mut observer: Option<Observer<'_>>,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<Perplexity> {
    let runner = runner.into();
    let start = Instant::now();
    let mut nll = Mean::default();
    let (mut tokens, mut active, mut neurons) = (0, 0u64, 0u64);
    for batch in runner.batches(windows) {
        let observer = observer.as_mut().map(|o| &mut **o as Observer<'_>);
        let outputs = runner.run(windows, batch.clone(), observer)?;
        let targets: Vec<u32> = batch.clone().flat_map(|w| windows.targets(w)).copied().collect();
        for likelihood in negative_log_likelihoods(runner, &outputs, &targets)? {
            nll.add(likelihood);
        }
        tokens += batch.len() * windows.ctx();
        let (seen_active, seen) = outputs.activity().unwrap_or_default();
        active += seen_active;
        neurons += seen;
        let so_far = Progress {
            windows_done: batch.end,
            windows: windows.count(),
            perplexity: Estimate::of(&nll).exp(),
        };
        so_far.tell(&mut progress)?;
    }
    Ok(Perplexity {
        perplexity: Estimate::of(&nll).exp(),
        tokens_scored: nll.count(),
        tokens,
        elapsed: start.elapsed(),
        active_neurons: (neurons > 0).then(|| active as f64 / neurons as f64),
    })
}

/// Last hidden states of the scored positions of some windows.
pub(crate) fn hidden_of(
    evaluator: &Evaluator,
    windows: &Windows<'_>,
    batch: std::ops::Range<usize>,
    observer: Option<Observer<'_>>,
) -> Result<Hidden> {
    let inputs: Vec<Vec<u32>> = batch.map(|w| windows.inputs(w)).collect();
    let mut sequences: Vec<_> =
        inputs.iter().map(|tokens| Sequence { tokens, wanted: windows.scored(), cache: None }).collect();
    evaluator.hidden(&mut sequences, observer)
}

/// The sum over a row's exponentials, tile by tile.
#[derive(Clone, Copy)]
struct LogSumExp {
    max: f32,
    sum: f64,
    target: f32,
}

/// `-log p(target)` for every row of `outputs`, in f64 from f32 logits.
fn negative_log_likelihoods(runner: Runner<'_>, outputs: &Outputs<'_>, targets: &[u32]) -> Result<Vec<f64>> {
    let kernels = runner.kernels();
    let tiles = outputs.tiles();
    let mut rows = vec![LogSumExp { max: f32::NEG_INFINITY, sum: 0.0, target: f32::NAN }; targets.len()];
    let mut tile = Vec::new();
    for columns in logit_columns(runner.vocab_size()) {
        tiles.read(columns.clone(), &mut tile)?;
        assert_eq!(tile.len(), targets.len() * columns.len());
        let work = rows.par_iter_mut().zip(tile.par_chunks_exact(columns.len())).zip(targets);
        runner.install(|| {
            work.for_each_init(Vec::new, |scratch, ((row, logits), &target)| {
                if let Some(&logit) = (target as usize).checked_sub(columns.start).and_then(|i| logits.get(i))
                {
                    row.target = logit;
                }
                let max = logits.iter().fold(row.max, |m, &x| if x > m { x } else { m });
                scratch.clear();
                scratch.extend_from_slice(logits);
                row.sum =
                    row.sum * libm::exp((row.max - max) as f64) + kernels.exp_minus(scratch, max) as f64;
                row.max = max;
            });
        });
    }
    Ok(rows.iter().map(|row| libm::log(row.sum) + (row.max - row.target) as f64).collect())
}
