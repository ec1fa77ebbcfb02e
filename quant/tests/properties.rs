//! What holds for all values: every instruction set gives the same bits, and decoding comes back near the source.

use plmconv_formats::DType;
use plmconv_quant::simd::Level;
use plmconv_quant::{can_decode, can_encode, decode, decode_with, encode_rows, encode_rows_with};
use proptest::prelude::*;

/// Two rows of three super-blocks: no multiple of sixteen blocks of 32, so that vectors are not all full.
const COLS: usize = 768;
const COUNT: usize = 2 * COLS;

/// Values of one shape after another, as weights may have them: dense, sparse, few levels, one sign, flat, tiny.
fn values() -> impl Strategy<Value = Vec<f32>> {
    let block =
        (0_u8..7, -12_i32..8, prop::collection::vec(-1.0_f32..1.0, 32)).prop_map(|(kind, power, unit)| {
            let scale = (power as f32).exp2();
            let shaped = |v: f32| match kind {
                0 => v * scale,
                1 if v.abs() < 0.8 => 0.0,
                1 => v * scale,
                2 => (v * 2.4).trunc() * scale,
                3 => v.abs() * scale,
                4 => -scale,
                5 => v * 1e-38,
                _ => v.powi(9) * scale,
            };
            unit.into_iter().map(shaped).collect::<Vec<f32>>()
        });
    prop::collection::vec(block, COUNT / 32).prop_map(|blocks| blocks.concat())
}

/// Importance with zeros and a wide range.
fn importance() -> impl Strategy<Value = Option<Vec<f32>>> {
    let one = prop_oneof![1 => Just(0.0_f32), 9 => (-20.0_f32..10.0).prop_map(f32::exp2)];
    prop::option::of(prop::collection::vec(one, COLS))
}

fn encodable() -> impl Iterator<Item = DType> {
    DType::all().filter(|dtype| can_encode(*dtype))
}

/// The bytes, or the error as text.
fn encoded(level: Level, dtype: DType, x: &[f32], importance: Option<&[f32]>) -> Result<Vec<u8>, String> {
    let mut out = vec![0; dtype.encoded_len(x.len()).expect("whole blocks")];
    let result = encode_rows_with(level, dtype, x, COLS, importance, &mut out);
    result.map(|()| out).map_err(|error| error.to_string())
}

/// The largest error of a value, relative to the largest magnitude of its (super-)block: half a step, or a whole
/// one where the far end of the codes is cut off; and what rounding the scale to half precision adds.
fn relative_bound(dtype: DType) -> Option<f32> {
    match dtype {
        DType::F32 => Some(0.0),
        DType::F16 => Some(1.0 / 2048.0),
        DType::Bf16 => Some(1.0 / 256.0),
        DType::Q8_0 => Some(0.5 / 127.0 + 0.001),
        DType::Q5_0 => Some(1.0 / 16.0 + 0.002),
        DType::Q4_0 => Some(1.0 / 8.0 + 0.002),
        DType::Q5_1 => Some(2.0 * 0.5 / 31.0 + 0.002),
        DType::Q4_1 => Some(2.0 * 0.5 / 15.0 + 0.002),
        DType::Iq4Nl | DType::Iq4Xs => Some(0.25),
        DType::Tq1_0 | DType::Tq2_0 => Some(0.5 + 0.001),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_level_encodes_the_same_bytes(x in values(), importance in importance()) {
        for dtype in encodable() {
            let expected = encoded(Level::Generic, dtype, &x, importance.as_deref());
            for level in Level::available() {
                let found = encoded(level, dtype, &x, importance.as_deref());
                prop_assert!(found == expected, "{dtype} {level}");
            }
        }
    }

    #[test]
    fn every_level_decodes_the_same_values(seed in prop::collection::vec(any::<u8>(), 1024)) {
        for dtype in DType::all().filter(|dtype| can_decode(*dtype)) {
            let bytes = &seed[..seed.len() / dtype.block_bytes() * dtype.block_bytes()];
            let values = bytes.len() / dtype.block_bytes() * dtype.block_len();
            let decoded = |level| {
                let mut out = vec![0.0_f32; values];
                decode_with(level, dtype, bytes, &mut out).expect("whole blocks");
                // Infinity times zero is a NaN whose sign and payload mean nothing.
                let bits = |v: &f32| if v.is_nan() { f32::NAN.to_bits() } else { v.to_bits() };
                out.iter().map(bits).collect::<Vec<u32>>()
            };
            let expected = decoded(Level::Generic);
            for level in Level::available() {
                prop_assert!(decoded(level) == expected, "{dtype} {level}");
            }
        }
    }

    #[test]
    fn decoding_comes_back_near(unit in prop::collection::vec(-1.0_f32..1.0, COUNT), power in -8_i32..8) {
        let x: Vec<f32> = unit.iter().map(|v| v * (power as f32).exp2()).collect();
        for dtype in encodable() {
            let Some(bound) = relative_bound(dtype) else { continue };
            let mut bytes = vec![0; dtype.encoded_len(COUNT).expect("whole blocks")];
            encode_rows(dtype, &x, COLS, None, &mut bytes).expect("finite");
            let mut back = vec![0.0; COUNT];
            decode(dtype, &bytes, &mut back).expect("own bytes");
            let block_len = dtype.block_len();
            for (x, back) in x.chunks(block_len).zip(back.chunks(block_len)) {
                // Half a step of the smallest halves, times the largest code.
                let slack = 128.0 * (-25.0_f32).exp2();
                let largest = x.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
                for (v, b) in x.iter().zip(back) {
                    prop_assert!((v - b).abs() <= bound * largest + slack, "{dtype}: {v} -> {b} of {largest}");
                }
            }
        }
    }

    /// Not a value anyone wants, but no input may make a codec panic.
    #[test]
    fn any_bits_can_be_offered(bits in prop::collection::vec(any::<u32>(), COLS), importance in importance()) {
        let x: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        for dtype in encodable() {
            for level in Level::available() {
                let bytes = encoded(level, dtype, &x, importance.as_deref());
                if let Ok(bytes) = bytes {
                    let mut back = vec![0.0; COLS];
                    decode_with(level, dtype, &bytes, &mut back).expect("own bytes");
                }
            }
        }
    }
}
