//! The places of the network an observer sees.

use std::fmt;

use crate::error::{Error, Result};

/// What a row of activations is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Point {
    /// `[tokens, hidden_size]`: normalized input of the query and latent projections.
    AttentionInput,
    /// `[tokens, q_lora_rank]`: normalized input of the second query projection.
    QueryLatent,
    /// `[tokens, kv_lora_rank]`: normalized latent, input of the key-value projection.
    KvLatent,
    /// `[tokens, heads * v_head_dim]`: heads' outputs, input of the output projection.
    AttentionOutput,
    /// `[tokens, hidden_size]`: normalized input of the up projection.
    FfnInput,
    /// `[tokens, intermediate_size]`: the up projection's output, before the activation.
    FfnUp,
    /// `[tokens, intermediate_size]`: after the activation, input of the down projection.
    FfnHidden,
    /// `[tokens, hidden_size]`: the residual stream after a layer.
    LayerOutput,
    /// `[wanted rows, hidden_size]`: normalized input of the output head.
    HeadInput,
}

/// A point in a layer, or behind the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// `None` for [`Point::HeadInput`].
    pub layer: Option<usize>,
    /// Which activations.
    pub point: Point,
}

impl Site {
    /// A point of layer `layer`.
    pub fn in_layer(layer: usize, point: Point) -> Site {
        Site { layer: Some(layer), point }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.point {
            Point::AttentionInput => "at the attention's input",
            Point::QueryLatent => "in the query latent",
            Point::KvLatent => "in the key-value latent",
            Point::AttentionOutput => "at the attention's output",
            Point::FfnInput => "at the FFN's input",
            Point::FfnUp => "after the up projection",
            Point::FfnHidden => "after the FFN's activation",
            Point::LayerOutput => "at the layer's output",
            Point::HeadInput => "at the output head",
        };
        match self.layer {
            Some(layer) => write!(f, "in layer {layer}, {what}"),
            None => f.write_str(what),
        }
    }
}

/// Names the first activation that is not finite.
pub(crate) fn check_finite(values: &[f32], width: usize, layer: usize, point: Point) -> Result<()> {
    // A sum is not finite if any term is not; it vectorizes, a search does not.
    let suspicious = values.chunks(width).position(|row| {
        let mut sums = [0.0f32; 16];
        let (chunks, rest) = row.as_chunks::<16>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += x * 0.0;
            }
        }
        !(sums.iter().sum::<f32>() + rest.iter().map(|x| x * 0.0).sum::<f32>()).is_finite()
    });
    match suspicious {
        None => Ok(()),
        Some(token) => Err(Error::NonFinite { site: Site::in_layer(layer, point), token }),
    }
}
