//! Rotary position embedding over interleaved pairs: values 2i and 2i + 1 turn by `position * theta^(-2i/d)`.

/// Sines and cosines of every position and pair. Angles are computed in f64: at position 4000 an f32 angle
/// would be off by 1e-4.
pub(crate) struct Rope {
    dim: usize,
    theta: f64,
    /// `[positions][dim / 2]` of (cos, sin)
    table: Vec<(f32, f32)>,
}

impl Rope {
    pub fn new(dim: usize, theta: f32, positions: usize) -> Rope {
        let mut rope = Rope { dim, theta: theta as f64, table: Vec::new() };
        rope.extend_to(positions);
        rope
    }

    fn extend_to(&mut self, positions: usize) {
        let half = self.dim / 2;
        let first = self.table.len() / half;
        for position in first..positions {
            for i in 0..half {
                let angle = position as f64 * self.theta.powf(-2.0 * i as f64 / self.dim as f64);
                self.table.push((angle.cos() as f32, angle.sin() as f32));
            }
        }
    }

    /// Turns `values` (one head's rotary part) to `position`.
    pub fn apply(&self, position: usize, values: &mut [f32]) {
        let half = self.dim / 2;
        let angles = &self.table[position * half..][..half];
        for (pair, &(cos, sin)) in values.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
            let [a, b] = *pair;
            *pair = [a * cos - b * sin, a * sin + b * cos];
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
            rope.apply(p, &mut a);
            rope.apply(q, &mut b);
            a.iter().zip(&b).map(|(x, y)| x * y).sum::<f32>()
        };
        assert!((score(3, 10) - score(203, 210)).abs() < 1e-5);
        assert!((score(3, 10) - score(3, 11)).abs() > 1e-3);
    }

    #[test]
    fn pairs_lie_side_by_side() {
        let rope = Rope::new(4, 100.0, 2);
        let mut values = [1.0f32, 0.0, 0.0, 1.0];
        rope.apply(1, &mut values);
        let expected = [1f64.cos(), 1f64.sin(), -(0.1f64.sin()), 0.1f64.cos()];
        for (found, expected) in values.iter().zip(expected) {
            assert!((*found as f64 - expected).abs() < 1e-6);
        }
    }
}
