//! One scored position: two distributions over the vocabulary, seen some columns at a time.

use crate::estimate::at_least_zero;
use crate::reference::TopK;

/// Exponentials below exp(-45) of the largest are nothing to an f64 sum.
const NEGLIGIBLE: f32 = -45.0;

/// log(sum(exp(x))) and the largest x, of logits that come tile by tile. Sums are f64: divergences of 1e-8
/// must not drown in rounding.
#[derive(Clone, Copy, Debug)]
pub(super) struct Distribution {
    max: f32,
    top: u32,
    sum: f64,
    target: f32,
}

impl Default for Distribution {
    fn default() -> Distribution {
        Distribution { max: f32::NEG_INFINITY, top: 0, sum: 0.0, target: f32::NAN }
    }
}

impl Distribution {
    /// Takes in the target's logit and a new maximum; returns the factor for what was summed up before.
    fn raise(&mut self, first: usize, logits: &[f32], target: u32) -> f64 {
        if let Some(&logit) = (target as usize).checked_sub(first).and_then(|i| logits.get(i)) {
            self.target = logit;
        }
        let before = self.max;
        let tile_max = logits.iter().fold(f32::NEG_INFINITY, |m, &x| if x > m { x } else { m });
        if tile_max > before {
            self.max = tile_max;
            self.top = (first + logits.iter().position(|x| *x == tile_max).unwrap_or(0)) as u32;
        }
        (before as f64 - self.max as f64).exp()
    }

    fn add(&mut self, first: usize, logits: &[f32], target: u32) {
        self.sum *= self.raise(first, logits, target);
        self.sum += logits.iter().map(|&x| exp(x, self.max)).sum::<f64>();
    }

    fn log_sum(&self) -> f64 {
        self.max as f64 + self.sum.ln()
    }
}

/// exp(x - max), without rounding the difference to f32.
fn exp(x: f32, max: f32) -> f64 {
    if x - max < NEGLIGIBLE { 0.0 } else { (x as f64 - max as f64).exp() }
}

/// What one scored position says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Scored {
    pub kld: f64,
    /// `-log p(target)`
    pub nll_reference: f64,
    pub nll_candidate: f64,
    pub top_reference: u32,
    pub top_candidate: u32,
}

/// Accumulates one position against full reference logits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pair {
    reference: Distribution,
    candidate: Distribution,
    /// Sum of exp(reference - max) * (reference - candidate).
    weighted: f64,
}

impl Pair {
    pub fn add(&mut self, first: usize, reference: &[f32], candidate: &[f32], target: u32) {
        let factor = self.reference.raise(first, reference, target);
        self.reference.sum *= factor;
        self.weighted *= factor;
        for (&r, &c) in reference.iter().zip(candidate) {
            let e = exp(r, self.reference.max);
            self.reference.sum += e;
            self.weighted += e * (r as f64 - c as f64);
        }
        self.candidate.add(first, candidate, target);
    }

    pub fn finish(&self) -> Scored {
        let (reference, candidate) = (self.reference.log_sum(), self.candidate.log_sum());
        Scored {
            // sum p (log p - log q); rounding may take a zero below zero.
            kld: at_least_zero(self.weighted / self.reference.sum - reference + candidate),
            nll_reference: reference - self.reference.target as f64,
            nll_candidate: candidate - self.candidate.target as f64,
            top_reference: self.reference.top,
            top_candidate: self.candidate.top,
        }
    }
}

/// Accumulates one position against a reference that knows only its most likely tokens.
#[derive(Clone, Debug)]
pub(super) struct TopKPair {
    reference: TopK,
    candidate: Distribution,
    /// The candidate's logits of the reference's tokens.
    logits: Vec<f32>,
}

impl TopKPair {
    pub fn new(reference: TopK) -> TopKPair {
        let logits = vec![f32::NAN; reference.ids.len()];
        TopKPair { reference, candidate: Distribution::default(), logits }
    }

    pub fn add(&mut self, first: usize, candidate: &[f32], target: u32) {
        for (&id, logit) in self.reference.ids.iter().zip(&mut self.logits) {
            if let Some(&found) = (id as usize).checked_sub(first).and_then(|i| candidate.get(i)) {
                *logit = found;
            }
        }
        self.candidate.add(first, candidate, target);
    }

