//! Types under a budget: every matrix that the user leaves open gets the type that makes the sum of predicted
//! divergences least within a size.

use std::fmt;

use plmconv_formats::DType;
use plmconv_formats::gguf::DEFAULT_ALIGNMENT;
use plmconv_quant::knapsack::{self, fewest_bytes};
use plmconv_quant::policy::{FileType, Policy};

use crate::error::{Error, Result};
use crate::sensitivity::Sensitivity;
use crate::storage::Storage;

/// What may not be exceeded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// The whole file, or all files of an ONNX folder: metadata, alignment and all.
    FileBytes(u64),
    /// Of all tensors' data.
    BitsPerWeight(f64),
}

/// How to choose types under a budget.
#[derive(Debug)]
pub struct Budget {
    /// Which tensors keep the type the user gave them.
    pub policy: Policy,
    /// What `general.file_type` says; otherwise the type that most weights have.
    pub file_type: Option<FileType>,
    /// The size that may not be exceeded.
    pub limit: Limit,
    /// What each type costs each matrix.
    pub sensitivity: Sensitivity,
}

/// A tensor that takes part of the budget.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Its GGUF name.
    pub name: &'a str,
    /// Its weights.
    pub values: usize,
    /// The type it has where it is not open.
    pub dtype: DType,
    /// Whether it may get another type.
    pub open: bool,
}

/// The type that a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The type.
    pub dtype: DType,
    /// The divergence in nats per token that it alone is predicted to cause, where it was measured.
    pub predicted: Option<f64>,
}

impl Budget {
    /// Chooses the type of every tensor, in their order. `head_bytes` is what the file has besides the tensors' data.
    ///
    /// # Errors
    /// A limit below the smallest possible size, which is then named.
    pub fn choose(&self, tensors: &[Matrix<'_>], head_bytes: u64) -> Result<Vec<Choice>> {
        let options: Vec<Vec<(DType, f64)>> = tensors.iter().map(|t| self.options(t)).collect();
        let entry = |tensor: &Matrix<'_>, &(dtype, loss): &(DType, f64)| knapsack::Choice {
            bytes: self.bytes_of(tensor, dtype),
            loss,
        };
        let classes: Vec<Vec<knapsack::Choice>> = tensors
            .iter()
            .zip(&options)
            .map(|(tensor, options)| options.iter().map(|option| entry(tensor, option)).collect())
            .collect();
        let room = Room { head_bytes, weights: tensors.iter().map(|t| t.values).sum() };
        let chosen = self.limit.choose(&classes, room)?;
        let types = tensors.iter().zip(&options).zip(chosen);
        Ok(types
            .map(|((tensor, options), entry)| {
                let dtype = options[entry].0;
                Choice { dtype, predicted: self.sensitivity.stored(tensor.name, Storage::Type(dtype)) }
            })
            .collect())
    }

    /// The types a tensor may get, with what they cost.
    fn options(&self, tensor: &Matrix<'_>) -> Vec<(DType, f64)> {
        let measured = self.sensitivity.of(tensor.name).iter();
        let types = measured.filter_map(|&(storage, loss)| match storage {
            Storage::Type(dtype) => Some((dtype, loss)),
            Storage::Blocks(_) => None,
        });
        let types: Vec<(DType, f64)> = types.collect();
        if tensor.open && !types.is_empty() {
            return types;
        }
        let own = Storage::Type(tensor.dtype);
        vec![(tensor.dtype, self.sensitivity.stored(tensor.name, own).unwrap_or(0.0))]
    }

    /// The bytes of a tensor as the limit counts them.
    fn bytes_of(&self, tensor: &Matrix<'_>, dtype: DType) -> u64 {
        let bytes = dtype.encoded_len(tensor.values).expect("only types that fit were measured") as u64;
        match self.limit {
            Limit::FileBytes(_) => bytes.next_multiple_of(DEFAULT_ALIGNMENT),
            Limit::BitsPerWeight(_) => bytes,
        }
    }
}

/// What a limit is shared among.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Bytes that the output has besides the tensors' data.
    pub head_bytes: u64,
    /// Of all tensors.
    pub weights: usize,
}

impl Limit {
    /// One entry of each class, by its index: those of the least sum of losses within the limit.
    ///
    /// # Errors
    /// A limit below the smallest possible size, which is then named.
    pub fn choose(self, classes: &[Vec<knapsack::Choice>], room: Room) -> Result<Vec<usize>> {
        let bytes = self.bytes_for_data(room);
        let chosen = bytes.and_then(|bytes| knapsack::choose(classes, bytes));
        chosen.ok_or_else(|| self.too_small(room.head_bytes + fewest_bytes(classes), room))
    }

    /// What is left for the tensors; `None` if not even the head fits.
    fn bytes_for_data(self, room: Room) -> Option<u64> {
        match self {
            Limit::FileBytes(bytes) => bytes.checked_sub(room.head_bytes),
            Limit::BitsPerWeight(bits) => Some((bits * room.weights as f64 / 8.0) as u64),
        }
    }

    /// What is said where the smallest output has `fewest` bytes, the head among them.
    pub fn too_small(self, fewest: u64, room: Room) -> Error {
        let smallest = match self {
            Limit::FileBytes(_) => format!("{fewest} bytes"),
            // Rounded up: what is named must fit.
            Limit::BitsPerWeight(_) => {
                let data = (fewest - room.head_bytes) as f64;
                format!("{:.3} bits per weight", (data * 8e3 / room.weights as f64).ceil() / 1e3)
            }
        };
        Error::BudgetTooSmall { limit: self.to_string(), smallest }
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
