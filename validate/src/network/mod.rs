//! What the network is made of, each part defined once, for evaluation and for differentiation. All of it gives the
//! same bits on every CPU.

mod activation;
mod attention;
mod norm;
mod products;
mod rope;

pub(crate) use activation::silu_gate;
pub use activation::{rectify, squared_relu};
pub use attention::{Head, attention_scale};
pub use norm::{rms_norm, rms_norm_row, rms_scale};
pub use products::Products;
pub use rope::Rope;

pub use crate::buffers::Buffer;
pub use crate::linear::{Input, Rows};
pub use crate::weights::Matrix;

use crate::buffers::Buffers;
use crate::kernels::Kernels;

/// The inner loops of one instruction set, and vectors that they use again.
#[derive(Clone)]
pub struct Workspace {
    pub(crate) kernels: Kernels,
    pub(crate) floats: Buffers<f32>,
}

impl Workspace {
    pub(crate) fn new(kernels: Kernels) -> Workspace {
        Workspace { kernels, floats: Buffers::default() }
    }
}

/// Replaces every x by exp(x - max) and returns their sum. No x may exceed `max`.
pub fn exp_minus(values: &mut [f32], max: f32) -> f32 {
    Kernels::best().exp_minus(values, max)
}
