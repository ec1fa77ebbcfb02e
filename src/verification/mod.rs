//! Is a file what its source gives? The plan is made again, the pipeline runs without writing, and every byte is
//! compared.

mod comparison;
mod gguf;
mod metadata;
mod onnx;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use crate::recipe::Recipe;

pub use gguf::GgufCandidate;
pub use onnx::OnnxCandidate;

/// What came out.
#[derive(Debug, Serialize)]
pub struct Verification {
    pub file: PathBuf,
    pub model: PathBuf,
    pub identical: bool,
    /// How the file says it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipe: Option<Recipe>,
    /// What the types are called that were derived; `stored`: they were taken from the file, and so was
    /// `general.file_type`.
    pub file_type: String,
    /// Metadata or files that were allowed to differ.
    pub excepted: Vec<String>,
    pub tensors: usize,
    /// Bytes of all files.
    pub bytes: u64,
    pub differences: Vec<Difference>,
    #[serde(rename = "seconds", serialize_with = "seconds")]
    pub elapsed: Duration,
}

fn seconds<S: serde::Serializer>(elapsed: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(elapsed.as_secs_f64())
}

impl Verification {
    /// How much differs, in a few words.
    pub fn summary(&self) -> String {
        let count = |of: fn(&Difference) -> bool| self.differences.iter().filter(|d| of(d)).count();
        let parts = [
            ("tensor", count(|d| matches!(d, Difference::Data(_) | Difference::Tensor { .. }))),
            ("metadata value", count(|d| matches!(d, Difference::Metadata { .. }))),
            ("other part", count(|d| matches!(d, Difference::Bytes { .. } | Difference::Length { .. }))),
            ("file", count(|d| matches!(d, Difference::File { .. }))),
        ];
        let some = parts.into_iter().filter(|(_, n)| *n > 0);
        let words = some.map(|(what, n)| format!("{n} {what}{}", if n == 1 { "" } else { "s" }));
        words.collect::<Vec<_>>().join(", ")
    }

    /// What may explain it.
    pub fn hint(&self) -> Option<String> {
        if let Some(recipe) = self.recipe.as_ref().filter(|recipe| !recipe.is_of_this_version()) {
            let (theirs, ours) = (&recipe.version, env!("CARGO_PKG_VERSION"));
            return Some(format!(
                "plmconv {theirs} wrote the file, this is {ours}: verify with that version"
            ));
        }
        let only_metadata = self.differences.iter().all(|d| matches!(d, Difference::Metadata { .. }));
        let named = self.differences.iter().filter_map(|difference| match difference {
            Difference::Metadata { key, .. } if FREE_KEYS.contains(&key.as_str()) => {
                Some(format!("--except {key}"))
            }
            _ => None,
        });
        let named: Vec<String> = named.collect();
        (only_metadata && !named.is_empty()).then(|| {
            format!(
                "names follow from the model's folder, quantize.imatrix.file from how --imatrix spells the path;                  {} lets them differ",
                named.join(" ")
            )
        })
    }
}

/// Metadata that follow from what a folder or a file is called.
const FREE_KEYS: [&str; 7] = [
    "general.name",
    "general.basename",
    "general.finetune",
    "general.organization",
    "general.version",
    "general.size_label",
    "quantize.imatrix.file",
];

/// One thing in which a file is not what its source gives. What is `None` is not there.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// A value of the metadata.
    Metadata { file: PathBuf, key: String, found: Option<String>, derived: Option<String> },
    /// A tensor's type or shape.
    Tensor { file: PathBuf, tensor: String, found: Option<String>, derived: Option<String> },
    /// Blocks of a tensor's data.
    Data(DataDifference),
    /// Bytes of no tensor: a header, padding, a graph, a small file.
    Bytes { file: PathBuf, part: String, differing: u64, first: DifferentByte },
    /// A file's length.
    Length { file: PathBuf, found: u64, derived: u64 },
    /// A file of a folder that is missing, or that does not belong to it.
    File { file: PathBuf, missing: bool },
}

/// How the data of a tensor differ.
#[derive(Debug, Serialize)]
pub struct DataDifference {
    pub file: PathBuf,
    pub tensor: String,
    pub stored_as: String,
    pub blocks: u64,
    pub differing: u64,
    /// Of the first block that differs: its row, and which of the row's blocks it is.
    pub row: u64,
    pub block: u64,
    pub first: DifferentByte,
}

/// A byte that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DifferentByte {
    /// From the start of the file.
    pub offset: u64,
    /// `None` past the end of the file.
    pub found: Option<u8>,
    pub derived: u8,
}
