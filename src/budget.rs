//! Types by budget: every matrix that the user leaves open gets the type that makes the sum of predicted divergences
//! least within a size.

use std::fmt;

use anyhow::Result;
use plmconv_formats::DType;
use plmconv_formats::gguf::DEFAULT_ALIGNMENT;
use plmconv_quant::budget::{Choice, choose, fewest_bytes};
use plmconv_quant::policy::{FileType, Policy};

use crate::error::UsageError;
use crate::plan::PlannedTensor;
use crate::sensitivity::Sensitivity;

/// What may not be exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The whole file: metadata, alignment and all.
    FileBytes(u64),
    /// Of all tensors' data.
    BitsPerWeight(f64),
}

/// How to choose types by budget.
#[derive(Debug)]
pub struct Budget {
    /// Which tensors keep the type the user gave them.
    pub policy: Policy,
    /// What `general.file_type` says; otherwise the type that most weights have.
    pub file_type: Option<FileType>,
    pub limit: Limit,
    pub sensitivity: Sensitivity,
}

impl Budget {
    /// Chooses the type of every open tensor and notes what each is predicted to cost. `head_bytes` is what the file
    /// has besides the tensors' data.
    ///
    /// # Errors
    /// A limit below the smallest possible size, which is then named.
    pub fn fit(&self, tensors: &mut [PlannedTensor], head_bytes: u64) -> Result<()> {
        let options: Vec<Vec<(DType, f64)>> = tensors.iter().map(|t| self.options(t)).collect();
        let classes: Vec<Vec<Choice>> = tensors
            .iter()
            .zip(&options)
            .map(|(tensor, options)| {
                let choice = |&(dtype, loss): &(DType, f64)| Choice { bytes: self.cost(tensor, dtype), loss };
                options.iter().map(choice).collect()
            })
            .collect();
        let weights: usize = tensors.iter().map(|t| t.tensor.values()).sum();
        let chosen = self
            .bytes_for_data(head_bytes, weights)
            .and_then(|bytes| choose(&classes, bytes))
            .ok_or_else(|| self.too_small(head_bytes, fewest_bytes(&classes), weights))?;
        for ((tensor, options), entry) in tensors.iter_mut().zip(&options).zip(chosen) {
            let dtype = options[entry].0;
            // What the mixture would have fallen back to has no meaning for a type it did not choose.
            tensor.fallback_from = tensor.fallback_from.filter(|_| !tensor.open);
            tensor.dtype = dtype;
            tensor.predicted = self.sensitivity.of(&tensor.name, dtype);
        }
        Ok(())
    }

    /// The types a tensor may get, with what they cost.
    fn options(&self, tensor: &PlannedTensor) -> Vec<(DType, f64)> {
        let measured = self.sensitivity.types(&tensor.name);
        if tensor.open && !measured.is_empty() {
            return measured.to_vec();
        }
        vec![(tensor.dtype, self.sensitivity.of(&tensor.name, tensor.dtype).unwrap_or(0.0))]
    }

    /// The bytes of a tensor as the limit counts them.
    fn cost(&self, tensor: &PlannedTensor, dtype: DType) -> u64 {
        let bytes =
            dtype.encoded_len(tensor.tensor.values()).expect("only types that fit were measured") as u64;
        match self.limit {
            Limit::FileBytes(_) => bytes.next_multiple_of(DEFAULT_ALIGNMENT),
            Limit::BitsPerWeight(_) => bytes,
        }
    }

    /// What is left for the tensors; `None` if not even the head fits.
    fn bytes_for_data(&self, head_bytes: u64, weights: usize) -> Option<u64> {
        match self.limit {
            Limit::FileBytes(bytes) => bytes.checked_sub(head_bytes),
            Limit::BitsPerWeight(bits) => Some((bits * weights as f64 / 8.0) as u64),
        }
    }

    fn too_small(&self, head_bytes: u64, fewest: u64, weights: usize) -> UsageError {
        let smallest = match self.limit {
            Limit::FileBytes(_) => format!("{} bytes", fewest + head_bytes),
            // Rounded up: what is named must fit.
            Limit::BitsPerWeight(_) => {
                format!("{:.3} bits per weight", (fewest as f64 * 8e3 / weights as f64).ceil() / 1e3)
            }
        };
        let message = format!("{} is too small: this model takes at least {smallest}", self.limit);
        UsageError::with_hint(message, "raise the target, or lift types that --tensor-type fixes")
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::FileBytes(bytes) => write!(f, "a target of {bytes} bytes"),
            Limit::BitsPerWeight(bits) => write!(f, "a target of {bits} bits per weight"),
        }
    }
}
