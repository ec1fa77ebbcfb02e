//! The forward pass, as the published modelling code defines it.

use plmconv_quant::product::SparseMatrix;
use rayon::prelude::*;

use crate::batch::{Hidden, Sequence};
use crate::buffers::Buffer;
use crate::error::Result;
use crate::linear::{Input, Rows};
use crate::loaded::Loaded;
use crate::network;
use crate::site::{Point, Site, check_finite};
use crate::weights::{Ffn, Layer, Matrix};

/// Sees activations: `[tokens of the batch, width]`, row-major. The width follows from the point.
pub type Observer<'a> = &'a mut (dyn FnMut(Site, &[f32]) + Send);

/// Below this share of active neurons the down projection is computed from the active ones alone.
const SPARSE_BELOW: f64 = 0.35;

/// One call's work: a batch of sequences, concatenated token by token.
pub(crate) struct Forward<'m, 'b, 's, 'o> {
    pub(crate) model: &'m Loaded,
    pub(crate) batch: &'b mut [Sequence<'s>],
    pub(crate) observer: Option<Observer<'o>>,
    /// Position of every token in its sequence.
    pub(crate) positions: Vec<usize>,
    active_neurons: u64,
}

impl<'m, 'b, 's, 'o> Forward<'m, 'b, 's, 'o> {
    pub fn new(
        model: &'m Loaded,
        batch: &'b mut [Sequence<'s>],
        observer: Option<Observer<'o>>,
    ) -> Forward<'m, 'b, 's, 'o> {
        let positions = batch
            .iter()
            .flat_map(|s| {
                let past = s.cache.as_ref().map_or(0, |c| c.len());
                past..past + s.tokens.len()
            })
            .collect();
        Forward { model, batch, observer, positions, active_neurons: 0 }
    }

    pub fn run(mut self) -> Result<Hidden> {
        let config = &self.model.config;
        let width = config.hidden_size;
        let mut x = self.embed();
        for (i, layer) in self.model.weights.layers.iter().enumerate() {
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
        let values = self.rms_norm(&wanted, &self.model.weights.output_norm);
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
        let width = self.model.config.hidden_size;
        let mut x = self.model.linear.workspace.floats.take(self.positions.len() * width);
        let tokens = self.batch.iter().flat_map(|s| s.tokens);
        for (out, &token) in x.chunks_exact_mut(width).zip(tokens) {
            self.model.weights.embedding.decode_row(token as usize, out);
        }
        x
    }

    fn wanted_rows(&self, x: &[f32]) -> Vec<f32> {
        let width = self.model.config.hidden_size;
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
        let mut out = self.model.linear.workspace.floats.take(x.len());
        network::rms_norm(x, weight, self.model.config.rms_norm_eps, &mut out);
        out
    }

    pub(crate) fn product(&self, matrix: &Matrix, input: &Input<'_>) -> Buffer<f32> {
        self.model.linear.product(matrix, input)
    }

    /// The feed-forward block's contribution: `[tokens, hidden_size]`.
    fn ffn(&mut self, index: usize, layer: &Layer, x: &[f32]) -> Result<Buffer<f32>> {
        let config = &self.model.config;
        let linear = &self.model.linear;
        let Ffn { gate, up, down } = &layer.ffn;
        let normalized = self.rms_norm(x, &layer.ffn_norm);
        check_finite(&normalized, config.hidden_size, index, Point::FfnInput)?;
        self.observe(Some(index), Point::FfnInput, &normalized);
        let matrices: Vec<&Matrix> = gate.iter().chain([up]).collect();
        let input = linear.prepare(Rows::all(&normalized, config.hidden_size), &matrices);
        let mut hidden = self.product(up, &input);
        self.observe(Some(index), Point::FfnUp, &hidden);
        match gate {
            None => hidden.par_chunks_mut(1 << 14).for_each(network::squared_relu),
            Some(gate) => {
                let gate = self.product(gate, &input);
                let chunks = hidden.par_chunks_mut(1 << 14).zip(gate.par_chunks(1 << 14));
                chunks.for_each(|(hidden, gate)| network::silu_gate(hidden, gate));
            }
        }
        drop(input);
        self.observe(Some(index), Point::FfnHidden, &hidden);
        let active: usize = hidden.par_chunks(1 << 14).map(|c| c.iter().filter(|x| **x != 0.0).count()).sum();
        self.active_neurons += active as u64;
        Ok(if self.positions.len() > 4 && (active as f64) < SPARSE_BELOW * hidden.len() as f64 {
            let rounding = linear.arithmetic.rounding(down.dtype);
            hidden.par_chunks_exact_mut(config.intermediate_size).for_each(|row| rounding.apply(row));
            let active = SparseMatrix::new(&hidden, config.intermediate_size);
            drop(hidden);
            linear.sparse_product(down, &active)
        } else {
            self.product(down, &linear.prepare(Rows::all(&hidden, config.intermediate_size), &[down]))
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
