//! How far an f16 graph's FFN has to be scaled so that its squares stay in range.

use anyhow::{Context, Result};
use plmconv_formats::model::TensorKey;
use plmconv_formats::{Model, Role};
use rayon::prelude::*;

use crate::passes::values::{Decoded, Values};
use crate::pipeline::stream::row_steps;

/// The square of anything up to this is finite in f16, whose largest number is 65504.
const LARGEST_ROOT: f64 = 255.0;

/// Per layer the k of [`ExportSpec::ffn_shift`](plmconv_formats::onnx::ExportSpec::ffn_shift): whatever enters the
/// FFN, `up_proj`'s output times 2^-k has a square that f16 holds. An RMSNorm's output, before its weight, is at most
/// sqrt(hidden) long, so by Cauchy-Schwarz a neuron's input is at most sqrt(hidden) times the length of its row times
/// that weight.
///
/// # Errors
/// Weights that cannot be read.
pub fn ffn_shifts(model: &Model) -> Result<Vec<u32>> {
    let hidden = model.config.hidden_size as f64;
    (0..model.config.num_hidden_layers)
        .into_par_iter()
        .map(|layer| {
            let bound = hidden.sqrt() * longest_neuron(model, layer)?;
            Ok(libm::log2(bound / LARGEST_ROOT).ceil().max(0.0) as u32)
        })
        .collect()
}

/// The largest length of a row of `up_proj`, its columns multiplied by the norm's weight.
fn longest_neuron(model: &Model, layer: usize) -> Result<f64> {
    let decoded = |role| -> Result<Decoded> {
        let key = TensorKey::in_layer(layer, role);
        Ok(Decoded::of(model.tensor(key).with_context(|| format!("`{}` is missing", key.gguf_name()))?))
    };
    let norm = decoded(Role::FfnNorm)?.read_all()?;
    let up = decoded(Role::FfnUp)?;
    let (mut longest, mut values) = (0.0f64, Vec::new());
    for rows in row_steps(&*up.source, 1) {
        up.read(rows, &mut values)?;
        for row in values.chunks_exact(up.cols()) {
            let square: f64 = row.iter().zip(&norm).map(|(w, g)| f64::from(w * g).powi(2)).sum();
            longest = longest.max(square.sqrt());
        }
    }
    Ok(longest)
}
