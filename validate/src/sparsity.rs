//! How sparse the FFN's activations are: which neurons fire, and how often.

use plmconv_formats::Config;

use crate::site::{Point, Site};

/// A neuron that fires for more than this share of the tokens fires almost always.
pub const ALMOST_ALWAYS: f64 = 0.9;

/// One layer's FFN over a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerSparsity {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Neurons of its FFN.
    pub neurons: usize,
    /// Share of activations that are zero.
    pub zeros: f64,
    /// Neurons that no token fires.
    pub never: usize,
    /// Neurons that more than [`ALMOST_ALWAYS`] of the tokens fire.
    pub almost_always: usize,
}

/// Counts firing neurons; [`observe`](Self::observe) is an observer for the evaluator.
#[derive(Clone, Debug)]
pub struct Sparsity {
    neurons: usize,
    /// `[layers][neurons]`: tokens that fired it.
    fired: Vec<Vec<u64>>,
    tokens: u64,
}

impl Sparsity {
    /// No tokens seen yet.
    pub fn new(config: &Config) -> Sparsity {
        Sparsity {
            neurons: config.intermediate_size,
            fired: vec![vec![0; config.intermediate_size]; config.num_hidden_layers],
            tokens: 0,
        }
    }

    /// Takes in what the FFN's down projection is given.
    pub fn observe(&mut self, site: Site, values: &[f32]) {
        let (Some(layer), Point::FfnHidden) = (site.layer, site.point) else { return };
        if layer == 0 {
            self.tokens += (values.len() / self.neurons) as u64;
        }
        for row in values.chunks_exact(self.neurons) {
            for (count, x) in self.fired[layer].iter_mut().zip(row) {
                *count += u64::from(*x != 0.0);
            }
        }
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// How often every neuron of a layer fired, as a share of the tokens.
    pub fn firing_rates(&self, layer: usize) -> Vec<f64> {
        self.fired[layer].iter().map(|&n| n as f64 / self.tokens.max(1) as f64).collect()
    }

    /// The statistics of every layer.
    pub fn layers(&self) -> Vec<LayerSparsity> {
        let all = self.fired.iter().enumerate();
        all.map(|(layer, fired)| {
            let rates = self.firing_rates(layer);
            LayerSparsity {
                layer,
                neurons: self.neurons,
                zeros: 1.0 - rates.iter().sum::<f64>() / self.neurons as f64,
                never: fired.iter().filter(|n| **n == 0).count(),
                almost_always: rates.iter().filter(|r| **r > ALMOST_ALWAYS).count(),
            }
        })
        .collect()
    }
}
