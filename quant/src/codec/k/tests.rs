//! Every instruction set against the plain search, bit for bit, on what is awkward to round.

use plmconv_formats::DType;
use proptest::prelude::*;

use super::KQuant;
use super::engine::{Engine, Scalar};
use super::lanes::PortableLanes;
use crate::codec::codec;
use crate::simd::Level;

const K_QUANTS: [DType; 5] = [DType::Q2K, DType::Q3K, DType::Q4K, DType::Q5K, DType::Q6K];

/// Sixteen values of one kind; super-blocks are put together from these, so kinds meet within one.
fn run() -> impl Strategy<Value = Vec<f32>> {
    let sixteen = |values: BoxedStrategy<f32>| prop::collection::vec(values, 16);
    let scaled = |exponent: std::ops::Range<i32>| {
        (exponent, prop::collection::vec(-1.0_f32..1.0, 16))
            .prop_map(|(e, run)| run.into_iter().map(|x| x * 2.0_f32.powi(e)).collect())
    };
    prop_oneof![
        6 => scaled(-8..2),
        2 => scaled(-126..125),
        1 => scaled(-30..-14),
        1 => Just(vec![0.0; 16]),
        1 => (-1.0_f32..1.0).prop_map(|x| vec![x; 16]),
        1 => sixteen(prop_oneof![Just(0.0), Just(-0.0), Just(0.01_f32)].boxed()),
        1 => sixteen((0_u32..100).prop_map(f32::from_bits).boxed()),
        1 => sixteen((-8..8_i32).prop_map(|x| x as f32).boxed()),
        1 => sixteen((0_u32..4).prop_map(|ulp| f32::from_bits((-1.0_f32).to_bits() + ulp)).boxed()),
        1 => (scaled(-12..-8), 0..16_usize).prop_map(|(mut run, at): (Vec<f32>, usize)| {
            run[at] *= 1e5;
            run
        }),
    ]
}

/// `[rows, cols]` with up to `2 * LANES` super-blocks, so that batches and lanes are left partly empty, and importance.
fn matrix() -> impl Strategy<Value = (Vec<f32>, Vec<f32>)> {
    (1..4_usize, 1..9_usize).prop_flat_map(|(blocks, rows)| {
        let values = prop::collection::vec(run(), blocks * rows * 16).prop_map(|runs| runs.concat());
        let weight = prop_oneof![4 => 0.0_f32..10.0, 1 => Just(0.0_f32), 1 => 0.0_f32..1e-9];
        (values, prop::collection::vec(weight, blocks * 256))
    })
}

fn encoded(encode: impl FnOnce(&mut [u8]), dtype: DType, len: usize) -> Vec<u8> {
    // Not zeros: every byte has to be written.
    let mut out = vec![0xa5; dtype.encoded_len(len).unwrap()];
    encode(&mut out);
    out
}

fn with<E: Engine>(engine: E, dtype: DType, values: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let encode = match dtype {
        DType::Q2K => super::q2::Q2K::encode,
        DType::Q3K => super::q3::Q3K::encode,
        DType::Q4K => super::q4_q5::Q4K::encode,
        DType::Q5K => super::q4_q5::Q5K::encode,
        DType::Q6K => super::q6::Q6K::encode,
        other => panic!("{other} is not a k-quant"),
    };
    encoded(|out| encode(engine, values, importance, out), dtype, values.len())
}

fn encode(level: Level, dtype: DType, values: &[f32], importance: Option<&[f32]>, out: &mut [u8]) {
    (codec(dtype).unwrap().encode)(level, values, importance, out);
}

fn decode(level: Level, dtype: DType, bytes: &[u8], out: &mut [f32]) {
    (codec(dtype).unwrap().decode)(level, bytes, out);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, rng_seed: prop::test_runner::RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn every_level_encodes_the_same_bytes((values, importance) in matrix()) {
        for dtype in K_QUANTS {
            for importance in [None, Some(importance.as_slice())] {
                let expected = with(Scalar, dtype, &values, importance);
                prop_assert_eq!(&with(PortableLanes, dtype, &values, importance), &expected, "{} portable", dtype);
                for level in Level::available() {
                    let found = encoded(|out| encode(level, dtype, &values, importance, out), dtype, values.len());
                    prop_assert_eq!(&found, &expected, "{} {}", dtype, level);
                }
            }
        }
    }

    #[test]
    fn every_level_decodes_the_same_bits(bytes in prop::collection::vec(any::<u8>(), 210 * 2)) {
        for dtype in K_QUANTS {
            let blocks = bytes.len() / dtype.block_bytes();
            let bytes = &bytes[..blocks * dtype.block_bytes()];
            let bits = |level| {
                let mut out = vec![0.0_f32; blocks * 256];
                decode(level, dtype, bytes, &mut out);
                out.into_iter().map(|x| if x.is_nan() { u32::MAX } else { x.to_bits() }).collect::<Vec<_>>()
            };
            let expected = bits(Level::Generic);
            for level in Level::available() {
                prop_assert_eq!(&bits(level), &expected, "{} {}", dtype, level);
            }
        }
    }

    /// What a code cannot reach is at most one step away, give or take the rounding of the scales.
    #[test]
    fn decoding_returns_near_the_values(values in prop::collection::vec(-1.0_f32..1.0, 512)) {
        for (dtype, tolerance) in K_QUANTS.into_iter().zip([0.75, 0.45, 0.2, 0.1, 0.05]) {
            let bytes = with(Scalar, dtype, &values, None);
            let mut back = vec![0.0; values.len()];
            decode(Level::Generic, dtype, &bytes, &mut back);
            for (value, back) in values.iter().zip(back) {
                prop_assert!((value - back).abs() < tolerance, "{} {} {}", dtype, value, back);
            }
        }
    }
}

#[test]
fn non_finite_values_are_encoded_alike_and_without_panic() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 17, 255] {
            let mut values: Vec<f32> = (0..512).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
            values[at] = bad;
            for dtype in K_QUANTS {
                let expected = with(Scalar, dtype, &values, None);
                for level in Level::available() {
                    let found = encoded(|out| encode(level, dtype, &values, None, out), dtype, values.len());
                    assert_eq!(found, expected, "{bad} at {at} as {dtype}, {level}");
                }
            }
        }
    }
}
