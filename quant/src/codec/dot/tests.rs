use super::*;
use crate::codec::{decode, encode_rows};
use crate::random::SplitMix64;

/// Reproducible values in -1..1.
fn values(count: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..count).map(|_| random.next_f64() as f32 * 2.0 - 1.0).collect()
}

/// The types with a product.
fn dots() -> Vec<EncodedDot> {
    let dots: Vec<EncodedDot> = DType::all().filter_map(EncodedDot::of).collect();
    let dtypes: Vec<DType> = dots.iter().map(|dot| dot.dtype).collect();
    assert_eq!(dtypes, [DType::Q8_0, DType::Q4K, DType::Q5K, DType::Q6K]);
    dots
}

/// A row of `blocks` blocks, encoded, and what it decodes to.
fn encoded_row(dtype: DType, blocks: usize, seed: u64) -> (Vec<u8>, Vec<f32>) {
    let weights = values(blocks * BLOCK, seed);
    let mut bytes = vec![0; dtype.encoded_len(weights.len()).expect("whole blocks")];
    encode_rows(dtype, &weights, weights.len(), None, &mut bytes).expect("encodes");
    let mut decoded = vec![0.0; weights.len()];
    decode(dtype, &bytes, &mut decoded).expect("decodes");
    (bytes, decoded)
}

#[test]
fn products_are_those_of_the_decoded_row() {
    for dot in dots() {
        for blocks in [1, 2, 8] {
            let (bytes, weights) = encoded_row(dot.dtype, blocks, 12);
            let activations = values(weights.len(), 13);
            let row = IntRow::new(&activations);
            let terms = || weights.iter().zip(&activations).map(|(w, a)| f64::from(*w) * f64::from(*a));
            let (exact, size) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
            let expected = dot.product(Level::Generic, &bytes, &row);
            // Activations are rounded to a 65,534th of their range.
            assert!((f64::from(expected) - exact).abs() < 2e-5 * size, "{dot:?}: {expected} not {exact}");
            for level in Level::available() {
                assert_eq!(dot.product(level, &bytes, &row), expected, "{level}, {dot:?}, {blocks} blocks");
            }
        }
    }
}

#[test]
fn products_hold_the_largest_values_and_carry_nan() {
    for dot in dots() {
        let (bytes, weights) = encoded_row(dot.dtype, 1, 14);
        let size: f32 = weights.iter().map(|weight| weight.abs()).sum();
        for level in Level::available() {
            let with = |x: f32| dot.product(level, &bytes, &IntRow::new(&[x; BLOCK]));
            // Integers as large as they get: sums scale with the activations, so nothing overflowed.
            assert!((with(1e6) / 1e6 - with(1.0)).abs() < 1e-5 * size, "{dot:?} {level}");
            assert_eq!(with(0.0), 0.0);
            let mut activations = [1.0; BLOCK];
            activations[200] = f32::NAN;
            assert!(dot.product(level, &bytes, &IntRow::new(&activations)).is_nan(), "{dot:?} {level}");
        }
    }
}
