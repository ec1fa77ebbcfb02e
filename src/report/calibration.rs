//! The statistics that `plmconv calibrate` wrote.

use std::time::Duration;

use anyhow::Result;
use plmconv_calibrate::statistics::Statistics;
use serde_json::json;

use super::{file_bytes, human_bytes, print_document};

/// Prints the result of a finished run.
pub fn print(statistics: &Statistics, elapsed: Duration, json: bool) -> Result<()> {
    let path = statistics.path();
    let bytes = file_bytes(path)?;
    let (windows, window) = (statistics.windows(), statistics.window());
    if json {
        return print_document(
            "calibration",
            &json!({
                "file": path.display().to_string(),
                "bytes": bytes,
                "texts": statistics.texts(),
                "ctx": window,
                "windows": windows,
                "tokens": windows * window,
                "seconds": elapsed.as_secs_f64(),
            }),
        );
    }
    say!("{}", path.display());
    say!("{}: {windows} windows of {window} tokens; {:.1} s", human_bytes(bytes), elapsed.as_secs_f64());
    Ok(())
}
