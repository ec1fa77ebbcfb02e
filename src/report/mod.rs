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
pub mod written;

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};

use anyhow::Result;
use comfy_table::{CellAlignment, presets};
use serde::Serialize;

use crate::terminal::{one_line, visible, visible_json};

/// Writes text for people to stdout.
fn write(text: Arguments<'_>) {
    write_raw(&visible(&text.to_string()));
}

/// Writes to stdout. A reader that has seen enough (`| head`) changes nothing else: the exit code still says how it went.
fn write_raw(text: &str) {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            tell!("error: stdout: {error}");
            std::process::exit(1);
        }
        _ => {}
    }
}

/// One JSON document on stdout.
fn print_json(value: &impl Serialize) -> Result<()> {
    write_raw(&format!("{}\n", visible_json(&serde_json::to_string_pretty(value)?)));
    Ok(())
}

/// A borderless table.
struct Table(comfy_table::Table);

impl Table {
    /// The columns in `numeric` are right-aligned.
    fn new(header: &[&str], numeric: &[usize]) -> Table {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        if !header.is_empty() {
            table.set_header(header.iter().copied());
        }
        for &column in numeric {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Table(table)
    }

    /// A row; each cell stays on one line.
    fn add_row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.0.add_row(cells.into_iter().map(|cell| one_line(cell.as_ref()).into_owned()));
    }

    /// Prints the lines without the spaces that fill the last column.
    fn print(&self) {
        for line in self.0.lines() {
            say!("{}", line.trim_end());
        }
    }
}

/// A measured number with `digits` behind the point.
fn figure(value: f64, digits: usize) -> String {
    finite(value, |value| format!("{value:.digits$}"))
}

/// A measured number as `written` writes it, which one that is not finite is not.
fn finite(value: f64, written: impl FnOnce(f64) -> String) -> String {
    if value.is_finite() { written(value) } else { "not finite".into() }
}

/// `4228512` → `4.23 MB`.
fn human_bytes(bytes: u64) -> String {
    indicatif::DecimalBytes(bytes).to_string()
}

/// `[151936, 2048]` → `151936 x 2048`, row-major.
fn human_shape(shape: &[usize]) -> String {
    shape.iter().map(usize::to_string).collect::<Vec<_>>().join(" x ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        assert_eq!((figure(1.25, 1), figure(-0.5, 3)), ("1.2".into(), "-0.500".into()));
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            assert_eq!(figure(value, 4), "not finite");
        }
    }
}
