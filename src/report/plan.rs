//! `--dry-run`: what each tensor would become, and the exact size.

use anyhow::Result;

use super::outline::Outline;
use super::{human_bytes, human_shape, print_json, print_table, table};

/// Prints the plan.
pub fn print(outline: &Outline, json: bool) -> Result<()> {
    if json {
        return print_json(outline);
    }
    let mut rows = table(&["tensor", "shape", "from", "to", "bytes", ""], &[4]);
    for t in &outline.tensors {
        let note = t.instead_of.map(|from| format!("instead of {from}")).unwrap_or_default();
        rows.add_row([&t.name, &human_shape(&t.shape), t.from, &t.to, &t.bytes.to_string(), &note]);
    }
    print_table(&rows);
    println!();
    for file in &outline.files {
        println!("{}: {} bytes", file.path.display(), file.bytes);
    }
    println!(
        "{} bytes in all ({}), {:.2} bits per weight; nothing was written",
        outline.bytes,
        human_bytes(outline.bytes),
        outline.bits_per_weight
    );
    Ok(())
}
