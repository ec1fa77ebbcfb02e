//! Rotary position embedding: by which angles a position rotates the pairs of a head's values.

/// Cosine and sine of every position and pair, `[positions, dim / 2]`: pair `i` is rotated by
/// `position * theta^(-2i / dim)` (RoFormer, arXiv 2104.09864).
///
/// Angles are computed in f64: at position 4000 an f32 angle would be off by 1e-4. By libm: the platforms' own
/// functions differ in the last bit, and exports, statistics and generated text must not.
pub fn rotations(dim: usize, theta: f32, positions: usize) -> Vec<(f32, f32)> {
    let frequency = |pair: usize| libm::pow(f64::from(theta), -2.0 * pair as f64 / dim as f64);
    let frequencies: Vec<f64> = (0..dim / 2).map(frequency).collect();
    let of_position = |position| frequencies.iter().map(move |frequency| position as f64 * frequency);
    let angles = (0..positions).flat_map(of_position);
    angles.map(|angle| (libm::cos(angle) as f32, libm::sin(angle) as f32)).collect()
}