    /// The divergence over the known tokens and one bin for all others: a lower bound.
    pub fn finish(&self) -> Scored {
        let log_sum = self.candidate.log_sum();
        let (mut kld, mut p_known, mut q_known) = (0.0, 0.0, 0.0);
        for (&log_p, &logit) in self.reference.log_probs.iter().zip(&self.logits) {
            let (log_p, log_q) = (log_p as f64, logit as f64 - log_sum);
            kld += log_p.exp() * (log_p - log_q);
            p_known += log_p.exp();
            q_known += log_q.exp();
        }
        let (p_rest, q_rest) = (1.0 - p_known, (1.0 - q_known).max(1e-12));
        if p_rest > 1e-9 {
            kld += p_rest * (p_rest / q_rest).ln();
        }
        Scored {
            kld: at_least_zero(kld),
            nll_reference: -self.reference.target_log_prob as f64,
            nll_candidate: log_sum - self.candidate.target as f64,
            top_reference: self.reference.ids.first().copied().unwrap_or(0),
            top_candidate: self.candidate.top,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logits(seed: u32, len: usize) -> Vec<f32> {
        (0..len as u32).map(|i| ((i * 7919 + seed * 104_729) % 1000) as f32 / 120.0).collect()
    }

    /// Straight from the definition.
    fn direct(p: &[f32], q: &[f32], target: usize) -> (f64, f64, f64) {
        let log_softmax = |x: &[f32]| -> Vec<f64> {
            let sum: f64 = x.iter().map(|x| (*x as f64).exp()).sum();
            x.iter().map(|x| *x as f64 - sum.ln()).collect()
        };
        let (p, q) = (log_softmax(p), log_softmax(q));
        (p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum(), -p[target], -q[target])
    }

    #[test]
    fn tiles_add_up_to_the_definition() {
        let (p, q) = (logits(1, 300), logits(2, 300));
        let expected = direct(&p, &q, 217);
        for step in [1, 64, 300] {
            let mut pair = Pair::default();
            for first in (0..300).step_by(step) {
                let last = (first + step).min(300);
                pair.add(first, &p[first..last], &q[first..last], 217);
            }
            let found = pair.finish();
            assert!((found.kld - expected.0).abs() < 1e-10);
            assert!((found.nll_reference - expected.1).abs() < 1e-10);
            assert!((found.nll_candidate - expected.2).abs() < 1e-10);
        }
    }

    #[test]
    fn a_distribution_does_not_diverge_from_itself_or_a_shift() {
        let p = logits(3, 500);
        let shifted: Vec<f32> = p.iter().map(|x| x + 2.0).collect();
        let mut pair = Pair::default();
        pair.add(0, &p, &shifted, 0);
        assert!(pair.finish().kld < 1e-7);
        assert_eq!(pair.finish().top_reference, pair.finish().top_candidate);
    }

    #[test]
    fn all_tokens_known_equal_the_full_divergence() {
        let (p, q) = (logits(1, 100), logits(5, 100));
        let expected = direct(&p, &q, 3);
        let sum: f64 = p.iter().map(|x| (*x as f64).exp()).sum();
        let log_probs: Vec<f32> = p.iter().map(|x| (*x as f64 - sum.ln()) as f32).collect();
        let all = TopK { ids: (0..100).collect(), target_log_prob: log_probs[3], log_probs };
        let mut pair = TopKPair::new(all);
        pair.add(0, &q, 3);
        assert!((pair.finish().kld - expected.0).abs() < 1e-5);
        assert!((pair.finish().nll_reference - expected.1).abs() < 1e-5);
    }

    #[test]
    fn few_tokens_known_bound_the_divergence_from_below() {
        let (p, q) = (logits(1, 100), logits(5, 100));
        let expected = direct(&p, &q, 3).0;
        let sum: f64 = p.iter().map(|x| (*x as f64).exp()).sum();
        let ids: Vec<u32> = vec![4, 7, 90];
        let log_probs = ids.iter().map(|&i| (p[i as usize] as f64 - sum.ln()) as f32).collect();
        let mut pair = TopKPair::new(TopK { ids, log_probs, target_log_prob: -1.0 });
        pair.add(0, &q[..50], 3);
        pair.add(50, &q[50..], 3);
        let found = pair.finish().kld;
        assert!(found > 0.0 && found <= expected);
    }
}
