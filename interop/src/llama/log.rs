//! llama.cpp's log: caught per thread, so that tests that run side by side each read their own.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};

use llama_cpp_sys_2 as sys;

/// How grave llama.cpp takes a line to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Debug,
    Info,
    Warning,
    Error,
}

/// One line of llama.cpp's log, without its line break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub level: Level,
    pub text: String,
}

thread_local! {
    /// The lines caught so far, where this thread is inside [`capture`].
    static CAUGHT: RefCell<Option<Vec<Line>>> = const { RefCell::new(None) };
}

/// Runs `work` and returns, beside its result, what llama.cpp logged on this thread meanwhile.
/// Lines that llama.cpp's own worker threads log are not caught (they go to stderr if they are warnings).
pub fn capture<T>(work: impl FnOnce() -> T) -> (T, Vec<Line>) {
    super::init();
    let outer = CAUGHT.replace(Some(Vec::new()));
    let result = work();
    let lines = CAUGHT.replace(outer).unwrap_or_default();
    CAUGHT.with_borrow_mut(|outer| {
        if let Some(outer) = outer {
            outer.extend(lines.iter().cloned());
        }
    });
    (result, lines)
}

/// The lines as one text, for messages.
pub fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// What llama.cpp calls for each piece of its log.
pub(super) unsafe extern "C" fn on_line(level: sys::ggml_log_level, text: *const c_char, _user: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a zero-terminated string that lives until this function returns.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let text = text.trim_end_matches('\n');
    let level = match level {
        sys::GGML_LOG_LEVEL_CONT => return continue_line(text),
        sys::GGML_LOG_LEVEL_ERROR => Level::Error,
        sys::GGML_LOG_LEVEL_WARN => Level::Warning,
        sys::GGML_LOG_LEVEL_INFO => Level::Info,
        _ => Level::Debug,
    };
    // A thread that is being torn down has no storage any more; its line is then lost, which is not worth a panic
    // across the language border.
    let _ = CAUGHT.try_with(|caught| match caught.try_borrow_mut().as_deref_mut() {
        Ok(Some(lines)) => lines.push(Line { level, text: text.to_owned() }),
        _ if level >= Level::Warning => eprintln!("llama.cpp: {text}"),
        _ => {}
    });
}

/// Appends to the last caught line, as llama.cpp asks for pieces such as progress dots.
fn continue_line(text: &str) {
    let _ = CAUGHT.try_with(|caught| {
        if let Ok(Some(lines)) = caught.try_borrow_mut().as_deref_mut()
            && let Some(last) = lines.last_mut()
        {
            last.text.push_str(text);
        }
    });
}
