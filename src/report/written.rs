//! What was written.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use super::outline::Outline;
use super::validation::ValidationReport;
use super::{human_bytes, print_document};
use crate::run::Run;

#[derive(Serialize)]
struct WrittenJson<'a> {
    file_type: &'a str,
    files: Vec<&'a Path>,
    bytes: u64,
    source_bytes: u64,
    bits_per_weight: f64,
    tensor_count: usize,
    tensors_by_type: BTreeMap<&'a str, usize>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<&'a ValidationReport>,
}

/// Prints the result of a finished run, and of the validation after it.
pub fn print(outline: &Outline, run: Run, validation: Option<&ValidationReport>) -> Result<()> {
    let seconds = run.started.elapsed().as_secs_f64();
    let mut by_type = BTreeMap::new();
    for t in &outline.tensors {
        *by_type.entry(t.to.as_str()).or_insert(0) += 1;
    }
    if run.json {
        return print_document(
            "written",
            &WrittenJson {
                file_type: &outline.file_type,
                files: outline.files.iter().map(|f| f.path.as_path()).collect(),
                bytes: outline.bytes,
                source_bytes: outline.source_bytes,
                bits_per_weight: outline.bits_per_weight,
                tensor_count: outline.tensors.len(),
                tensors_by_type: by_type,
                seconds,
                validation,
            },
        );
    }
    for output in &outline.outputs {
        say!("{}", output.display());
    }
    let types: Vec<String> = by_type.iter().map(|(name, n)| format!("{n} {name}")).collect();
    say!(
        "{}, {:.2} bits per weight (source: {}); tensors: {}; {:.1} s",
        human_bytes(outline.bytes),
        outline.bits_per_weight,
        human_bytes(outline.source_bytes),
        types.join(", "),
        seconds
    );
    if let Some(validation) = validation {
        say!();
        validation.print(false)?;
    }
    Ok(())
}
