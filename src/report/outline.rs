//! What a plan says, whatever the format: what `--dry-run` prints, and what a finished run sums up.

use std::path::PathBuf;

use serde::Serialize;

/// A plan's types, files and sizes.
#[derive(Debug, Serialize)]
pub struct Outline {
    pub file_type: String,
    pub files: Vec<FileLine>,
    /// Of all files.
    pub bytes: u64,
    /// That are read.
    pub source_bytes: u64,
    pub bits_per_weight: f64,
    /// With a budget: nats per token that all types together are predicted to cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_divergence: Option<f64>,
    pub tensors: Vec<TensorLine>,
    /// What the user looks for afterwards: the files, or the folder they are in.
    #[serde(skip)]
    pub outputs: Vec<PathBuf>,
}

/// A file to be written.
#[derive(Debug, Serialize)]
pub struct FileLine {
    pub path: PathBuf,
    pub bytes: u64,
}

/// A tensor and what becomes of it.
#[derive(Debug, Serialize)]
pub struct TensorLine {
    pub name: String,
    pub shape: Vec<usize>,
    pub from: &'static str,
    pub to: String,
    /// The type the mixture asked for, where the rows are not whole blocks of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instead_of: Option<&'static str>,
    pub bytes: u64,
    /// With a budget: nats per token that this type alone is predicted to cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_divergence: Option<f64>,
}
