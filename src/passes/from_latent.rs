//! The latent layout undone: a checkpoint's tensors again.
//!
//! Where the file holds floats, every value is what it was: halves of kv_b are put together, and the factors of the FFN's
//! pair are powers of two. Of a quantized pair the two copies of a matrix have errors of their own, `W + e` and
//! `W - e + f` (see [`super::gate`]); their product is `(W + f/2)²` but for squares of errors, so their mean is the
//! matrix that computes what the file does.

use std::ops::Range;

use plmconv_formats::model::{Model, Origin, Tensor, norm_scale, sharpness};
use plmconv_formats::{Config, Error, Layout, Result, Role, TensorKey};

use super::values::{Decoded, Exact, Scaled, Values, replace, source};
use super::{in_layout, tensor, tensor_mut};

/// kv_b from the halves that the latent layout keeps apart, the keys' transposed within each head.
#[derive(Debug)]
struct Joined {
    /// `[heads * kv_lora_rank, qk_nope]`
    keys: Decoded,
    /// `[heads * v_head_dim, kv_lora_rank]`
    values: Decoded,
    kv_lora_rank: usize,
    qk_nope: usize,
    /// Rows of kv_b from one head's keys to the next one's.
    head_rows: usize,
    heads: usize,
}

impl Values for Joined {
    fn rows(&self) -> usize {
        self.heads * self.head_rows
    }

    fn cols(&self) -> usize {
        self.kv_lora_rank
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        out.reserve(rows.len() * self.kv_lora_rank);
        let v_rows = self.head_rows - self.qk_nope;
        let mut part = Vec::new();
        let mut row = rows.start;
        while row < rows.end {
            let (head, within) = (row / self.head_rows, row % self.head_rows);
            let first = head * self.head_rows;
            let end = if within < self.qk_nope {
                let end = rows.end.min(first + self.qk_nope);
                self.keys.read(head * self.kv_lora_rank..(head + 1) * self.kv_lora_rank, &mut part)?;
                for key in within..end - first {
                    out.extend(part[key..].iter().step_by(self.qk_nope));
                }
                end
            } else {
                let end = rows.end.min(first + self.head_rows);
                let start = head * v_rows + within - self.qk_nope;
                self.values.read(start..start + end - row, &mut part)?;
                out.extend_from_slice(&part);
                end
            };
            row = end;
        }
        Ok(())
    }
}

/// The mean of two matrices, each times a factor.
#[derive(Debug)]
struct Mean([Scaled; 2]);

impl Values for Mean {
    fn rows(&self) -> usize {
        self.0[0].rows()
    }

    fn cols(&self) -> usize {
        self.0[0].cols()
    }

    fn read(&self, rows: Range<usize>, out: &mut Vec<f32>) -> Result<()> {
        let mut second = Vec::new();
        self.0[0].read(rows.clone(), out)?;
        self.0[1].read(rows, &mut second)?;
        // Equal numbers stay what they are.
        out.iter_mut().zip(second).for_each(|(first, second)| *first = 0.5 * *first + 0.5 * second);
        Ok(())
    }
}

/// Rewrites a model of the latent layout into the layout of a checkpoint.
///
/// # Errors
/// A file that does not say how its FFN's pairs were made.
pub fn from_latent(mut model: Model) -> Result<Model> {
    let (sharpness, norm_scale) = factors(&model)?;
    let mut parts = Vec::new();
    for (layer, (b, scale)) in sharpness.into_iter().zip(norm_scale).enumerate() {
        parts.extend([join(&model, layer)?, mean_of_pair(&model, layer, b, scale)?]);
        replace(tensor_mut(&mut model, layer, Role::FfnNorm)?, Exact::PowerOfTwo, |norm| {
            Scaled::by(norm, 1.0 / scale)
        });
    }
    in_layout(model, Layout::Plm, parts)
}

/// For each layer what the gate is to the pre-activation, and what the norm was multiplied by. A file of an earlier
/// version does not say the latter: its function is the same with any.
fn factors(model: &Model) -> Result<(Vec<f32>, Vec<f32>)> {
    let layers = model.config.num_hidden_layers;
    let is_whole = |found: &Vec<f32>| {
        let is_power =
            |value: &f32| *value > 0.0 && value.is_normal() && value.to_bits().trailing_zeros() >= 23;
        found.len() == layers && found.iter().all(is_power)
    };
    let metadata = match &model.origin {
        Origin::Gguf(source) => Some(&source.metadata),
        _ => None,
    };
    let sharpness = metadata.and_then(sharpness).filter(is_whole).ok_or_else(|| Error::Inexpressible {
        path: model.path().to_path_buf(),
        target: "checkpoint",
        what: "an FFN in the latent layout whose file does not say how its pairs were made".into(),
    })?;
    let norm_scale = metadata.and_then(norm_scale).filter(is_whole);
    Ok((sharpness, norm_scale.unwrap_or_else(|| vec![1.0; layers])))
}

fn join(model: &Model, layer: usize) -> Result<Tensor> {
    let config = Config { layout: Layout::Plm, ..model.config.clone() };
    let keys = tensor(model, layer, Role::KeyB)?;
    let joined = Joined {
        keys: Decoded::of(keys),
        values: Decoded::of(tensor(model, layer, Role::ValueB)?),
        kv_lora_rank: config.kv_lora_rank,
        qk_nope: config.qk_nope_head_dim,
        head_rows: config.kv_b_head_dim(),
        heads: config.num_attention_heads,
    };
    let key = TensorKey::in_layer(layer, Role::KvB);
    let shape = config.shape_of(Role::KvB).expect("a checkpoint has kv_b");
    Ok(Tensor { key, shape, source: source(key, keys.source.dtype(), Exact::No, joined) })
}

/// The matrix whose copies are `up` and the gate.
fn mean_of_pair(model: &Model, layer: usize, b: f32, norm_scale: f32) -> Result<Tensor> {
    let up = tensor(model, layer, Role::FfnUp)?;
    let gate = tensor(model, layer, Role::FfnGate)?;
    let copies = [(up, b * norm_scale), (gate, norm_scale / b)];
    let mean = Mean(copies.map(|(copy, factor)| Scaled::by(Decoded::of(copy), factor)));
    Ok(Tensor { source: source(up.key, up.source.dtype(), Exact::No, mean), ..up.clone() })
}
