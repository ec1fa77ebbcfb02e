//! What `plmconv reference` stored.

use std::path::Path;

use anyhow::Result;
use plmconv_validate::Windows;
use plmconv_validate::estimate::Estimate;
use serde_json::json;

use super::{figure, file_bytes, human_bytes, print_document};

/// Prints the result of a finished run.
pub fn print(path: &Path, windows: &Windows<'_>, perplexity: Estimate, json: bool) -> Result<()> {
    let bytes = file_bytes(path)?;
    if json {
        return print_document(
            "reference",
            &json!({
                "file": path.display().to_string(),
                "bytes": bytes,
                "ctx": windows.ctx(),
                "windows": windows.count(),
                "tokens_scored": windows.tokens_scored(),
                "perplexity": perplexity.value,
                "standard_error": perplexity.error,
            }),
        );
    }
    say!("{}", path.display());
    say!(
        "{}: {} windows of {} tokens, {} scored; perplexity {} ± {}",
        human_bytes(bytes),
        windows.count(),
        windows.ctx(),
        windows.tokens_scored(),
        figure(perplexity.value, 4),
        figure(perplexity.error, 4)
    );
    Ok(())
}
