//! How far one model is from another: both run side by side, window by window, and only one number a scored
//! token is kept. Statistics are those of `llama-perplexity --kl-divergence`.

mod layers;
mod row;
mod summary;

use std::ops::Range;
use std::time::{Duration, Instant};

use rayon::prelude::*;

pub use layers::LayerDivergence;
pub use summary::{Divergence, WorstToken};

use crate::error::{Error, Result};
use crate::evaluator::{Evaluator, Hidden, logit_columns};
use crate::forward::Observer;
use crate::perplexity::{Progress, hidden_of};
use crate::reference::{Reference, Stored};
use crate::statistics::Estimate;
use crate::windows::Windows;
use layers::LayerProbe;
use row::{Pair, Scored, TopKPair};
use summary::Summary;

/// What a candidate is compared with.
#[derive(Clone, Copy)]
pub enum Side<'a> {
    Model(&'a Evaluator),
    Stored(&'a Reference),
}

impl Side<'_> {
    /// Logits per position.
    pub fn vocab_size(&self) -> usize {
        match self {
            Side::Model(evaluator) => evaluator.config().vocab_size,
            Side::Stored(reference) => reference.vocab_size(),
        }
    }
}

/// What to look at beyond the logits.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// How many of the tokens that diverge most are kept.
    pub worst_tokens: usize,
    /// Compare the residual stream after every layer (needs a reference that runs).
    pub per_layer: bool,
}

impl Default for Detail {
    fn default() -> Detail {
        Detail { worst_tokens: 20, per_layer: false }
    }
}

/// Time spent, side by side.
#[derive(Clone, Copy, Debug, Default)]
pub struct Elapsed {
    pub total: Duration,
    pub tokens: usize,
}

/// Compares `candidate` with `reference` over all windows. For a stored reference these are
/// [`Reference::windows`]. `progress` is called after every batch.
///
/// # Errors
/// Different vocabularies, a stored reference of other windows or unreadable, and whatever running a model
/// may end with.
pub fn compare(
    candidate: &Evaluator,
    reference: Side<'_>,
    windows: &Windows<'_>,
    detail: Detail,
    mut progress: impl FnMut(Progress),
) -> Result<(Divergence, Elapsed)> {
    let start = Instant::now();
    let vocab_size = candidate.config().vocab_size;
    if reference.vocab_size() != vocab_size {
        return Err(Error::Vocabulary { candidate: vocab_size, reference: reference.vocab_size() });
    }
    if let Side::Stored(stored) = reference {
        stored.check_windows(windows)?;
    }
    let mut summary = Summary::new(detail.worst_tokens);
    let comparable = |other: &Evaluator| {
        other.config().hidden_size == candidate.config().hidden_size
            && other.config().num_hidden_layers == candidate.config().num_hidden_layers
    };
    let mut probe = match reference {
        Side::Model(model) if detail.per_layer && comparable(model) => {
            Some(LayerProbe::new(candidate.config()))
        }
        _ => None,
    };
    for batch in windows.batches() {
        let scored = match reference {
            Side::Model(model) => {
                let see_first = probe.as_mut().map(LayerProbe::store);
                let first = run(model, windows, batch.clone(), see_first)?;
                let see_second = probe.as_mut().map(LayerProbe::compare);
                let second = run(candidate, windows, batch.clone(), see_second)?;
                score_models(model, &first, candidate, &second, &targets(windows, batch.clone()))?
            }
            Side::Stored(stored) => {
                let hidden = run(candidate, windows, batch.clone(), None::<fn(_, &[f32])>)?;
                score_stored(stored, candidate, &hidden, windows, batch.clone())?
            }
        };
        summary.add(windows, batch.clone(), &scored);
        progress(Progress {
            windows_done: batch.end,
            windows: windows.count(),
            perplexity: summary.perplexity_so_far(),
        });
    }
    let elapsed = Elapsed { total: start.elapsed(), tokens: windows.count() * windows.ctx() };
    Ok((summary.finish(probe.map(LayerProbe::finish)), elapsed))
}

fn run(
    evaluator: &Evaluator,
    windows: &Windows<'_>,
    batch: Range<usize>,
    observer: Option<impl FnMut(crate::Site, &[f32]) + Send>,
) -> Result<Hidden> {
    match observer {
        None => hidden_of(evaluator, windows, batch, None),
        Some(mut observer) => hidden_of(evaluator, windows, batch, Some(&mut observer as Observer<'_>)),
    }
}

fn targets(windows: &Windows<'_>, batch: Range<usize>) -> Vec<u32> {
    batch.flat_map(|w| windows.targets(w)).copied().collect()
}

fn score_models(
    model: &Evaluator,
    model_hidden: &Hidden,
    candidate: &Evaluator,
    candidate_hidden: &Hidden,
    targets: &[u32],
) -> Result<Vec<Scored>> {
    let (model_head, candidate_head) = (model.head(model_hidden), candidate.head(candidate_hidden));
    let mut pairs = vec![Pair::default(); targets.len()];
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for columns in logit_columns(candidate.config().vocab_size) {
        model.logit_tile(&model_head, columns.clone(), &mut first)?;
        candidate.logit_tile(&candidate_head, columns.clone(), &mut second)?;
        add_tiles(candidate, &mut pairs, columns, &first, &second, targets);
    }
    Ok(pairs.iter().map(Pair::finish).collect())
}

fn add_tiles(
    evaluator: &Evaluator,
    pairs: &mut [Pair],
    columns: Range<usize>,
    reference: &[f32],
    candidate: &[f32],
    targets: &[u32],
) {
    let width = columns.len();
    evaluator.install(|| {
        let tiles = reference.par_chunks_exact(width).zip(candidate.par_chunks_exact(width));
        let rows = pairs.par_iter_mut().zip(tiles).zip(targets);
        rows.for_each(|((pair, (r, c)), &target)| pair.add(columns.start, r, c, target));
    });
}

fn score_stored(
    stored: &Reference,
    candidate: &Evaluator,
    hidden: &Hidden,
    windows: &Windows<'_>,
    batch: Range<usize>,
) -> Result<Vec<Scored>> {
    let targets = targets(windows, batch.clone());
    let head = candidate.head(hidden);
    let mut tile = Vec::new();
    match stored.stored() {
        Stored::Logits => {
            let mut pairs = vec![Pair::default(); targets.len()];
            let mut known = Vec::new();
            for columns in logit_columns(candidate.config().vocab_size) {
                candidate.logit_tile(&head, columns.clone(), &mut tile)?;
                stored.read_logits(batch.clone(), columns.clone(), &mut known)?;
                add_tiles(candidate, &mut pairs, columns, &known, &tile, &targets);
            }
            Ok(pairs.iter().map(Pair::finish).collect())
        }
        Stored::TopK => {
            let mut pairs: Vec<_> = stored.read_top_k(batch)?.into_iter().map(TopKPair::new).collect();
            for columns in logit_columns(candidate.config().vocab_size) {
                candidate.logit_tile(&head, columns.clone(), &mut tile)?;
                candidate.install(|| {
                    let rows = pairs.par_iter_mut().zip(tile.par_chunks_exact(columns.len())).zip(&targets);
                    rows.for_each(|((pair, tile), &target)| pair.add(columns.start, tile, target));
                });
            }
            Ok(pairs.iter().map(TopKPair::finish).collect())
        }
    }
}

/// A ratio of counts with its standard error.
fn proportion(part: usize, whole: usize) -> Estimate {
    let value = part as f64 / whole.max(1) as f64;
    Estimate { value, error: (value * (1.0 - value) / whole.saturating_sub(1).max(1) as f64).sqrt() }
}
