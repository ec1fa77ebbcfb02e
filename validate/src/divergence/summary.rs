//! From scored tokens to the statistics of a comparison.

use std::ops::Range;

use super::layers::LayerDivergence;
use super::matrices::MatrixRounding;
use super::proportion;
use super::row::Scored;
use crate::estimate::{Estimate, Mean, at_least_zero, percentile};
use crate::windows::Windows;

/// Tokens kept before a bad one.
const CONTEXT: usize = 24;

/// How far a candidate is from its reference.
#[derive(Clone, Debug)]
pub struct Divergence {
    /// Positions whose predictions were compared.
    pub tokens_scored: usize,
    /// The candidate's perplexity.
    pub perplexity_candidate: Estimate,
    /// The reference's perplexity.
    pub perplexity_reference: Estimate,
    /// ln(perplexity of the candidate / perplexity of the reference); the error knows that both saw one text.
    pub log_ratio: Estimate,
    /// Correlation of the two sides' log-likelihoods' errors.
    pub correlation: f64,
    /// KL divergence from the reference's distribution to the candidate's, in nats per token.
    pub kld: Estimate,
    /// Median of the positions' divergences, in nats.
    pub kld_median: f64,
    /// Their 90th percentile.
    pub kld_p90: f64,
    /// Their 95th percentile.
    pub kld_p95: f64,
    /// Their 99th percentile.
    pub kld_p99: f64,
    /// Their 99.9th percentile.
    pub kld_p999: f64,
    /// The largest of them.
    pub kld_max: f64,
    /// Share of tokens for which both sides find the same token most likely.
    pub same_top: Estimate,
    /// Root mean square of the change of the actual token's probability.
    pub rms_probability_change: Estimate,
    /// Mean of that change: below zero, the candidate finds the text less likely.
    pub mean_probability_change: Estimate,
    /// KL divergence of every scored token, in the order of the text.
    pub kld_by_token: Vec<f32>,
    /// The tokens that diverge most, the worst first.
    pub worst: Vec<WorstToken>,
    /// Where along the network the divergence arises, if it was asked for.
    pub layers: Option<Vec<LayerDivergence>>,
    /// What rounding of activations does to each matrix's product, if it was asked for and the arithmetic rounds.
    pub matrices: Option<Vec<MatrixRounding>>,
}

/// A token that two models see differently.
#[derive(Clone, Debug, PartialEq)]
pub struct WorstToken {
    /// The divergence there, in nats.
    pub kld: f64,
    /// Index of the token in the text.
    pub position: usize,
    /// The tokens before it, as many as are kept.
    pub context: Vec<u32>,
    /// The token that follows in the text.
    pub token: u32,
    /// The reference's most probable token.
    pub top_reference: u32,
    /// The candidate's most probable token.
    pub top_candidate: u32,
    /// The probability that the reference gives the token that follows.
    pub probability_reference: f64,
    /// The probability that the candidate gives it.
    pub probability_candidate: f64,
}

#[derive(Default)]
pub(super) struct Summary {
    reference: Mean,
    candidate: Mean,
    products: Mean,
    kld: Mean,
    change: Mean,
    squared_change: Mean,
    same_top: usize,
    kld_by_token: Vec<f32>,
    keep: usize,
    worst: Vec<WorstToken>,
}

impl Summary {
    pub fn new(keep: usize) -> Summary {
        Summary { keep, ..Summary::default() }
    }

    pub fn add(&mut self, windows: &Windows<'_>, batch: Range<usize>, scored: &[Scored]) {
        let positions = windows.scored();
        let rows = batch.flat_map(|w| positions.clone().map(move |p| (w, p)));
        for ((window, position), row) in rows.zip(scored) {
            self.add_row(row);
            if self.keep > 0 && (self.worst.len() < 4 * self.keep || row.kld > self.worst[self.keep - 1].kld)
            {
                let inputs = windows.inputs(window);
                self.worst.push(WorstToken {
                    kld: row.kld,
                    position: window * windows.ctx() + position + 1,
                    context: inputs[(position + 1).saturating_sub(CONTEXT)..=position].to_vec(),
                    token: inputs[position + 1],
                    top_reference: row.top_reference,
                    top_candidate: row.top_candidate,
                    probability_reference: (-row.nll_reference).exp(),
                    probability_candidate: (-row.nll_candidate).exp(),
                });
                if self.worst.len() > 4 * self.keep {
                    self.keep_worst();
                }
            }
        }
    }

    fn add_row(&mut self, row: &Scored) {
        self.reference.add(row.nll_reference);
        self.candidate.add(row.nll_candidate);
        self.products.add(row.nll_reference * row.nll_candidate);
        self.kld.add(row.kld);
        let change = (-row.nll_candidate).exp() - (-row.nll_reference).exp();
        self.change.add(change);
        self.squared_change.add(change * change);
        self.same_top += usize::from(row.top_reference == row.top_candidate);
        self.kld_by_token.push(row.kld as f32);
    }

    fn keep_worst(&mut self) {
        // Stable: of equals the earlier one stays.
        self.worst.sort_by(|a, b| b.kld.total_cmp(&a.kld));
        self.worst.truncate(self.keep);
    }

    pub fn perplexity_so_far(&self) -> Estimate {
        Estimate::of(&self.candidate).exp()
    }

    pub fn finish(mut self) -> Divergence {
        self.keep_worst();
        let count = self.kld.count();
        let (reference, candidate) = (Estimate::of(&self.reference), Estimate::of(&self.candidate));
        let covariance = (self.products.value() - reference.value * candidate.value)
            / (count.saturating_sub(1).max(1)) as f64;
        let variance = reference.error.powi(2) + candidate.error.powi(2) - 2.0 * covariance;
        let errors = reference.error * candidate.error;
        let rms = self.squared_change.value().sqrt();
        let mut sorted = self.kld_by_token.clone();
        sorted.sort_by(f32::total_cmp);
        Divergence {
            tokens_scored: count,
            perplexity_candidate: candidate.exp(),
            perplexity_reference: reference.exp(),
            log_ratio: Estimate {
                value: candidate.value - reference.value,
                error: at_least_zero(variance).sqrt(),
            },
            correlation: if errors > 0.0 { covariance / errors } else { 1.0 },
            kld: Estimate::of(&self.kld),
            kld_median: percentile(&sorted, 0.5),
            kld_p90: percentile(&sorted, 0.9),
            kld_p95: percentile(&sorted, 0.95),
            kld_p99: percentile(&sorted, 0.99),
            kld_p999: percentile(&sorted, 0.999),
            kld_max: percentile(&sorted, 1.0),
            same_top: proportion(self.same_top, count),
            rms_probability_change: Estimate {
                value: rms,
                error: if rms > 0.0 { 0.5 / rms * self.squared_change.error() } else { 0.0 },
            },
            mean_probability_change: Estimate::of(&self.change),
            kld_by_token: self.kld_by_token,
            worst: self.worst,
            layers: None,
            matrices: None,
        }
    }
}
