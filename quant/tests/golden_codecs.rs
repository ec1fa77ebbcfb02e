//! Every tensor of the tiny PLM in every type, against the digests of llama.cpp's own files.

mod support;

use std::collections::BTreeMap;

use plmconv_formats::DType;
use plmconv_quant::{can_encode, decode, encode_rows};
use serde_json::Value;
use support::{digests, digests_low, importance, sha256, tiny_plm};

/// Compares all tensors of a section; returns how many.
fn compare(section: &str, with_importance: bool) -> usize {
    compare_with(&digests(), section, with_importance)
}

fn compare_with(digests: &Value, section: &str, with_importance: bool) -> usize {
    let model = tiny_plm();
    let importance = if with_importance { importance() } else { Default::default() };
    let mut compared = 0;
    // Presets share most of their tensors.
    let mut known = BTreeMap::new();
    let mut wrong = Vec::new();
    for (preset, tensors) in digests[section].as_object().expect("an object per section") {
        assert_eq!(tensors.as_object().map(|tensors| tensors.len()), Some(model.len()), "{section}/{preset}");
        for (name, tensor) in &model {
            let golden = &tensors[name];
            let dtype = golden["type"].as_str().and_then(DType::from_name).expect("a known type");
            let digest = known.entry((name, dtype)).or_insert_with(|| {
                let mut bytes = vec![0; dtype.encoded_len(tensor.values.len()).expect("whole blocks")];
                let weights = importance.get(name).map(Vec::as_slice);
                encode_rows(dtype, &tensor.values, tensor.cols(), weights, &mut bytes)
                    .expect("finite values");
                sha256(&bytes)
            });
            if golden["sha256"] != *digest {
                wrong.push(format!("{section}/{preset} {name} {dtype}"));
            }
            compared += 1;
        }
    }
    assert!(wrong.is_empty(), "{} of {compared} differ: {wrong:#?}", wrong.len());
    compared
}

#[test]
fn converter_floats_and_q8_0() {
    assert_eq!(compare("convert", false), 4 * 56);
}

#[test]
fn default_mixtures() {
    assert_eq!(compare("default", false), 21 * 56);
}

#[test]
fn pure() {
    assert_eq!(compare("pure", false), 18 * 56);
}

#[test]
fn with_importance() {
    assert_eq!(compare("imatrix", true), 19 * 56);
}

#[test]
fn below_four_bits() {
    let digests = digests_low();
    assert_eq!(compare_with(&digests, "default", false), 5 * 56);
    assert_eq!(compare_with(&digests, "pure", false), 6 * 56);
}

#[test]
fn below_four_bits_with_importance() {
    let digests = digests_low();
    assert_eq!(compare_with(&digests, "imatrix", true), 13 * 56);
    assert_eq!(compare_with(&digests, "tensor_type", true), 6 * 56);
}

/// A split into other calls, or one row at a time, gives the same bytes.
#[test]
fn rows_are_independent() {
    let model = tiny_plm();
    let tensor = &model["blk.3.ffn_up.weight"];
    let importance = importance();
    let weights = importance.get("blk.3.ffn_up.weight").map(Vec::as_slice);
    let cols = tensor.cols();
    for dtype in DType::all().filter(|dtype| can_encode(*dtype)) {
        let row_bytes = dtype.encoded_len(cols).expect("whole blocks");
        let encode = |rows_per_call: usize| {
            let mut bytes = vec![0; row_bytes * tensor.shape[0]];
            let calls =
                tensor.values.chunks(rows_per_call * cols).zip(bytes.chunks_mut(rows_per_call * row_bytes));
            for (values, out) in calls {
                encode_rows(dtype, values, cols, weights, out).expect("finite values");
            }
            bytes
        };
        let whole = encode(tensor.shape[0]);
        assert!(whole == encode(1) && whole == encode(7), "{dtype}");
    }
}

/// Decoding what llama.cpp wrote (the bytes are known equal) comes back near the source.
#[test]
fn decoded_weights_stay_near() {
    let model = tiny_plm();
    let tensor = &model["blk.2.attn_q.weight"];
    let energy: f64 = tensor.values.iter().map(|v| f64::from(*v).powi(2)).sum();
    // Relative error energy: about (step / standard deviation)^2 / 12 for each type, with room.
    let bounds = [
        (DType::F32, 0.0),
        (DType::F16, 1e-7),
        (DType::Bf16, 0.0),
        (DType::Q8_0, 1e-4),
        (DType::Q5_1, 4e-3),
        (DType::Q5_0, 5e-3),
        (DType::Q4_1, 1.2e-2),
        (DType::Q4_0, 1.4e-2),
        (DType::Iq4Nl, 1e-2),
        (DType::Iq4Xs, 1e-2),
        (DType::Tq1_0, 1.0),
        (DType::Tq2_0, 1.0),
    ];
    for (dtype, bound) in bounds {
        let mut bytes = vec![0; dtype.encoded_len(tensor.values.len()).expect("whole blocks")];
        encode_rows(dtype, &tensor.values, tensor.cols(), None, &mut bytes).expect("finite values");
        let mut back = vec![0.0; tensor.values.len()];
        decode(dtype, &bytes, &mut back).expect("own bytes");
        let pairs = tensor.values.iter().zip(&back);
        let error: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        assert!(error / energy <= bound, "{dtype}: {}", error / energy);
    }
}
