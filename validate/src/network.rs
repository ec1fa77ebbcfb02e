//! What the network is made of, for whoever runs or differentiates it besides the evaluator. All of it gives the same
//! bits on every CPU.

use crate::attention;
use crate::kernels::Kernels;

pub use crate::rope::turns;

/// Replaces scores by their shares: `exp(scale * score)` over the sum of all of them.
pub fn softmax(scores: &mut [f32], scale: f32) {
    attention::softmax(&Kernels::best(), scores, scale);
}

/// Replaces every x by exp(x - max) and returns their sum. No x may exceed `max`.
pub fn exp_minus(values: &mut [f32], max: f32) -> f32 {
    Kernels::best().exp_minus(values, max)
}
