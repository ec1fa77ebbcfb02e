//! Golden logits of the tiny PLM, and how far other logits are from them.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::error::{Error, Result};

/// A token's id, as llama.cpp has it.
pub type Token = i32;

/// The checkout's folder of fixtures.
pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// Logits that the published modelling code's semantics give for the tiny PLM, computed in double precision from its
/// bf16 weights.
#[derive(Debug)]
pub struct Golden {
    /// `[sequences]`, each `[tokens]`.
    pub sequences: Vec<Vec<Token>>,
    /// `[sequences]`, each `[tokens, vocab_size]` row-major.
    pub logits: Vec<Vec<f32>>,
    pub vocab_size: usize,
}

impl Golden {
    /// Reads `fixtures/golden/logits.safetensors`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Safetensors`], [`Error::Golden`] for another shape or type than documented.
    pub fn load() -> Result<Self> {
        let path = fixtures().join("golden/logits.safetensors");
        let bytes = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        let unreadable = |source| Error::Safetensors { path: path.clone(), source };
        let file = SafeTensors::deserialize(&bytes).map_err(unreadable)?;
        let ids = file.tensor("input_ids").map_err(unreadable)?;
        let logits = file.tensor("logits").map_err(unreadable)?;
        let [sequences, tokens, vocab_size] = *logits.shape() else {
            return Err(wrong(
                &path,
                "logits",
                format!("{:?}", logits.shape()),
                "of three dimensions".into(),
            ));
        };
        if logits.dtype() != Dtype::F32 {
            return Err(wrong(&path, "logits", format!("{:?}", logits.dtype()), "F32".into()));
        }
        if ids.dtype() != Dtype::I64 || ids.shape() != [sequences, tokens] {
            let found = format!("{:?} {:?}", ids.dtype(), ids.shape());
            return Err(wrong(&path, "input_ids", found, format!("I64 [{sequences}, {tokens}]")));
        }
        let ids: Vec<Token> =
            ids.data().as_chunks::<8>().0.iter().map(|id| i64::from_le_bytes(*id) as Token).collect();
        let values: Vec<f32> =
            logits.data().as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect();
        Ok(Self {
            sequences: ids.chunks_exact(tokens).map(<[Token]>::to_vec).collect(),
            logits: values.chunks_exact(tokens * vocab_size).map(<[f32]>::to_vec).collect(),
            vocab_size,
        })
    }
}

fn wrong(path: &Path, tensor: &'static str, found: String, expected: String) -> Error {
    Error::Golden { path: path.to_owned(), tensor, found, expected }
}

/// How far logits are from a reference, over all positions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Distance {
    /// Largest absolute difference, divided by the reference's range (largest minus smallest logit).
    pub of_range: f64,
    /// Mean Kullback-Leibler divergence of the distributions in nats, reference first.
    pub mean_kl: f64,
    /// Share of positions whose likeliest token is the reference's.
    pub same_top: f64,
}

/// Compares `found` with `reference`, both `[positions, vocab_size]`. NaN anywhere makes the result NaN.
pub fn distance(reference: &[f32], found: &[f32], vocab_size: usize) -> Distance {
    assert_eq!(reference.len(), found.len(), "logits of different shape have no distance");
    let largest = reference.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let smallest = reference.iter().copied().fold(f32::INFINITY, f32::min);
    let mut worst = 0f64;
    let mut same = 0usize;
    let positions = reference.len() / vocab_size;
    for (reference, found) in reference.chunks_exact(vocab_size).zip(found.chunks_exact(vocab_size)) {
        for (a, b) in reference.iter().zip(found) {
            let difference = f64::from((a - b).abs());
            // NaN has to win: `f64::max` would drop it.
            worst = if worst.is_nan() || difference <= worst { worst } else { difference };
        }
        same += usize::from(likeliest(reference) == likeliest(found));
    }
    Distance {
        of_range: worst / f64::from(largest - smallest),
        mean_kl: divergences(reference, found, vocab_size).sum::<f64>() / positions as f64,
        same_top: same as f64 / positions as f64,
    }
}

/// Each position's Kullback-Leibler divergence in nats, reference first. Both are `[positions, vocab_size]`.
pub(crate) fn divergences<'a>(
    reference: &'a [f32],
    found: &'a [f32],
    vocab_size: usize,
) -> impl Iterator<Item = f64> + 'a {
    reference.chunks_exact(vocab_size).zip(found.chunks_exact(vocab_size)).map(|(reference, found)| {
        let (log_p, log_q) = (log_softmax(reference), log_softmax(found));
        log_p.iter().zip(&log_q).map(|(p, q)| p.exp() * (p - q)).sum()
    })
}

/// Index of the largest value, the first of equals.
pub(crate) fn likeliest(logits: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in logits.iter().enumerate() {
        if *value > logits[best] {
            best = index;
        }
    }
    best
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&logit| (f64::from(logit) - max).exp()).sum();
    logits.iter().map(|&logit| f64::from(logit) - max - sum.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_logits_have_no_distance() {
        let logits = [0.5f32, -1.0, 2.0, 3.0, 1.0, 0.0];
        let distance = distance(&logits, &logits, 3);
        assert_eq!(distance, Distance { of_range: 0.0, mean_kl: 0.0, same_top: 1.0 });
    }

    #[test]
    fn divergence_of_two_coins_is_the_textbook_value() {
        // p = (1/2, 1/2), q = (1/4, 3/4).
        let found = [(0.25f32).ln(), (0.75f32).ln()];
        let expected = 0.5 * (2f64).ln() + 0.5 * (2f64 / 3.0).ln();
        assert!((distance(&[0.0, 0.0], &found, 2).mean_kl - expected).abs() < 1e-7);
    }

    #[test]
    fn nan_is_not_near() {
        let distance = distance(&[0.0, 1.0], &[f32::NAN, 1.0], 2);
        assert!(distance.of_range.is_nan() && distance.mean_kl.is_nan());
    }
}
