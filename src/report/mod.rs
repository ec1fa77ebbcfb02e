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

pub mod calibration;
pub mod edit;
pub mod file;
pub mod forms;
pub mod generation;
mod graph;
pub mod inspect;
mod layers;
pub mod outline;
pub mod perplexity;
pub mod plan;
pub mod sparsity;
pub mod stored;
pub mod stream;
pub mod types;
pub mod validation;
pub mod verification;
pub mod written;

use std::fmt::Arguments;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use comfy_table::{CellAlignment, presets};
use serde::Serialize;

use crate::log::{Severity, log};
use crate::terminal::{one_line, visible, visible_json};

/// Writes text for people to stdout.
fn write(text: Arguments<'_>) {
    write_raw(&visible(&text.to_string()));
}

/// What is printed while a [`Capture`] lives.
static CAPTURED: Mutex<Option<String>> = Mutex::new(None);

/// Keeps what is printed instead of printing it, for a program that runs commands itself.
pub struct Capture(());

impl Capture {
    /// From now on.
    pub fn start() -> Capture {
        *CAPTURED.lock().unwrap_or_else(PoisonError::into_inner) = Some(String::new());
        Capture(())
    }

    /// What was printed since.
    pub fn finish(self) -> String {
        CAPTURED.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }
}

/// Writes to stdout. A reader that has seen enough (`| head`) changes nothing else: the exit code still says how it went.
fn write_raw(text: &str) {
    if let Some(captured) = &mut *CAPTURED.lock().unwrap_or_else(PoisonError::into_inner) {
        captured.push_str(text);
        return;
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            log(Severity::Error, &format!("stdout: {error}"));
            std::process::exit(1);
        }
        _ => {}
    }
}

/// Prints a page of plmconv's own as it is.
pub fn print_page(page: &[u8]) {
    write_raw(&String::from_utf8_lossy(page));
}

/// One JSON document on stdout, written as it is made: of large files it is large.
fn print_json(value: &impl Serialize) -> Result<()> {
    let mut out = JsonOut::default();
    serde_json::to_writer_pretty(&mut out, value)?;
    out.flush()?;
    say!();
    Ok(())
}

/// A result as JSON: an object that says of what form it is.
#[derive(Serialize)]
struct Document<'a, T> {
    /// `plmconv.<kind>/1`; the number grows when a key changes its meaning or goes.
    schema: String,
    /// Of plmconv.
    version: &'static str,
    #[serde(flatten)]
    content: &'a T,
}

/// Prints a result, an object, with the name of its form.
fn print_document(kind: &str, content: &impl Serialize) -> Result<()> {
    let schema = format!("plmconv.{kind}/1");
    print_json(&Document { schema, version: env!("CARGO_PKG_VERSION"), content })
}

/// Takes JSON as it is made and writes it without control characters.
#[derive(Default)]
struct JsonOut(Vec<u8>);

impl JsonOut {
    /// Bytes that are held at a time.
    const BLOCK: usize = 1 << 16;
}

impl Write for JsonOut {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.extend_from_slice(bytes);
        if self.0.len() >= JsonOut::BLOCK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    /// Writes what is held but for the start of a character.
    fn flush(&mut self) -> std::io::Result<()> {
        let whole = std::str::from_utf8(&self.0).map_or_else(|e| e.valid_up_to(), str::len);
        let rest = self.0.split_off(whole);
        let text = std::mem::replace(&mut self.0, rest);
        write_raw(&visible_json(&String::from_utf8_lossy(&text)));
        Ok(())
    }
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

/// The length of a file that was written.
fn file_bytes(path: &Path) -> Result<u64> {
    Ok(std::fs::metadata(path).map_err(plmconv_formats::Error::io(path))?.len())
}

/// A measured number with `digits` behind the point.
fn figure(value: f64, digits: usize) -> String {
    finite(value, |value| format!("{value:.digits$}"))
}

/// A measured number as `written` writes it, which one that is not finite is not.
fn finite(value: f64, written: impl FnOnce(f64) -> String) -> String {
    if value.is_finite() { written(value) } else { "not finite".into() }
}

/// Prints a table without holding its cells: the rows are made twice, for the columns' widths and to be printed. The
/// columns in `numeric` are right-aligned.
fn print_columns<const N: usize, R: Iterator<Item = [String; N]>>(
    header: [&str; N],
    numeric: &[usize],
    rows: impl Fn() -> R,
) {
    let header = header.map(str::to_string);
    let rows = || {
        std::iter::once(header.clone()).chain(rows()).map(|row| row.map(|cell| one_line(&cell).into_owned()))
    };
    let mut widths = [0; N];
    for row in rows() {
        widths.iter_mut().zip(&row).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    for row in rows() {
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
pub fn human_bytes(bytes: u64) -> String {
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
