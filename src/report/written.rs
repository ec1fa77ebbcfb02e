//! What was written.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::validation::ValidationReport;
use super::{human_bytes, print_json};
use crate::plan::Plan;

#[derive(Serialize)]
struct WrittenJson<'a> {
    file_type: &'a str,
    files: Vec<String>,
    bytes: u64,
    source_bytes: u64,
    bits_per_weight: f64,
    tensors: usize,
    tensors_by_type: BTreeMap<&'static str, usize>,
    seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    validation: Option<&'a ValidationReport>,
}

/// Prints the result of a finished run, and of the validation after it.
pub fn print(
    plan: &Plan,
    elapsed: Duration,
    json: bool,
    validation: Option<&ValidationReport>,
) -> Result<()> {
    let mut by_type = BTreeMap::new();
    for t in &plan.tensors {
        *by_type.entry(t.dtype.name()).or_insert(0) += 1;
    }
    let files: Vec<String> = plan.shards.iter().map(|s| s.path.display().to_string()).collect();
    if json {
        return print_json(&WrittenJson {
            file_type: &plan.file_type,
            files,
            bytes: plan.file_bytes(),
            source_bytes: plan.source_bytes(),
            bits_per_weight: plan.bits_per_weight(),
            tensors: plan.tensors.len(),
            tensors_by_type: by_type,
            seconds: elapsed.as_secs_f64(),
            validation,
        });
    }
    for file in &files {
        println!("{file}");
    }
    let types: Vec<String> = by_type.iter().map(|(name, n)| format!("{n} {name}")).collect();
    println!(
        "{}, {:.2} bits per weight (source: {}); tensors: {}; {:.1} s",
        human_bytes(plan.file_bytes()),
        plan.bits_per_weight(),
        human_bytes(plan.source_bytes()),
        types.join(", "),
        elapsed.as_secs_f64()
    );
    if let Some(validation) = validation {
        println!();
        validation.print(false)?;
    }
    Ok(())
}
