//! A model's perplexity.

use anyhow::Result;
use plmconv_formats::{Config, Role};
use plmconv_validate::Windows;
use plmconv_validate::perplexity::Perplexity;
use serde::Serialize;

use super::print_json;
use crate::evaluation::Loaded;

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
    active_neurons: f64,
    multiplications_spared: f64,
    kernel: String,
    exact: bool,
}

/// Prints a finished measurement.
pub fn print(loaded: &Loaded, windows: &Windows<'_>, found: &Perplexity, json: bool) -> Result<()> {
    let spared = spared(loaded, found.active_neurons);
    let options = loaded.evaluator.options();
    if json {
        return print_json(&PerplexityJson {
            model: loaded.model.path().display().to_string(),
            perplexity: found.perplexity.value,
            standard_error: found.perplexity.error,
            tokens_scored: found.tokens_scored,
            tokens: found.tokens,
            ctx: windows.ctx(),
            windows: windows.count(),
            seconds: found.elapsed.as_secs_f64(),
            tokens_per_second: found.tokens_per_second(),
            active_neurons: found.active_neurons,
            multiplications_spared: spared,
            kernel: options.kernel.to_string(),
            exact: options.exact,
        });
    }
    println!("perplexity {:.4} ± {:.4}", found.perplexity.value, found.perplexity.error);
    println!(
        "{} tokens scored in {} windows of {}; {:.1} s, {:.1} tokens/s, kernel {}",
        found.tokens_scored,
        windows.count(),
        windows.ctx(),
        found.elapsed.as_secs_f64(),
        found.tokens_per_second(),
        options.kernel
    );
    println!(
        "{:.1} % of the FFN's neurons were active; their zeros take {:.1} % off the layers' multiplications",
        found.active_neurons * 100.0,
        spared * 100.0
    );
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
