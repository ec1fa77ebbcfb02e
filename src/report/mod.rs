//! Results on stdout: text for people, JSON for machines.

/// A line on stdout.
macro_rules! say {
    () => {
        $crate::report::write(format_args!("\n"))
    };
    ($($text:tt)+) => {
        $crate::report::write(format_args!("{}\n", format_args!($($text)+)))
    };
}

mod graph;
pub mod inspect;
pub mod outline;
pub mod perplexity;
pub mod plan;
pub mod sparsity;
pub mod stored;
pub mod stream;
pub mod validation;
pub mod verification;
pub mod written;

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// Writes to stdout. A reader that has seen enough (`| head`) changes nothing else: the exit code still says how it went.
fn write(text: Arguments<'_>) {
    match std::io::stdout().write_fmt(text) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            eprintln!("error: stdout: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}

/// One JSON document on stdout.
fn print_json(value: &impl Serialize) -> Result<()> {
    say!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

/// A borderless table; the columns in `numeric` are right-aligned.
fn table(header: &[&str], numeric: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        table.set_header(header.iter().copied());
    }
    for &column in numeric {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A table's lines without the spaces that fill the last column.
fn print_table(table: &Table) {
    for line in table.lines() {
        say!("{}", line.trim_end());
    }
}

/// `4228512` → `4.23 MB`.
fn human_bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// `[151936, 2048]` → `151936 x 2048`, row-major.
fn human_shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}
