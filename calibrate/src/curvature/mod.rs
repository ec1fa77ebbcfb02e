//! How much errors in each matrix would change the model's output: the statistics behind calibrated quantization.
//!
//! Text runs forward through the layers, a next token is drawn from the model's own prediction at every position,
//! and the gradient of its log-probability runs backward. At every matrix, for every token, that gives the input
//! `x` and the gradient `g` by the output; kept are `sum |g|² x xᵀ` and `sum g gᵀ`, the two factors of the
//! Kronecker-factored Fisher information (arXiv 1503.05671, with labels drawn from the model as there), and the
//! plain `sum x²` that llama.cpp's importance matrices hold.
//!
//! One layer's weights are in memory at a time: the forward run leaves each layer's input and the neurons that fire in
//! temporary files, and the backward run computes the rest of the layer again. Where squared ReLU is off, `g` of the up
//! projection is zero: a neuron's row counts only the tokens on which it fires.

mod attention;
mod head;
mod layer;
mod moments;
mod products;
mod rows;
mod spill;

use std::path::Path;

use plmconv_formats::{Model, Role, TensorKey};
use plmconv_validate::Error as EvaluatorError;
use rayon::prelude::*;

use crate::error::{Error, Result};
use layer::LayerWeights;
pub use moments::{INPUT_BLOCK, OUTPUT_BLOCK, SiteMoments};
use rows::Shape;
use spill::Spill;

/// Tokens computed at once, unless a window is longer.
const BATCH_TOKENS: usize = 2048;

/// Where a run that was interrupted goes on.
#[derive(Clone, Debug)]
pub struct Position {
    /// Layers whose statistics are still to be reported.
    pub layers_left: usize,
    /// `[tokens, hidden]`: the gradient by the output of the last of them.
    pub gradient: Vec<f32>,
}

/// What a run reports while it goes.
#[derive(Debug)]
pub enum Event<'a> {
    /// Work done, of the given total, in units of one layer's pass.
    Progress {
        /// Passes done.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// A matrix's statistics over the whole text; the head comes first, then the layers from last to first.
    Site(SiteMoments),
    /// The sites of the head or of one more layer are all reported: a run may go on from this [`Position`].
    Boundary {
        /// Layers still to be reported.
        layers_left: usize,
        /// `[tokens, hidden]`
        gradient: &'a [f32],
    },
}

/// What runs through which model.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Its weights are read layer by layer.
    pub model: &'a Model,
    /// Token ids, all windows of one length.
    pub windows: &'a [Vec<u32>],
    /// Chooses the tokens drawn from the model's prediction.
    pub seed: u64,
    /// A folder with room for the layers' inputs, `(layers + 1) * tokens * hidden` f32, and five bytes for every neuron
    /// that fires.
    pub scratch: &'a Path,
}

/// Runs the text through the model and reports the statistics of every matrix; the same for any number of threads.
///
/// From a position that an earlier run on the same source reported, the rest of the same statistics: the forward
/// run of the layers that are left is done again.
///
/// # Errors
/// A model with low-rank queries or of the latent layout, token ids outside the vocabulary, activations or
/// gradients that are not finite, no windows, a position of another run, and whatever `each` returns.
pub fn measure(
    from: Source<'_>,
    start: Option<&Position>,
    each: impl FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    measure_with(&Run::new(from.model, from.windows)?, from, start, each)
}

fn measure_with(
    run: &Run<'_>,
    from: Source<'_>,
    start: Option<&Position>,
    mut each: impl FnMut(Event<'_>) -> Result<()>,
) -> Result<()> {
    let Source { model, windows, seed, scratch } = from;
    let layers = start.map_or(run.shape.layers, |position| position.layers_left);
    let total = 3 * layers + 1;
    let mut done = 0;
    let mut spill = Spill::new(scratch, run.token_count() * run.shape.hidden)?;
    for index in 0..layers {
        run.forward_layer(index, &mut spill)?;
        done += 1;
        each(Event::Progress { done, total })?;
    }
    let mut gradient = match start {
        Some(position) => run.gradient_at(position)?,
        None => {
            let (gradient, site) = head::backward(model, &run.shape, windows, &mut spill, seed)?;
            each(Event::Site(site))?;
            each(Event::Boundary { layers_left: layers, gradient: &gradient })?;
            gradient
        }
    };
    done += 1;
    each(Event::Progress { done, total })?;
    for index in (0..layers).rev() {
        for site in run.backward_layer(index, &mut spill, &mut gradient)? {
            each(Event::Site(site))?;
        }
        each(Event::Boundary { layers_left: index, gradient: &gradient })?;
        done += 2;
        each(Event::Progress { done, total })?;
    }
    Ok(())
}

/// The matrices that [`measure`] reports, in file order.
pub fn sites(layers: usize) -> impl Iterator<Item = TensorKey> {
    let roles = [Role::Query, Role::KvA, Role::KvB, Role::AttentionOutput, Role::FfnUp, Role::FfnDown];
    let in_layers = (0..layers).flat_map(move |l| roles.map(|role| TensorKey::in_layer(l, role)));
    std::iter::once(TensorKey::global(Role::TokenEmbedding)).chain(in_layers)
}

struct Run<'a> {
    model: &'a Model,
    windows: &'a [Vec<u32>],
    shape: Shape,
}

