//! Writing text token by token.

use std::ops::ControlFlow;

use plmconv_formats::TextTokenizer;
use plmconv_quant::random::SplitMix64;

use crate::error::{Error, Result};
use crate::runner::Runner;

/// How the next token is chosen, and when to stop.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Tokens to write at most.
    pub max_tokens: usize,
    /// 0 takes the most likely token; otherwise logits are divided by it and a token is drawn.
    pub temperature: f32,
    /// Chooses among the tokens that sampling may take.
    pub seed: u64,
    /// Tokens that end the text (they are not reported).
    pub stop: Vec<u32>,
    /// Only ids below this are chosen: a vocabulary may be padded with ids that mean nothing.
    pub vocabulary: Option<usize>,
}

impl Default for GenerateOptions {
    fn default() -> GenerateOptions {
        GenerateOptions { max_tokens: 64, temperature: 0.0, seed: 0, stop: Vec::new(), vocabulary: None }
    }
}

/// Continues `prompt`; every new token is handed to `on_token` at once and returned at the end. Stops after
/// `max_tokens`, before a stop token, at the end of the model's context, or when `on_token` says so.
///
/// # Errors
/// An empty prompt or one longer than the context, a negative temperature, and what running a model may end
/// with.
pub fn generate<'a>(
    runner: impl Into<Runner<'a>>,
    prompt: &[u32],
    options: &GenerateOptions,
    mut on_token: impl FnMut(u32) -> ControlFlow<()>,
) -> Result<Vec<u32>> {
    let temperature = options.temperature;
    if temperature.is_nan() || temperature < 0.0 {
        return Err(Error::Temperature { temperature });
    }
    let mut random = SplitMix64::new(options.seed);
    let runner = runner.into();
    let mut sequence = runner.start()?;
    let mut written = Vec::new();
    let mut input = prompt.to_vec();
    while written.len() < options.max_tokens {
        let logits = sequence.extend(&input)?;
        let allowed = options.vocabulary.unwrap_or(logits.len()).clamp(1, logits.len());
        let token = choose(&logits[..allowed], temperature, &mut random);
        if options.stop.contains(&token) {
            break;
        }
        written.push(token);
        if on_token(token).is_break() || sequence.len() >= runner.context() {
            break;
        }
        input = vec![token];
    }
    Ok(written)
}

/// How many ids mean some text: a vocabulary may be padded at its end with ids that mean nothing.
pub fn meaningful_ids(tokenizer: &TextTokenizer) -> usize {
    let mut count = tokenizer.vocab_size();
    while count > 1 && tokenizer.token_bytes(count as u32 - 1).is_empty() {
        count -= 1;
    }
    count
}

/// Draws a token by its probability at `temperature`; at 0 the most likely.
pub(crate) fn choose(logits: &[f32], temperature: f32, random: &mut SplitMix64) -> u32 {
    let mut best = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[best] {
            best = i;
        }
    }
    if temperature == 0.0 {
        return best as u32;
    }
    // libm's: the platforms' own differ in the last bit, and the text is calibrated with.
    let weight = |x: &f32| libm::exp(f64::from((x - logits[best]) / temperature));
    let weights: Vec<f64> = logits.iter().map(weight).collect();
    let mut left = random.next_f64() * weights.iter().sum::<f64>();
    for (i, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return i as u32;
        }
    }
    best as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_zero_takes_the_largest() {
        let mut random = SplitMix64::new(1);
        assert_eq!(choose(&[0.0, 3.0, -1.0, 3.0], 0.0, &mut random), 1);
    }

    #[test]
    fn draws_follow_the_distribution() {
        let mut random = SplitMix64::new(7);
        let logits = [0.0, (3.0f32).ln(), f32::NEG_INFINITY];
        let mut counts = [0; 3];
        (0..4000).for_each(|_| counts[choose(&logits, 1.0, &mut random) as usize] += 1);
        assert_eq!(counts[2], 0);
        let share = counts[1] as f64 / 4000.0;
        assert!((share - 0.75).abs() < 0.03, "{share}");
    }
}
