//! The type of every tensor of the tiny PLM in every preset, against llama.cpp's own files.

mod support;

use plmconv_formats::DType;
use plmconv_quant::{Error, FileType, ModelShape, Policy, TensorDesc};
use serde_json::Value;
use support::{digests, tiny_plm};

const SHAPE: ModelShape = ModelShape { layers: 6, query_heads_per_kv_head: 1 };

fn tensors() -> Vec<TensorDesc> {
    let desc = |(name, tensor): (String, support::Tensor)| TensorDesc {
        name,
        shape: tensor.shape,
        source: DType::Bf16,
    };
    tiny_plm().into_iter().map(desc).collect()
}

/// Assigns types to the tiny PLM for every preset of a section; returns how many presets.
fn compare(section: &str, policy: impl Fn(FileType) -> Policy) -> usize {
    let tensors = tensors();
    let digests = digests();
    let presets = digests[section].as_object().expect("an object per section");
    for (preset, golden) in presets {
        let policy = policy(FileType::from_name(preset).expect("every preset is known"));
        let assigned = policy.assign(&tensors, SHAPE).expect("every preset can be assigned");
        for (tensor, assigned) in tensors.iter().zip(&assigned) {
            let expected = &golden[&tensor.name]["type"];
            assert_eq!(&Value::from(assigned.dtype.name()), expected, "{section}/{preset} {}", tensor.name);
            assert_eq!(assigned.fallback_from, None);
        }
    }
    presets.len()
}

#[test]
fn converter() {
    // The converter's q8_0 knows no mixture; for these types neither does the quantizer.
    assert_eq!(compare("convert", Policy::preset), 4);
}

#[test]
fn default_mixtures() {
    // All presets but q2_k_s.
    assert_eq!(compare("default", Policy::preset), FileType::all().count() - 1);
}

#[test]
fn pure() {
    let pure = |file_type| Policy { pure: true, ..Policy::preset(file_type) };
    assert_eq!(compare("pure", pure), FileType::all().count() - 4);
}

#[test]
fn with_importance() {
    let with_importance = |file_type| Policy { has_importance: true, ..Policy::preset(file_type) };
    assert_eq!(compare("imatrix", with_importance), FileType::all().count() - 3);
}

#[test]
fn q2_k_s_is_refused_without_importance() {
    let error = Policy::preset(FileType::Q2KS).assign(&tensors(), SHAPE).unwrap_err();
    assert!(
        matches!(&error, Error::NeedsImportance { tensor, .. } if tensor.starts_with("blk.0.")),
        "{error}"
    );
}
