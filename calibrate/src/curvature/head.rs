//! The output head: tokens drawn from the model's prediction, and the gradient they cause.

use plmconv_formats::{Model, Role, TensorKey};
use plmconv_quant::product::{Matrix, add_product};
use plmconv_quant::random::{mix, unit};
use plmconv_validate::network::exp_minus;
use rayon::prelude::*;

use super::moments::{Samples, SiteMoments};
use super::rows::{Dense, Shape, read_rows_into, read_vector, rms_norm, rms_norm_backward};
use super::spill::Spill;
use crate::error::{Error, Result};

/// Rows of the vocabulary multiplied at a time.
const TILE_ROWS: usize = 8 << 10;
/// Tokens whose logits are held at a time: the whole embedding is read twice for them.
const TOKENS: usize = 1024;

/// The gradient of the drawn tokens' negative log-probabilities by the last layer's output
/// (`[all tokens, hidden]`), and the head's statistics: `sum over tokens and vocabulary of p (1 - p) x xᵀ`.
pub(super) fn backward(
    model: &Model,
    shape: &Shape,
    windows: &[Vec<u32>],
    spill: &mut Spill,
    seed: u64,
) -> Result<(Vec<f32>, SiteMoments)> {
    let norm = read_vector(model, TensorKey::global(Role::OutputNorm))?;
    let count = windows.len() * shape.window;
    let mut gradient = vec![0.0; count * shape.hidden];
    let mut site = SiteMoments::new(TensorKey::global(Role::TokenEmbedding), None, shape.hidden);
    let mut probabilities = vec![0.0; TOKENS.min(count) * model.config.vocab_size];
    let mut embedding = Embedding::new(model);
    for first in (0..count).step_by(TOKENS) {
        let tokens = TOKENS.min(count - first);
        let mut hidden = vec![0.0; tokens * shape.hidden];
        spill.read(shape.layers, first * shape.hidden, &mut hidden)?;
        let x = rms_norm(&hidden, &norm, shape.eps);
        let vocab = model.config.vocab_size;
        let probabilities = &mut probabilities[..tokens * vocab];
        embedding.logits(&x, probabilities)?;
        let weights: Vec<f32> = probabilities
            .par_chunks_exact_mut(vocab)
            .enumerate()
            .map(|(t, row)| soften_and_draw(row, uniform(seed, (first + t) as u64)))
            .collect();
        if weights.iter().any(|w| !w.is_finite()) {
            return Err(Error::NotFinite { layer: shape.layers, what: "logits" });
        }
        site.add_inputs(Samples::Dense(&x), &weights);
        let by_x = embedding.by_input(probabilities, tokens)?;
        let into = &mut gradient[first * shape.hidden..(first + tokens) * shape.hidden];
        rms_norm_backward(&hidden, &norm, shape.eps, &by_x, into, shape.hidden);
    }
    site.close();
    Ok((gradient, site))
}

/// The matrix of the head, read some rows at a time into the same memory.
struct Embedding<'a> {
    model: &'a Model,
    bytes: Vec<u8>,
    tile: Dense,
}

impl<'a> Embedding<'a> {
    fn new(model: &'a Model) -> Embedding<'a> {
        let tile = Dense { rows: 0, cols: model.config.hidden_size, values: Vec::new() };
        Embedding { model, bytes: Vec::new(), tile }
    }

    /// Calls `each(first row, rows)` from top to bottom.
    fn for_tiles(&mut self, mut each: impl FnMut(usize, &Dense)) -> Result<()> {
        let vocab = self.model.config.vocab_size;
        for first in (0..vocab).step_by(TILE_ROWS) {
            self.tile.rows = TILE_ROWS.min(vocab - first);
            let rows = first..first + self.tile.rows;
            let key = TensorKey::global(Role::TokenEmbedding);
            read_rows_into(self.model, key, rows, &mut self.bytes, &mut self.tile.values)?;
            each(first, &self.tile);
        }
        Ok(())
    }

    /// Replaces `out` by the logits, `[tokens, vocab]`, of the hidden states `x`.
    fn logits(&mut self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let vocab = self.model.config.vocab_size;
        let x = Matrix::new(x, x.len() / self.tile.cols, self.tile.cols);
        out.fill(0.0);
        self.for_tiles(|first, tile| {
            add_product(x, tile.matrix().transposed(), &mut out[first..], vocab);
        })
    }

    /// `[tokens, hidden]`: the gradient by the logits times the embedding.
    fn by_input(&mut self, by_logits: &[f32], tokens: usize) -> Result<Vec<f32>> {
        let by_logits = Matrix::new(by_logits, tokens, self.model.config.vocab_size);
        let hidden = self.tile.cols;
        let mut out = vec![0.0; tokens * hidden];
        self.for_tiles(|first, tile| {
            add_product(by_logits.columns(first..first + tile.rows), tile.matrix(), &mut out, hidden);
        })?;
        Ok(out)
    }
}

/// Turns a row of logits into probabilities less one at the token that `uniform` (from 0 to 1) draws: the gradient
/// of that token's negative log-probability. Returns `sum p (1 - p)`.
fn soften_and_draw(row: &mut [f32], uniform: f64) -> f32 {
    let peak = row.iter().copied().fold(f32::MIN, f32::max);
    exp_minus(row, peak);
    let sum: f64 = row.iter().map(|&p| f64::from(p)).sum();
    let (mut squares, mut below, mut drawn) = (0.0, 0.0, None);
    for (token, p) in row.iter_mut().enumerate() {
        let share = f64::from(*p) / sum;
        squares += share * share;
        below += share;
        if drawn.is_none() && below > uniform {
            drawn = Some(token);
        }
        *p = share as f32;
    }
    let drawn = drawn.unwrap_or(row.len() - 1);
    row[drawn] -= 1.0;
    (1.0 - squares) as f32
}

/// A number from 0 to 1 that depends on nothing but its place (SplitMix64's).
fn uniform(seed: u64, token: u64) -> f64 {
    let place = seed.wrapping_mul(0xD1B5_4A32_D192_ED03).wrapping_add(token);
    unit(mix(place.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
}
