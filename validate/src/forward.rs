//! The forward pass, as the published modelling code defines it.

use rayon::prelude::*;

use crate::buffers::Buffer;
use crate::error::Result;
use crate::evaluator::{Evaluator, Hidden, Sequence, check_finite};
use crate::linear::{ActiveNeurons, Input, Rows};
use crate::site::{Point, Site};
use crate::weights::{Ffn, Layer, Matrix};

/// Sees activations: `[tokens of the batch, width]`, row-major. The width follows from the point.
pub type Observer<'a> = &'a mut (dyn FnMut(Site, &[f32]) + Send);

/// Below this share of active neurons the down projection is computed from the active ones alone.
const SPARSE_BELOW: f64 = 0.35;

/// One call's work: a batch of sequences, concatenated token by token.
pub(crate) struct Forward<'e, 'b, 's, 'o> {
    pub(crate) evaluator: &'e Evaluator,
    pub(crate) batch: &'b mut [Sequence<'s>],
    pub(crate) observer: Option<Observer<'o>>,
    /// Position of every token in its sequence.
    pub(crate) positions: Vec<usize>,
    active_neurons: u64,
}

impl<'e, 'b, 's, 'o> Forward<'e, 'b, 's, 'o> {
    pub fn new(
        evaluator: &'e Evaluator,
        batch: &'b mut [Sequence<'s>],
        observer: Option<Observer<'o>>,
    ) -> Forward<'e, 'b, 's, 'o> {
        let positions = batch
            .iter()
            .flat_map(|s| {
                let past = s.cache.as_ref().map_or(0, |c| c.len());
                past..past + s.tokens.len()
            })
            .collect();
        Forward { evaluator, batch, observer, positions, active_neurons: 0 }
    }

    pub fn run(mut self) -> Result<Hidden> {
        let config = &self.evaluator.config;
        let width = config.hidden_size;
        let mut x = self.embed();
        for (i, layer) in self.evaluator.weights.layers.iter().enumerate() {
            let attention = self.attention(i, layer, &x)?;
            add(&mut x, &attention);
            drop(attention);
            let ffn = self.ffn(i, layer, &x)?;
            add(&mut x, &ffn);
            check_finite(&x, width, i, Point::LayerOutput)?;
            self.observe(Some(i), Point::LayerOutput, &x);
        }
        for sequence in self.batch.iter_mut() {
            if let Some(cache) = &mut sequence.cache {
                cache.advance(sequence.tokens.len());
            }
        }
        let wanted = self.wanted_rows(&x);
        let values = self.rms_norm(&wanted, &self.evaluator.weights.output_norm);
        self.observe(None, Point::HeadInput, &values);
        Ok(Hidden {
            rows: values.len() / width,
            values: values.to_vec(),
            active_neurons: self.active_neurons,
            neurons: (self.positions.len() * config.intermediate_size * config.num_hidden_layers) as u64,
        })
    }

    pub(crate) fn observe(&mut self, layer: Option<usize>, point: Point, values: &[f32]) {
        if let Some(observer) = &mut self.observer {
            observer(Site { layer, point }, values);
        }
    }

    fn embed(&self) -> Buffer<f32> {
        let width = self.evaluator.config.hidden_size;
        let mut x = self.evaluator.linear.floats.take(self.positions.len() * width);
        let tokens = self.batch.iter().flat_map(|s| s.tokens);
        for (out, &token) in x.chunks_exact_mut(width).zip(tokens) {
            self.evaluator.weights.embedding.decode_row(token as usize, out);
        }
        x
    }

    fn wanted_rows(&self, x: &[f32]) -> Vec<f32> {
        let width = self.evaluator.config.hidden_size;
        let mut out = Vec::new();
        let mut first = 0;
        for sequence in self.batch.iter() {
            let rows = first + sequence.wanted.start..first + sequence.wanted.end;
            out.extend_from_slice(&x[rows.start * width..rows.end * width]);
            first += sequence.tokens.len();
        }
        out
    }

    /// `x / rms(x) * weight`, row by row. `x`: `[tokens, weight.len()]`.
    pub(crate) fn rms_norm(&self, x: &[f32], weight: &[f32]) -> Buffer<f32> {
        let evaluator = self.evaluator;
        let mut out = evaluator.linear.floats.take(x.len());
        let rows = out.par_chunks_exact_mut(weight.len()).zip(x.par_chunks_exact(weight.len()));
        rows.for_each(|(out, row)| {
            let scale = evaluator.rms_scale(row);
            for ((out, x), w) in out.iter_mut().zip(row).zip(weight) {
                *out = x * scale * w;
            }
        });
        out
    }

    pub(crate) fn product(&self, matrix: &Matrix, input: &Input<'_>) -> Buffer<f32> {
        self.evaluator.linear.product(matrix, input)
    }

    /// The feed-forward block's contribution: `[tokens, hidden_size]`.
    fn ffn(&mut self, index: usize, layer: &Layer, x: &[f32]) -> Result<Buffer<f32>> {
        let config = &self.evaluator.config;
        let linear = &self.evaluator.linear;
        let Ffn { gate, up, down } = &layer.ffn;
        let normalized = self.rms_norm(x, &layer.ffn_norm);
        check_finite(&normalized, config.hidden_size, index, Point::FfnInput)?;
        self.observe(Some(index), Point::FfnInput, &normalized);
        let input = linear.prepare(Rows::all(&normalized, config.hidden_size));
        let mut hidden = self.product(up, &input);
        self.observe(Some(index), Point::FfnUp, &hidden);
        match gate {
            None => hidden.par_chunks_mut(1 << 14).for_each(squared_relu),
            Some(gate) => {
                let gate = self.product(gate, &input);
                let chunks = hidden.par_chunks_mut(1 << 14).zip(gate.par_chunks(1 << 14));
                chunks.for_each(|(hidden, gate)| apply_silu_gate(hidden, gate));
            }
        }
        drop(input);
        self.observe(Some(index), Point::FfnHidden, &hidden);
        let active: usize = hidden.par_chunks(1 << 14).map(|c| c.iter().filter(|x| **x != 0.0).count()).sum();
        self.active_neurons += active as u64;
        Ok(if self.positions.len() > 4 && (active as f64) < SPARSE_BELOW * hidden.len() as f64 {
            let active = ActiveNeurons::new(&hidden, config.intermediate_size);
            drop(hidden);
            linear.sparse_product(down, &active)
        } else {
            self.product(down, &linear.prepare(Rows::all(&hidden, config.intermediate_size)))
        })
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.par_chunks_mut(1 << 14).zip(y.par_chunks(1 << 14)).for_each(|(x, y)| {
        for (x, y) in x.iter_mut().zip(y) {
            *x += y;
        }
    });
}

fn squared_relu(values: &mut [f32]) {
    for x in values {
        // NaN must pass through to be seen, so no `max`.
        let positive = if *x < 0.0 { 0.0 } else { *x };
        *x = positive * positive;
    }
}

fn apply_silu_gate(values: &mut [f32], gate: &[f32]) {
    for (x, g) in values.iter_mut().zip(gate) {
        *x *= g / (1.0 + libm::expf(-*g));
    }
}
