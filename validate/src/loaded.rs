//! A model in memory: what a forward pass reads.

use std::sync::Arc;

use plmconv_formats::{Config, Model};

use crate::error::Result;
use crate::linear::Linear;
use crate::network::Rope;
use crate::state::Attention;
use crate::weights::Weights;

/// Rotations are prepared for at most this many positions.
const MAX_POSITIONS: usize = 1 << 17;

/// Hyperparameters, weights, and how they are multiplied.
pub(crate) struct Loaded {
    pub config: Config,
    pub weights: Arc<Weights>,
    pub attention: Attention,
    pub linear: Linear,
    pub rope: Arc<Rope>,
}

impl Loaded {
    /// Reads all weights, in the encoding they have on disk.
    pub fn new(model: &Model, attention: Attention, linear: Linear) -> Result<Loaded> {
        let config = model.config.clone();
        let weights = Arc::new(Weights::load(model)?);
        let rope = Arc::new(Rope::new(config.qk_rope_head_dim, config.rope_theta, context(&config)));
        Ok(Loaded { config, weights, attention, linear, rope })
    }

    /// The same weights, multiplied in another way.
    pub fn with(&self, attention: Attention, linear: Linear) -> Loaded {
        let (config, weights, rope) = (self.config.clone(), self.weights.clone(), self.rope.clone());
        Loaded { config, weights, attention, linear, rope }
    }

    /// Positions that can be run: the model's context, bounded by what rotations are prepared for.
    pub fn context(&self) -> usize {
        context(&self.config)
    }
}

fn context(config: &Config) -> usize {
    config.max_position_embeddings.min(MAX_POSITIONS)
}
