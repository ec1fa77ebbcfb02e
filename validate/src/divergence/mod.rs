//! How far one model is from another: both run side by side, window by window, and only one number a scored
//! token is kept. Statistics are those of `llama-perplexity --kl-divergence`.

mod layers;
mod matrices;
mod row;
mod summary;

use std::ops::{ControlFlow, Range};
use std::time::{Duration, Instant};

use plmconv_formats::Config;
use rayon::prelude::*;

pub use layers::LayerDivergence;
pub use matrices::MatrixRounding;
pub use summary::{Divergence, WorstToken};

use crate::error::{Error, Result};
use crate::estimate::Estimate;
use crate::evaluator::{Evaluator, logit_columns};
use crate::forward::Observer;
use crate::outputs::Outputs;
use crate::perplexity::Progress;
use crate::reference::{Reference, Stored, TopK};
use crate::runner::Runner;
use crate::site::Site;
use crate::windows::Windows;
use layers::LayerProbe;
use matrices::MatrixProbe;
use row::{Pair, Scored, TopKPair};
use summary::Summary;

/// What a candidate is compared with.
#[derive(Clone, Copy)]
pub enum Side<'a> {
    /// A model that is run beside the candidate.
    Model(&'a Evaluator),
    /// Outputs that a model gave earlier.
    Stored(&'a Reference),
}

impl<'a> Side<'a> {
    /// Logits per position.
    pub fn vocab_size(self) -> usize {
        match self {
            Side::Model(evaluator) => evaluator.config().vocab_size,
            Side::Stored(reference) => reference.vocab_size(),
        }
    }

    fn outputs(
        self,
        windows: &Windows<'_>,
        batch: Range<usize>,
        observer: Option<Observer<'_>>,
    ) -> Result<Outputs<'a>> {
        match self {
            Side::Model(evaluator) => Runner::Evaluator(evaluator).run(windows, batch, observer),
            Side::Stored(reference) => Ok(Outputs::Stored(reference, batch)),
        }
    }
}

/// What to look at beyond the logits.
#[derive(Clone, Copy, Debug)]
pub struct Detail {
    /// How many of the tokens that diverge most are kept.
    pub worst_tokens: usize,
    /// Of the first candidate: compare the residual stream after every layer (both sides have to run in the evaluator),
    /// and say what rounding of activations does to each matrix's product.
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
    /// How long the comparison took.
    pub total: Duration,
    /// Tokens that were run on each side.
    pub tokens: usize,
}

/// Compares `candidate` with `reference` over all windows; see [`compare_all`].
///
/// # Errors
/// As [`compare_all`].
pub fn compare<'a>(
    candidate: impl Into<Runner<'a>>,
    reference: Side<'a>,
    windows: &Windows<'_>,
    detail: Detail,
    progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<(Divergence, Elapsed)> {
    let (mut found, elapsed) = compare_all(&[candidate.into()], reference, windows, detail, progress)?;
    Ok((found.remove(0), elapsed))
}

