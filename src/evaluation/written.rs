//! Texts that a model writes itself.

use anyhow::Result;
use plmconv_validate::sample::{SampleOptions, sample_text};

use super::side::Loaded;
use crate::interrupt;
use crate::progress::{Console, Unit};

/// Samples texts at temperature 1. The same for the same options.
///
/// # Errors
/// What running a model may end with, and Ctrl-C where it is listened to.
pub fn write_text(model: &Loaded, options: SampleOptions, console: Console) -> Result<Vec<u32>> {
    let bar = console.bar(options.tokens as u64, Unit::Items, "writing a text");
    let written = sample_text(&model.evaluator, &model.tokenizer, options, |done| {
        bar.set_position(done as u64);
        interrupt::flow()
    })?;
    interrupt::check()?;
    bar.finish_and_clear();
    Ok(written)
}
