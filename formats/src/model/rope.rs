//! Rotary position embedding: by which angles a position rotates the pairs of a head's values.

use super::{Config, Yarn};

impl Config {
    /// Cosine and sine of every position and pair, `[positions, qk_rope_head_dim / 2]`: pair `i` is rotated by
    /// `position * theta^(-2i / dim)` (RoFormer, arXiv 2104.09864), or as the scaling says.
    ///
    /// Angles are computed in f64: at position 4000 an f32 angle would be off by 1e-4. By libm: the platforms' own
    /// functions differ in the last bit, and exports, statistics and generated text must not.
    pub fn rotations(&self, positions: usize) -> Vec<(f32, f32)> {
        let dim = self.qk_rope_head_dim;
        let theta = f64::from(self.rope_theta);
        let scaling = self.rope_scaling.as_ref();
        let frequency = |pair: usize| {
            let unscaled = libm::pow(theta, -2.0 * pair as f64 / dim as f64);
            scaling.map_or(unscaled, |yarn| yarn.frequency(pair, dim, theta, unscaled))
        };
        let magnitude = scaling.map_or(1.0, Yarn::magnitude);
        let frequencies: Vec<f64> = (0..dim / 2).map(frequency).collect();
        let of_position = |position| frequencies.iter().map(move |frequency| position as f64 * frequency);
        let angles = (0..positions).flat_map(of_position);
        angles
            .map(|angle| ((libm::cos(angle) * magnitude) as f32, (libm::sin(angle) * magnitude) as f32))
            .collect()
    }

    /// Where in a query or key head the values lie that RoPE rotates.
    pub fn rotated(&self) -> std::ops::Range<usize> {
        match self.architecture.attention {
            super::AttentionKind::Latent => self.qk_nope_head_dim..self.qk_head_dim(),
            super::AttentionKind::Grouped => 0..self.qk_rope_head_dim,
        }
    }
}
