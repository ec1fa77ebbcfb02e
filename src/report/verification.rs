//! What `plmconv verify` found.

use std::path::Path;

use anyhow::Result;

use super::{human_bytes, print_document};
use crate::target::STORED;
use crate::terminal::one_line;
use crate::verification::{DataDifference, Difference, DifferentByte, Verification};

/// Differences of a kind that are listed; `--json` lists all.
const LISTED: usize = 20;

/// Prints the result.
pub fn print(verification: &Verification, json: bool) -> Result<()> {
    if json {
        return print_document("verification", verification);
    }
    let Verification { file, model, recipe, tensors, bytes, elapsed, .. } = verification;
    if verification.identical {
        say!("{}: every byte is what {} gives", file.display(), model.display());
    } else {
        say!("{}: not what {} gives", file.display(), model.display());
    }
    match recipe {
        Some(recipe) => say!("plmconv {}: {}", recipe.version, one_line(&recipe.command())),
        None if verification.file_type == STORED => {
            say!("types and general.file_type are the file's own: they are those of no preset");
        }
        None => say!("type: {}", verification.file_type),
    }
    for name in &verification.excepted {
        say!("{} was not compared", one_line(name));
    }
    for difference in verification.differences.iter().take(LISTED) {
        say!("  {}", sentence(difference, file));
    }
    if verification.differences.len() > LISTED {
        say!("  and {} more (--json lists all)", verification.differences.len() - LISTED);
    }
    let seconds = elapsed.as_secs_f64();
    say!("{tensors} tensors, {}; {seconds:.1} s", human_bytes(*bytes));
    Ok(())
}

/// One difference; the file is named where it is not the one that was asked for.
fn sentence(difference: &Difference, asked: &Path) -> String {
    let place = |file: &Path| {
        if file == asked { String::new() } else { format!("{}: ", one_line(&file.display().to_string())) }
    };
    let side = |text: &Option<String>| text.clone().unwrap_or_else(|| "missing".into());
    match difference {
        Difference::Metadata { file, key, found, derived } => {
            format!("{}{}: {}, derived: {}", place(file), one_line(key), side(found), side(derived))
        }
        Difference::Tensor { file, tensor, found, derived } => {
            format!("{}{}: {}, derived: {}", place(file), one_line(tensor), side(found), side(derived))
        }
        Difference::Data(data) => {
            let DataDifference { file, tensor, stored_as, blocks, differing, row, block, first } = data;
            format!(
                "{}{} ({stored_as}): {differing} of {blocks} blocks; first: row {row}, block {block}, {}",
                place(file),
                one_line(tensor),
                byte(first)
            )
        }
        Difference::Bytes { file, part, differing, first } => {
            format!("{}{}: {differing} bytes; first: {}", place(file), one_line(part), byte(first))
        }
        Difference::Length { file, found, derived } => {
            format!("{}{found} bytes long, derived: {derived}", place(file))
        }
        Difference::File { file, missing: true } => format!("{}missing", place(file)),
        Difference::File { file, missing: false } => format!("{}no part of the export", place(file)),
    }
}

fn byte(byte: &DifferentByte) -> String {
    let found = byte.found.map_or_else(|| "nothing".into(), |found| format!("{found:#04x}"));
    format!("byte {} is {found}, derived: {:#04x}", byte.offset, byte.derived)
}
