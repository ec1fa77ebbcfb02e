//! `--dry-run`: what each tensor would become, and the exact size.

use anyhow::Result;

use super::outline::Outline;
use super::{Table, figure, finite, human_bytes, human_shape, print_document};

/// Prints the plan.
pub fn print(outline: &Outline, json: bool) -> Result<()> {
    if json {
        return print_document("plan", outline);
    }
    let last = if outline.predicted_divergence.is_some() { "predicted divergence" } else { "" };
    let mut rows = Table::new(&["tensor", "shape", "from", "to", "bytes", last], &[4]);
    for t in &outline.tensors {
        let instead = t.instead_of.map(|from| format!("instead of {from}"));
        let predicted = t.predicted_divergence.map(|nats| finite(nats, |nats| format!("{nats:.2e}")));
        let note = predicted.or(instead).unwrap_or_default();
        rows.add_row([&t.name, &human_shape(&t.shape), t.from, &t.to, &t.bytes.to_string(), &note]);
    }
    rows.print();
    say!();
    for file in &outline.files {
        say!("{}: {} bytes", file.path.display(), file.bytes);
    }
    say!(
        "{} bytes in all ({}), {:.2} bits per weight; nothing was written",
        outline.bytes,
        human_bytes(outline.bytes),
        outline.bits_per_weight
    );
    if let Some(nats) = outline.predicted_divergence {
        say!("predicted divergence: {} nats per token", figure(nats, 5));
    }
    Ok(())
}