impl<'a> Run<'a> {
    fn new(model: &'a Model, windows: &'a [Vec<u32>]) -> Result<Run<'a>> {
        let window = windows.first().map_or(0, Vec::len);
        if window == 0 || windows.iter().any(|w| w.len() != window) {
            return Err(Error::Windows);
        }
        let config = &model.config;
        if config.q_lora_rank.is_some() {
            return Err(Error::NotMeasurable { what: "low-rank queries" });
        }
        if model.tensors.iter().any(|t| t.key.role == Role::FfnGate) {
            return Err(Error::NotMeasurable { what: "the latent layout" });
        }
        for (i, &token) in windows.iter().flatten().enumerate() {
            if token as usize >= config.vocab_size {
                let vocab_size = config.vocab_size;
                return Err(EvaluatorError::TokenOutOfRange { token, position: i, vocab_size }.into());
            }
        }
        Ok(Run { model, windows, shape: Shape::new(config, window) })
    }

    fn gradient_at(&self, position: &Position) -> Result<Vec<f32>> {
        let fits = position.layers_left <= self.shape.layers
            && position.gradient.len() == self.token_count() * self.shape.hidden;
        if fits { Ok(position.gradient.clone()) } else { Err(Error::ForeignPosition) }
    }

    fn token_count(&self) -> usize {
        self.windows.len() * self.shape.window
    }

    /// Numbers of the first tokens of the batches, and their lengths in tokens.
    fn batches(&self) -> impl Iterator<Item = (usize, usize)> {
        let step = (BATCH_TOKENS / self.shape.window).max(1) * self.shape.window;
        let count = self.token_count();
        (0..count).step_by(step).map(move |first| (first, step.min(count - first)))
    }

    fn forward_layer(&self, index: usize, spill: &mut Spill) -> Result<()> {
        let weights = LayerWeights::load(self.model, index)?;
        let width = self.shape.hidden;
        for (first, count) in self.batches() {
            let mut hidden = vec![0.0; count * width];
            if index == 0 {
                let tokens: Vec<u32> =
                    self.windows.iter().flatten().skip(first).take(count).copied().collect();
                rows::embed(self.model, &tokens, &mut hidden)?;
                spill.write(0, first * width, &hidden)?;
            } else {
                spill.read(index, first * width, &mut hidden)?;
            }
            let state = layer::forward(&self.shape, &weights, &hidden, None);
            state.output(&self.shape.products, &weights, &mut hidden);
            spill.write_neurons(index, first, &state.rectified)?;
            if !rows::all_finite(&hidden) {
                return Err(Error::NotFinite { layer: index, what: "activations" });
            }
            spill.write(index + 1, first * width, &hidden)?;
        }
        Ok(())
    }

    fn backward_layer(
        &self,
        index: usize,
        spill: &mut Spill,
        gradient: &mut [f32],
    ) -> Result<Vec<SiteMoments>> {
        let weights = LayerWeights::load(self.model, index)?;
        let mut sites = layer::Sites::new(index, &weights);
        let width = self.shape.hidden;
        for (first, count) in self.batches() {
            let mut hidden = vec![0.0; count * width];
            spill.read(index, first * width, &mut hidden)?;
            let neurons = spill.read_neurons(index, first, [count, weights.neurons()])?;
            let state = layer::forward(&self.shape, &weights, &hidden, Some(neurons));
            let gradient = &mut gradient[first * width..(first + count) * width];
            layer::backward(&self.shape, &weights, &state, &hidden, gradient, &mut sites);
            if !rows::all_finite(gradient) {
                return Err(Error::NotFinite { layer: index, what: "gradients" });
            }
        }
        let mut sites = sites.into_vec();
        sites.par_iter_mut().for_each(SiteMoments::close);
        Ok(sites)
    }
}

#[cfg(test)]
mod tests;
