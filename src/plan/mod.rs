//! A target and a model become a plan: every decision about an output is made here, before a byte of it is written.
//!
//! In two steps: a [`Draft`] is checked before anything is measured on the model, which may take hours; with what was
//! measured it becomes a [`Plan`].

mod adapter;
mod draft;
mod files;
mod stored_types;
mod types;

use std::ops::Range;
use std::path::PathBuf;

use anyhow::Result;
use plmconv_calibrate::Rounding;
use plmconv_calibrate::digest::add_rows;
use plmconv_calibrate::resume::with_suffix;
use plmconv_formats::gguf::{Directory, Metadata};
use plmconv_formats::model::Tensor;
use plmconv_formats::{DType, Fingerprint, Warning, hex};
use sha2::{Digest, Sha256};

use crate::outputs::Inputs;
use crate::passes::gate::Factors;
use crate::pipeline::REJECTED;
use crate::report::outline::{FileLine, Outline, TensorLine};

pub use draft::{Draft, refuse_latent_source, refuse_quantized_source};
pub use stored_types::StoredTypes;

/// What to write: for each tensor its type, for each output file its layout.
#[derive(Debug)]
pub struct Plan {
    pub file_type: String,
    pub contents: Contents,
    pub tensors: Vec<PlannedTensor>,
    pub shards: Vec<Shard>,
    /// The output as the user calls it, also where it is split.
    pub output: PathBuf,
    pub is_split: bool,
    pub overwrite: bool,
    /// Latent layout: per layer, the factors of the FFN's pair; else empty.
    pub pair_factors: Vec<Factors>,
    pub rounding: Rounding,
    /// Go on with what an interrupted run had finished.
    pub resume: bool,
    /// What the user should know of.
    pub warnings: Vec<Warning>,
    /// What the model's files were when it was opened.
    inputs: Vec<Fingerprint>,
}

/// What a GGUF holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contents {
    Model,
    Adapter,
}

/// A tensor and what becomes of it.
#[derive(Debug)]
pub struct PlannedTensor {
    pub tensor: Tensor,
    pub name: String,
    pub dtype: DType,
    /// The type the mixture asked for, where the rows are not whole blocks of it.
    pub fallback_from: Option<DType>,
    /// Whether a budget may give it another type: neither a norm nor named by the user.
    pub open: bool,
    /// With a budget: the divergence in nats per token that this type alone is predicted to cause.
    pub predicted: Option<f64>,
}

/// One output file: where it goes, its layout, and which of the plan's tensors it holds.
#[derive(Debug)]
pub struct Shard {
    pub path: PathBuf,
    /// What the directory's head holds.
    pub metadata: Metadata,
    pub directory: Directory,
    pub tensors: Range<usize>,
}

impl Plan {
    /// # Errors
    /// What was read has changed since it was opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.inputs.iter().try_for_each(Fingerprint::check)?;
        Ok(self.rounding.check_unchanged()?)
    }

    /// A digest of all that decides the bytes of the outputs; of the source some rows of every tensor are taken, and
    /// its files' sizes and times.
    pub fn key(&self) -> Result<String> {
        let mut hash = Sha256::new();
        hash.update(env!("CARGO_PKG_VERSION"));
        self.inputs.iter().for_each(|input| hash.update(input.stable()));
        self.shards.iter().for_each(|shard| hash.update(&shard.directory.head));
        for tensor in &self.tensors {
            add_rows(&mut hash, &tensor.name, &*tensor.tensor.source)?;
        }
        self.rounding.add_to(&mut hash);
        Ok(hex(hash.finalize()))
    }

    /// Checks that the outputs can be written. Where they may be rejected, so can the names they then get.
    ///
    /// # Errors
    /// They are `inputs`, exist (without leave to overwrite), or cannot be written where they should go.
    pub fn check_outputs(&self, inputs: &Inputs, may_be_rejected: bool) -> Result<()> {
        let shards: Vec<PathBuf> = self.shards.iter().map(|shard| shard.path.clone()).collect();
        if self.is_split {
            inputs.check_shards(&self.output, &shards, self.overwrite)?;
        } else {
            inputs.check_file(&self.output, self.overwrite)?;
        }
        let rejected = shards.iter().filter(|_| may_be_rejected);
        rejected.map(|shard| with_suffix(shard, REJECTED)).try_for_each(|path| inputs.check_file(&path, true))
    }

    /// Bytes that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.tensor.source.stored_bytes()).sum()
    }

    /// With a budget: the sum of what the tensors' types are predicted to cost, in nats per token.
    fn predicted_divergence(&self) -> Option<f64> {
        let predicted: Vec<f64> = self.tensors.iter().filter_map(|t| t.predicted).collect();
        (!predicted.is_empty()).then(|| predicted.iter().sum())
    }

    /// What a report says about it.
    pub fn outline(&self) -> Outline {
        let entries = || self.shards.iter().flat_map(|s| &s.directory.entries);
        let weights: usize = self.tensors.iter().map(|t| t.tensor.values()).sum();
        let tensor_bytes: u64 = entries().map(|e| e.bytes).sum();
        let files = self.shards.iter();
        let tensors = self.tensors.iter().zip(entries()).map(|(t, entry)| TensorLine {
            name: t.name.clone(),
            shape: t.tensor.shape.clone(),
            from: t.tensor.source.dtype().name(),
            to: t.dtype.name().into(),
            instead_of: t.fallback_from.map(DType::name),
            bytes: entry.bytes,
            predicted_divergence: t.predicted,
        });
        Outline {
            file_type: self.file_type.clone(),
            outputs: self.shards.iter().map(|s| s.path.clone()).collect(),
            bytes: self.shards.iter().map(|s| s.directory.file_bytes).sum(),
            source_bytes: self.source_bytes(),
            bits_per_weight: tensor_bytes as f64 * 8.0 / weights as f64,
            predicted_divergence: self.predicted_divergence(),
            files: files.map(|s| FileLine { path: s.path.clone(), bytes: s.directory.file_bytes }).collect(),
            tensors: tensors.collect(),
        }
    }
}
