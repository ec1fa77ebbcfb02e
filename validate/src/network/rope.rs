//! Rotary position embedding over interleaved pairs: values 2i and 2i + 1 rotate by `position * theta^(-2i/dim)`.

use plmconv_formats::model::rotations;

/// The rotations of every position up to a last one.
#[derive(Clone, Debug)]
pub struct Rope {
    pairs: usize,
    /// `[positions, pairs]` of (cos, sin)
    table: Vec<(f32, f32)>,
}

impl Rope {
    /// Of heads with `dim` rotary values, for positions below `positions`.
    pub fn new(dim: usize, theta: f32, positions: usize) -> Rope {
        Rope { pairs: dim / 2, table: rotations(dim, theta, positions) }
    }

    /// Rotates `values`, one head's rotary part, by its position.
    pub fn rotate(&self, position: usize, values: &mut [f32]) {
        self.pairwise(position, values, |[a, b], (cos, sin)| [a * cos - b * sin, a * sin + b * cos]);
    }

    /// Rotates back: a rotation's transpose, which gradients pass through, is its inverse.
    pub fn rotate_back(&self, position: usize, values: &mut [f32]) {
        self.pairwise(position, values, |[a, b], (cos, sin)| [a * cos + b * sin, b * cos - a * sin]);
    }

    fn pairwise(
        &self,
        position: usize,
        values: &mut [f32],
        rotated: impl Fn([f32; 2], (f32, f32)) -> [f32; 2],
    ) {
        let angles = &self.table[position * self.pairs..][..self.pairs];
        for (pair, &angle) in values.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
            *pair = rotated(*pair, angle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_depend_on_the_distance_only() {
        let rope = Rope::new(8, 10000.0, 300);
        let score = |p: usize, q: usize| {
            let mut a = [0.3f32, -1.0, 0.5, 0.2, 0.9, -0.4, 0.1, 0.7];
            let mut b = [1.1f32, 0.4, -0.6, 0.8, -0.2, 0.5, 0.3, -0.9];
            rope.rotate(p, &mut a);
            rope.rotate(q, &mut b);
            a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>()
        };
        assert!((score(3, 10) - score(203, 210)).abs() < 1e-5);
        assert!((score(3, 10) - score(3, 11)).abs() > 1e-3);
    }

    #[test]
    fn pairs_lie_side_by_side() {
        let rope = Rope::new(4, 100.0, 2);
        let mut values = [1.0f32, 0.0, 0.0, 1.0];
        rope.rotate(1, &mut values);
        let expected = [1f64.cos(), 1f64.sin(), -(0.1f64.sin()), 0.1f64.cos()];
        for (found, expected) in values.iter().zip(expected) {
            assert!((*found as f64 - expected).abs() < 1e-6);
        }
        rope.rotate_back(1, &mut values);
        for (found, expected) in values.iter().zip([1.0, 0.0, 0.0, 1.0]) {
            assert!((found - expected).abs() < 1e-6);
        }
    }
}
