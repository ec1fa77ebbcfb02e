//! Which type each tensor gets, and what the whole is called.

use anyhow::Result;
use plmconv_calibrate::{Budget, Matrix, Rounding};
use plmconv_formats::{Config, DType, Layout, Model};
use plmconv_quant::Error as QuantError;
use plmconv_quant::policy::{Assigned, FileType, ModelShape, Policy, Reason, TensorDesc};

use super::{PlannedTensor, StoredTypes};
use crate::target::{Gguf, Types};

/// The model's tensors as a policy sees them.
pub(super) fn described(model: &Model) -> Vec<TensorDesc> {
    let tensors = model.tensors.iter();
    tensors
        .map(|t| TensorDesc { name: t.key.gguf_name(), shape: t.shape.clone(), source: t.source.dtype() })
        .collect()
}

/// Every matrix's own type; norms are always f32.
pub(super) fn source_types(model: &Model) -> Vec<Assigned> {
    let tensors = model.tensors.iter();
    tensors
        .map(|t| if t.key.role.is_norm() { DType::F32 } else { t.source.dtype() })
        .map(Assigned::kept)
        .collect()
}

/// Tensors of a model with `config`, in the layout of the target, get types, as far as these are known before anything
/// is measured: whether one of them is rounded to blocks.
///
/// # Errors
/// A pattern that matches nothing, a type that needs an importance matrix.
pub(super) fn quantize(config: &Config, target: &Gguf, has_importance: bool) -> Result<bool> {
    let policy = match &target.types {
        Types::Preset(policy) | Types::Budget { policy, .. } => Policy { has_importance, ..policy.clone() },
        Types::Source => return Ok(false),
        Types::Stored(_) => return Ok(true),
    };
    let config = Config { layout: target.layout, ..config.clone() };
    let tensors = config.expected_tensors().into_iter();
    let tensors: Vec<TensorDesc> =
        tensors.map(|(key, shape)| TensorDesc { name: key.gguf_name(), shape, source: DType::F32 }).collect();
    let assigned = policy.assign(&tensors, shape_of(&config))?;
    let is_budget = matches!(target.types, Types::Budget { .. });
    Ok(is_budget || assigned.iter().any(|assigned| assigned.dtype.is_quantized()))
}

pub(super) fn shape_of(config: &Config) -> ModelShape {
    ModelShape { layers: config.num_hidden_layers, query_heads_per_kv_head: 1 }
}

/// Every tensor of `model` with its type; a budget has not chosen yet.
///
/// # Errors
/// As [`quantize`]; a tensor whose type needs an importance that `rounding` does not have.
pub(super) fn assign(model: &Model, types: &Types, rounding: &Rounding) -> Result<Vec<PlannedTensor>> {
    let described = described(model);
    let chosen: Vec<Assigned> = match types {
        Types::Preset(policy) | Types::Budget { policy, .. } => {
            let policy = Policy { has_importance: rounding.has_importance(), ..policy.clone() };
            let assigned = policy.assign(&described, shape_of(&model.config))?;
            if model.config.layout == Layout::Plm {
                refuse_missing_importance(&described, &assigned, rounding)?;
            }
            assigned
        }
        Types::Source => source_types(model),
        Types::Stored(stored) => described.iter().map(|tensor| stored.of(tensor)).collect(),
    };
    let planned =
        model.tensors.iter().zip(described).zip(chosen).map(|((tensor, desc), assigned)| PlannedTensor {
            tensor: tensor.clone(),
            name: desc.name,
            dtype: assigned.dtype,
            fallback_from: assigned.fallback_from,
            open: matches!(assigned.reason, Reason::Preset | Reason::Mixture),
            predicted: None,
        });
    Ok(planned.collect())
}

fn refuse_missing_importance(
    tensors: &[TensorDesc],
    assigned: &[Assigned],
    rounding: &Rounding,
) -> Result<(), QuantError> {
    let is_missing = |(tensor, assigned): &(&TensorDesc, &Assigned)| {
        assigned.needs_importance && rounding.importance_of(&tensor.name).is_none()
    };
    match tensors.iter().zip(assigned).find(is_missing) {
        None => Ok(()),
        Some((tensor, assigned)) => {
            Err(QuantError::NeedsImportance { tensor: tensor.name.clone(), dtype: assigned.dtype })
        }
    }
}

/// Gives every open tensor the type that the budget chooses.
pub(super) fn fit(tensors: &mut [PlannedTensor], budget: &Budget, head_bytes: u64) -> Result<()> {
    let matrices: Vec<Matrix<'_>> = tensors
        .iter()
        .map(|t| Matrix { name: &t.name, values: t.tensor.values(), dtype: t.dtype, open: t.open })
        .collect();
    let choices = budget.choose(&matrices, head_bytes)?;
    for (tensor, choice) in tensors.iter_mut().zip(choices) {
        // What the mixture would have fallen back to has no meaning for a type it did not choose.
        tensor.fallback_from = tensor.fallback_from.filter(|_| !tensor.open);
        tensor.dtype = choice.dtype;
        tensor.predicted = choice.predicted;
    }
    Ok(())
}

/// The value of `general.file_type`.
pub(super) fn file_type_id(types: &Types, tensors: &[PlannedTensor]) -> u32 {
    match types {
        Types::Stored(StoredTypes { file_type: Some(id), .. }) => *id,
        _ => types.file_type().unwrap_or_else(|| prevailing_file_type(tensors)).id(),
    }
}

/// The file type named after the type that most of the weights have (a k-quant's medium one, as llama.cpp guesses for
/// a file that does not say).
fn prevailing_file_type(tensors: &[PlannedTensor]) -> FileType {
    let values_of = |dtype: &DType| -> usize {
        tensors.iter().filter(|t| t.dtype == *dtype).map(|t| t.tensor.values()).sum()
    };
    let named = DType::all().filter_map(|dtype| Some((dtype, FileType::from_name(dtype.name()).ok()?)));
    named.max_by_key(|(dtype, _)| values_of(dtype)).expect("there are file types").1
}