/// Compares each of `candidates` with `reference`, which runs once, over all windows. For a stored reference these are
/// [`Reference::windows`]. `progress` is called after every batch and may end the run.
///
/// # Errors
/// [`Error::Stopped`], different vocabularies, a stored reference of other windows or unreadable, and whatever running a model
/// may end with.
pub fn compare_all(
    candidates: &[Runner<'_>],
    reference: Side<'_>,
    windows: &Windows<'_>,
    detail: Detail,
    mut progress: impl FnMut(Progress) -> ControlFlow<()>,
) -> Result<(Vec<Divergence>, Elapsed)> {
    let start = Instant::now();
    for candidate in candidates {
        let vocab_size = candidate.vocab_size();
        if reference.vocab_size() != vocab_size {
            return Err(Error::Vocabulary { candidate: vocab_size, reference: reference.vocab_size() });
        }
    }
    if let Side::Stored(stored) = reference {
        stored.check_windows(windows)?;
    }
    let mut probe = layer_probe(candidates[0], reference).filter(|_| detail.per_layer);
    let traced = match candidates[0] {
        Runner::Evaluator(evaluator) if detail.per_layer => Some(evaluator),
        _ => None,
    };
    let mut matrices = traced.and_then(MatrixProbe::of);
    let mut summaries: Vec<Summary> = candidates.iter().map(|_| Summary::new(detail.worst_tokens)).collect();
    for batch in candidates[0].batches(windows) {
        let first = {
            let mut see = probe.as_mut().map(|probe| |site, values: &[f32]| probe.store(site, values));
            reference.outputs(windows, batch.clone(), see.as_mut().map(|see| see as Observer<'_>))?
        };
        let targets: Vec<u32> = batch.clone().flat_map(|w| windows.targets(w)).copied().collect();
        for (i, (&candidate, summary)) in candidates.iter().zip(&mut summaries).enumerate() {
            let second = {
                let mut see = |site: Site, values: &[f32]| {
                    if let Some(probe) = &mut probe {
                        probe.compare(site, values);
                    }
                    if let (Some(probe), Some(evaluator)) = (&mut matrices, traced) {
                        probe.see(evaluator, site, values);
                    }
                };
                let traced = detail.per_layer && i == 0;
                candidate.run(windows, batch.clone(), traced.then_some(&mut see as Observer<'_>))?
            };
            let scored = match &first {
                Outputs::Stored(stored, batch) if stored.stored() == Stored::TopK => {
                    score_top_k(stored.read_top_k(batch.clone())?, candidate, &second, &targets)?
                }
                first => score(first, candidate, &second, &targets)?,
            };
            summary.add(windows, batch.clone(), &scored);
        }
        let perplexity = summaries[0].perplexity_so_far();
        Progress { windows_done: batch.end, windows: windows.count(), perplexity }.tell(&mut progress)?;
    }
    let elapsed = Elapsed { total: start.elapsed(), tokens: windows.count() * windows.ctx() };
    let mut found: Vec<Divergence> = summaries.into_iter().map(Summary::finish).collect();
    found[0].layers = probe.map(LayerProbe::finish);
    found[0].matrices = traced.and_then(|evaluator| Some(matrices?.finish(evaluator)));
    Ok((found, elapsed))
}

/// Two evaluators of like layers can be compared layer by layer.
fn layer_probe(candidate: Runner<'_>, reference: Side<'_>) -> Option<LayerProbe> {
    let (Runner::Evaluator(a), Side::Model(b)) = (candidate, reference) else { return None };
    let same = |value: fn(&Config) -> usize| value(a.config()) == value(b.config());
    let comparable = same(|c| c.hidden_size) && same(|c| c.num_hidden_layers);
    comparable.then(|| LayerProbe::new(a.config()))
}

fn score(
    reference: &Outputs<'_>,
    candidate: Runner<'_>,
    outputs: &Outputs<'_>,
    targets: &[u32],
) -> Result<Vec<Scored>> {
    let (first, second) = (reference.tiles(), outputs.tiles());
    let mut pairs = vec![Pair::default(); targets.len()];
    let (mut known, mut found) = (Vec::new(), Vec::new());
    for columns in logit_columns(candidate.vocab_size()) {
        first.read(columns.clone(), &mut known)?;
        second.read(columns.clone(), &mut found)?;
        let width = columns.len();
        candidate.install(|| {
            let tiles = known.par_chunks_exact(width).zip(found.par_chunks_exact(width));
            let rows = pairs.par_iter_mut().zip(tiles).zip(targets);
            rows.for_each(|((pair, (r, c)), &target)| pair.add(columns.start, r, c, target));
        });
    }
    Ok(pairs.iter().map(Pair::finish).collect())
}

fn score_top_k(
    known: Vec<TopK>,
    candidate: Runner<'_>,
    outputs: &Outputs<'_>,
    targets: &[u32],
) -> Result<Vec<Scored>> {
    let mut pairs: Vec<_> = known.into_iter().map(TopKPair::new).collect();
    let tiles = outputs.tiles();
    let mut tile = Vec::new();
    for columns in logit_columns(candidate.vocab_size()) {
        tiles.read(columns.clone(), &mut tile)?;
        candidate.install(|| {
            let rows = pairs.par_iter_mut().zip(tile.par_chunks_exact(columns.len())).zip(targets);
            rows.for_each(|((pair, tile), &target)| pair.add(columns.start, tile, target));
        });
    }
    Ok(pairs.iter().map(TopKPair::finish).collect())
}

/// A ratio of counts with its standard error.
fn proportion(part: usize, whole: usize) -> Estimate {
    let value = part as f64 / whole.max(1) as f64;
    Estimate { value, error: (value * (1.0 - value) / whole.saturating_sub(1).max(1) as f64).sqrt() }
}
