//! Rotary position embedding over interleaved pairs: values 2i and 2i + 1 turn by `position * theta^(-2i/d)`.

/// Sines and cosines of every position and pair. Angles are computed in f64: at position 4000 an f32 angle
/// would be off by 1e-4.
pub(crate) struct Rope {
    dim: usize,
    /// `[positions][dim / 2]` of (cos, sin)
    table: Vec<(f32, f32)>,
}

/// Cosine and sine of every position and pair, `[positions, dim / 2]`. By libm: the platforms' own functions differ
/// in the last bit, and statistics and generated text must not.
pub fn turns(dim: usize, theta: f32, positions: usize) -> Vec<(f32, f32)> {
    let power = |pair: usize| libm::pow(f64::from(theta), -2.0 * pair as f64 / dim as f64);
    let powers: Vec<f64> = (0..dim / 2).map(power).collect();
    let turn = |angle: f64| (libm::cos(angle) as f32, libm::sin(angle) as f32);
    let angles = (0..positions).flat_map(|position| powers.iter().map(move |power| position as f64 * power));
    angles.map(turn).collect()
}

impl Rope {
    pub fn new(dim: usize, theta: f32, positions: usize) -> Rope {
        Rope { dim, table: turns(dim, theta, positions) }
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
