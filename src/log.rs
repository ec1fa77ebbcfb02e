//! Lines on stderr: for people, or for machines one JSON object each (`--log-format json`).

use std::sync::{Mutex, OnceLock, PoisonError};

use serde::Serialize;

/// The form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Lines that are kept instead of printed, while somebody wants them.
static KEPT: Mutex<Option<Vec<(Severity, String)>>> = Mutex::new(None);

/// From now on keeps lines instead of printing them.
pub fn keep() {
    *KEPT.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
}

/// Whether nothing is printed now.
pub fn is_kept() -> bool {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// The lines since [`keep`], after which they are printed again.
pub fn take_kept() -> Vec<(Severity, String)> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
}

/// Of the whole process, like stderr.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Chooses the form of all lines that follow; the first choice is kept.
pub fn choose(format: LogFormat) {
    FORMAT.get_or_init(|| format);
}

/// The form that was chosen.
pub fn format() -> LogFormat {
    FORMAT.get().copied().unwrap_or_default()
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
    Info,
    /// What only `-v` shows.
    Debug,
}

impl Severity {
    fn prefix(self) -> &'static str {
        match self {
            Severity::Error => "error: ",
            Severity::Warning => "warning: ",
            Severity::Info | Severity::Debug => "",
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    level: Severity,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// Prints a line.
pub fn log(level: Severity, message: &str) {
    log_with_hint(level, message, None);
}

/// Prints a line, and what may help.
pub fn log_with_hint(level: Severity, message: &str, hint: Option<&str>) {
    if let Some(kept) = &mut *KEPT.lock().unwrap_or_else(PoisonError::into_inner) {
        kept.push((level, message.to_string()));
        return;
    }
    match format() {
        LogFormat::Json => log_json(&Line { level, message, hint }),
        LogFormat::Text => {
            tell!("{}{message}", level.prefix());
            if let Some(hint) = hint {
                tell!("hint: {hint}");
            }
        }
    }
}

/// Prints `line` as JSON, whatever the form of the others.
pub fn log_json(line: &impl Serialize) {
    let line = serde_json::to_string(line).expect("a line has no maps with other keys than texts");
    tell!("{}", crate::terminal::visible_json(&line));
}
