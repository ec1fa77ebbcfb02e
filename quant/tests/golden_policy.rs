//! The type of every tensor of the tiny PLM in every preset, against llama.cpp's own files.

mod support;

use plmconv_formats::DType;
use plmconv_quant::{Error, FileType, ModelShape, Policy, TensorDesc};
use serde_json::Value;
use support::{digests, digests_low, tiny_plm};

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
    compare_with(&digests(), section, policy)
}

fn compare_with(digests: &Value, section: &str, policy: impl Fn(FileType) -> Policy) -> usize {
    let tensors = tensors();
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

/// Presets that llama-quantize makes without importance, all but q2_k_s of those that digests.json has.
const COMMON: usize = 21;

#[test]
fn default_mixtures() {
    assert_eq!(compare("default", Policy::preset), COMMON);
    assert_eq!(compare_with(&digests_low(), "default", Policy::preset), 5);
}

#[test]
fn pure() {
    let pure = |file_type| Policy { pure: true, ..Policy::preset(file_type) };
    assert_eq!(compare("pure", pure), COMMON - 3);
    assert_eq!(compare_with(&digests_low(), "pure", pure), 6);
}

#[test]
fn with_importance() {
    let with_importance = |file_type| Policy { has_importance: true, ..Policy::preset(file_type) };
    assert_eq!(compare("imatrix", with_importance), COMMON - 2);
    assert_eq!(compare_with(&digests_low(), "imatrix", with_importance), 13);
}

#[test]
fn what_llama_quantize_refuses_without_importance_is_refused() {
    let digests = digests_low();
    let refused = digests["refused"].as_object().expect("refusals by section and preset");
    for name in refused.keys() {
        let (section, preset) = name.split_once('/').expect("section/preset");
        let file_type = FileType::from_name(preset).expect("every preset is known");
        let policy = Policy { pure: section == "pure", ..Policy::preset(file_type) };
        let error = policy.assign(&tensors(), SHAPE).unwrap_err();
        assert!(matches!(error, Error::NeedsImportance { .. }), "{name}: {error}");
    }
    assert_eq!(refused.len(), 15);
}

#[test]
fn q2_k_s_is_refused_without_importance() {
    let error = Policy::preset(FileType::Q2KS).assign(&tensors(), SHAPE).unwrap_err();
    assert!(
        matches!(&error, Error::NeedsImportance { tensor, .. } if tensor.starts_with("blk.0.")),
        "{error}"
    );
}
