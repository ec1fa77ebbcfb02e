//! `--dry-run`: what each tensor would become, and the exact size.

use anyhow::Result;
use serde::Serialize;

use super::{human_bytes, human_shape, print_json, print_table, table};
use crate::plan::Plan;

#[derive(Serialize)]
struct PlanJson<'a> {
    file_type: &'a str,
    files: Vec<FileJson>,
    bytes: u64,
    bits_per_weight: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_divergence: Option<f64>,
    tensors: Vec<TensorJson<'a>>,
}

#[derive(Serialize)]
struct FileJson {
    path: String,
    bytes: u64,
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    shape: &'a [usize],
    from: &'static str,
    to: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instead_of: Option<&'static str>,
    bytes: u64,
    /// With a budget: nats per token that this type alone is predicted to cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    predicted_divergence: Option<f64>,
}

/// Prints the plan.
pub fn print(plan: &Plan, json: bool) -> Result<()> {
    if json { print_json(&to_json(plan)) } else { print_text(plan) }
}

fn tensors(plan: &Plan) -> impl Iterator<Item = TensorJson<'_>> {
    let entries = plan.shards.iter().flat_map(|s| &s.directory.entries);
    plan.tensors.iter().zip(entries).map(|(t, entry)| TensorJson {
        name: &t.name,
        shape: &t.tensor.shape,
        from: t.tensor.source.dtype().name(),
        to: t.dtype.name(),
        instead_of: t.fallback_from.map(|d| d.name()),
        bytes: entry.bytes,
        predicted_divergence: t.predicted,
    })
}

fn to_json(plan: &Plan) -> PlanJson<'_> {
    let files = plan.shards.iter();
    PlanJson {
        file_type: &plan.file_type,
        files: files
            .map(|s| FileJson { path: s.path.display().to_string(), bytes: s.directory.file_bytes })
            .collect(),
        bytes: plan.file_bytes(),
        bits_per_weight: plan.bits_per_weight(),
        predicted_divergence: plan.predicted_divergence(),
        tensors: tensors(plan).collect(),
    }
}

fn print_text(plan: &Plan) -> Result<()> {
    let last = if plan.predicted_divergence().is_some() { "predicted divergence" } else { "" };
    let mut rows = table(&["tensor", "shape", "from", "to", "bytes", last], &[4]);
    for t in tensors(plan) {
        let instead = t.instead_of.map(|from| format!("instead of {from}"));
        let predicted = t.predicted_divergence.map(|nats| format!("{nats:.2e}"));
        let note = predicted.or(instead).unwrap_or_default();
        rows.add_row([t.name, &human_shape(t.shape), t.from, t.to, &t.bytes.to_string(), &note]);
    }
    print_table(&rows);
    println!();
    for shard in &plan.shards {
        println!("{}: {} bytes", shard.path.display(), shard.directory.file_bytes);
    }
    println!(
        "{} bytes in all ({}), {:.2} bits per weight; nothing was written",
        plan.file_bytes(),
        human_bytes(plan.file_bytes()),
        plan.bits_per_weight()
    );
    if let Some(nats) = plan.predicted_divergence() {
        println!("predicted divergence: {nats:.5} nats per token");
    }
    Ok(())
}
