//! The output head: tokens drawn from the model's prediction, and the gradient they cause.

use plmconv_formats::{Model, Role, TensorKey};
use plmconv_quant::random::{mix, unit};
use plmconv_validate::network::{Matrix, Products, Rows, exp_minus};
use rayon::prelude::*;

use super::moments::{Samples, SiteMoments};
use super::products::transposed;
use super::rows::{Shape, read_vector, rms_norm, rms_norm_backward};
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
    let mut site = SiteMoments::new(embedding_key(), None, shape.hidden);
    let mut probabilities = vec![0.0; TOKENS.min(count) * model.config.vocab_size];
    let embedding = Embedding { model, products: &shape.products };
    for first in (0..count).step_by(TOKENS) {
        let tokens = TOKENS.min(count - first);
        let mut hidden = vec![0.0; tokens * shape.hidden];
        spill.read(shape.layers, first * shape.hidden, &mut hidden)?;
        let x = rms_norm(shape, &hidden, &norm);
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
        let by_x = embedding.by_input(probabilities)?;
        let into = &mut gradient[first * shape.hidden..(first + tokens) * shape.hidden];
        rms_norm_backward(&hidden, &norm, shape.eps, &by_x, into, shape.hidden);
    }
    site.close();
    Ok((gradient, site))
}

fn embedding_key() -> TensorKey {
    TensorKey::global(Role::TokenEmbedding)
}

/// The matrix of the head, read some rows at a time.
struct Embedding<'a> {
    model: &'a Model,
    products: &'a Products,
}

impl Embedding<'_> {
    /// Calls `each(first row, rows)` from top to bottom.
    fn for_tiles(&self, mut each: impl FnMut(usize, &Matrix) -> Result<()>) -> Result<()> {
        let vocab = self.model.config.vocab_size;
        for first in (0..vocab).step_by(TILE_ROWS) {
            let rows = first..(first + TILE_ROWS).min(vocab);
            each(first, &Matrix::load_rows(self.model, embedding_key(), rows)?)?;
        }
        Ok(())
    }

    /// Replaces `out` by the logits, `[tokens, vocab]`, of the hidden states `x`.
    fn logits(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        let config = &self.model.config;
        let x = self.products.prepare(Rows::all(x, config.hidden_size));
        self.for_tiles(|first, tile| {
            self.products.product_into(&x, tile, out, config.vocab_size, first);
            Ok(())
        })
    }

    /// `[tokens, hidden]`: the gradient by the logits times the embedding.
    fn by_input(&self, by_logits: &[f32]) -> Result<Vec<f32>> {
        let config = &self.model.config;
        let stride = config.vocab_size;
        let mut out = vec![0.0; by_logits.len() / stride * config.hidden_size];
        self.for_tiles(|first, tile| {
            let rows = Rows { data: by_logits, stride, offset: first, width: tile.rows() };
            let part =
                self.products.product(&self.products.prepare(rows), &transposed(tile, embedding_key())?);
            out.par_iter_mut().zip(&part[..]).for_each(|(sum, part)| *sum += part);
            Ok(())
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
