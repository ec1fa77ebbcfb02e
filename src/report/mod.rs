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

pub mod file;
mod graph;
pub mod inspect;
pub mod outline;
pub mod perplexity;
pub mod plan;
pub mod sparsity;
pub mod stored;
pub mod stream;
pub mod validation;
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

/// One JSON document on stdout, written as it is made: of large files it is large.
fn print_json(value: &impl Serialize) -> Result<()> {
    struct Lines;
    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            write(format_args!("{}", String::from_utf8_lossy(bytes)));
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut out = std::io::LineWriter::new(Lines);
    serde_json::to_writer_pretty(&mut out, value)?;
    out.flush()?;
    say!();
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

/// Prints a table without holding its cells: the rows are made twice, for the columns' widths and to be printed. The
/// columns in `numeric` are right-aligned.
fn print_columns<const N: usize, R: Iterator<Item = [String; N]>>(
    header: [&str; N],
    numeric: &[usize],
    rows: impl Fn() -> R,
) {
    let header = header.map(str::to_string);
    let mut widths = [0; N];
    for row in std::iter::once(header.clone()).chain(rows()) {
        widths.iter_mut().zip(&row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    for row in std::iter::once(header).chain(rows()) {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            line.push_str(&match numeric.contains(&column) {
                true => format!(" {cell:>width$} "),
                false => format!(" {cell:<width$} "),
            });
        }
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
