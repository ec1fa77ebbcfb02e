//! Where along the network two models part: the residual stream after every layer, for some tokens.

use plmconv_formats::Config;

use crate::site::{Point, Site};

/// Rows compared per batch; more would cost memory (one row is `layers * hidden_size` values) and tell no more.
const ROWS: usize = 96;

/// Two models' residual streams after one layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerDivergence {
    /// Number of the layer, from 0.
    pub layer: usize,
    /// Squared difference over the reference's square.
    pub relative_error: f64,
    /// What this layer adds to it; below zero where a layer makes up for errors before it.
    pub added: f64,
}

pub(super) struct LayerProbe {
    width: usize,
    /// Per layer: the reference's rows of this batch.
    rows: Vec<Vec<f32>>,
    difference: Vec<f64>,
    square: Vec<f64>,
}

impl LayerProbe {
    pub fn new(config: &Config) -> LayerProbe {
        let layers = config.num_hidden_layers;
        LayerProbe {
            width: config.hidden_size,
            rows: vec![Vec::new(); layers],
            difference: vec![0.0; layers],
            square: vec![0.0; layers],
        }
    }

    /// Sees the reference's activations.
    pub fn store(&mut self, site: Site, values: &[f32]) {
        if let (Some(layer), Point::LayerOutput) = (site.layer, site.point) {
            self.rows[layer].clear();
            let rows = sample(values, self.width);
            self.rows[layer].extend(rows.flatten());
        }
    }

    /// Sees the candidate's, which then runs the same tokens.
    pub fn compare(&mut self, site: Site, values: &[f32]) {
        if let (Some(layer), Point::LayerOutput) = (site.layer, site.point) {
            let found = sample(values, self.width).flatten();
            for (found, expected) in found.zip(&self.rows[layer]) {
                self.difference[layer] += (*found as f64 - *expected as f64).powi(2);
                self.square[layer] += (*expected as f64).powi(2);
            }
        }
    }

    pub fn finish(self) -> Vec<LayerDivergence> {
        // Of a reference that is zero: infinite, except for a candidate that is zero too.
        let relative = |(d, s): (&f64, &f64)| if *d == 0.0 && *s == 0.0 { 0.0 } else { d / s };
        let errors = self.difference.iter().zip(&self.square).map(relative);
        let mut before = 0.0;
        let layers = errors.enumerate().map(|(layer, relative_error)| {
            let added = relative_error - before;
            before = relative_error;
            LayerDivergence { layer, relative_error, added }
        });
        layers.collect()
    }
}

/// Evenly spaced rows, the same for every call with as many tokens.
fn sample(values: &[f32], width: usize) -> impl Iterator<Item = &[f32]> {
    let step = (values.len() / width).div_ceil(ROWS).max(1);
    values.chunks_exact(width).step_by(step)
}
