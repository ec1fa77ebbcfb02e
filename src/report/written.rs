//! What was written.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::outline::Outline;
use super::validation::ValidationReport;
use super::{human_bytes, print_json};

#[derive(Serialize)]
struct WrittenJson<'a> {
    file_type: &'a str,
    files: Vec<&'a Path>,
    bytes: u64,
    source_bytes: u64,
    bits_per_weight: f64,
    tensors: usize,
    tensors_by_type: BTreeMap<&'a str, usize>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<&'a ValidationReport>,
}

/// Prints the result of a finished run, and of the validation after it.
pub fn print(
    outline: &Outline,
    elapsed: Duration,
    json: bool,
    validation: Option<&ValidationReport>,
) -> Result<()> {
    let mut by_type = BTreeMap::new();
    for t in &outline.tensors {
        *by_type.entry(t.to.as_str()).or_insert(0) += 1;
    }
    if json {
        return print_json(&WrittenJson {
            file_type: &outline.file_type,
            files: outline.files.iter().map(|f| f.path.as_path()).collect(),
            bytes: outline.bytes,
            source_bytes: outline.source_bytes,
            bits_per_weight: outline.bits_per_weight,
            tensors: outline.tensors.len(),
            tensors_by_type: by_type,
            seconds: elapsed.as_secs_f64(),
            validation,
        });
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
        elapsed.as_secs_f64()
    );
    if let Some(validation) = validation {
        say!();
        validation.print(false)?;
    }
    Ok(())
}
