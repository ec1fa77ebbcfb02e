//! A model's perplexity.

use anyhow::Result;
use plmconv_formats::{Config, Role};
use plmconv_validate::Windows;
use plmconv_validate::perplexity::Perplexity;
use serde::Serialize;

use super::{figure, print_document};
use crate::evaluation::{Loaded, Runnable};

#[derive(Serialize)]
struct PerplexityJson {
    model: String,
    perplexity: f64,
    standard_error: f64,
    tokens_scored: usize,
    tokens: usize,
    ctx: usize,
    windows: usize,
    seconds: f64,
    tokens_per_second: f64,
    /// What only the evaluator knows.
    #[serde(flatten)]
    evaluator: Option<EvaluatorJson>,
}

#[derive(Serialize)]
struct EvaluatorJson {
    active_neurons: f64,
    multiplications_spared: f64,
    kernel: String,
    arithmetic: &'static str,
    exact: bool,
}

impl EvaluatorJson {
    /// None for a model that runs elsewhere.
    fn new(model: &Runnable, found: &Perplexity) -> Option<EvaluatorJson> {
        let (loaded, active_neurons) = model.loaded().zip(found.active_neurons)?;
        let options = loaded.evaluator.options();
        Some(EvaluatorJson {
            active_neurons,
            multiplications_spared: spared(loaded, active_neurons),
            kernel: options.kernel.to_string(),
            arithmetic: options.arithmetic.name(),
            exact: options.exact,
        })
    }
}

/// Prints a finished measurement.
pub fn print(model: &Runnable, windows: &Windows<'_>, found: &Perplexity, json: bool) -> Result<()> {
    let evaluator = EvaluatorJson::new(model, found);
    if json {
        return print_document(
            "perplexity",
            &PerplexityJson {
                model: model.path().display().to_string(),
                perplexity: found.perplexity.value,
                standard_error: found.perplexity.error,
                tokens_scored: found.tokens_scored,
                tokens: found.tokens,
                ctx: windows.ctx(),
                windows: windows.count(),
                seconds: found.elapsed.as_secs_f64(),
                tokens_per_second: found.tokens_per_second(),
                evaluator,
            },
        );
    }
    say!("perplexity {} ± {}", figure(found.perplexity.value, 4), figure(found.perplexity.error, 4));
    say!(
        "{} tokens scored in {} windows of {}; {:.1} s, {:.1} tokens/s, {}",
        found.tokens_scored,
        windows.count(),
        windows.ctx(),
        found.elapsed.as_secs_f64(),
        found.tokens_per_second(),
        evaluator
            .as_ref()
            .map_or("ONNX Runtime".into(), |e| format!("kernel {}, {} arithmetic", e.kernel, e.arithmetic))
    );
    if let Some(seen) = evaluator {
        say!(
            "{} % of the FFN's neurons were active; their zeros take {} % off the layers' multiplications",
            figure(seen.active_neurons * 100.0, 1),
            figure(seen.multiplications_spared * 100.0, 1)
        );
    }
    Ok(())
}

/// The share of the layers' weight multiplications that zeros in front of the down projection make needless.
fn spared(loaded: &Loaded, active: f64) -> f64 {
    let Config { hidden_size, intermediate_size, num_hidden_layers, .. } = loaded.evaluator.config();
    let down = hidden_size * intermediate_size * num_hidden_layers;
    let tensors = &loaded.model.tensors;
    let all: usize = tensors
        .iter()
        .filter(|t| t.key.layer.is_some() && !t.key.role.is_norm() && t.key.role != Role::TokenEmbedding)
        .map(|t| t.values())
        .sum();
    (1.0 - active) * down as f64 / all.max(1) as f64
}
