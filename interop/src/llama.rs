//! A safe wrapper over the part of llama.cpp's C interface that tests and benches need.

mod context;
mod log;
mod model;
mod state;

pub use context::{Batch, Context, ContextOptions, Token};
pub use log::{Level, Line, capture, text as log_text};
pub use model::{LoadOptions, Model};
pub use state::SequenceState;

use std::ffi::CString;
use std::path::Path;
use std::sync::Once;

use crate::error::{Error, Result};

/// Makes llama.cpp ready and its log ours. Cheap after the first call; everything here calls it.
pub fn init() {
    static READY: Once = Once::new();
    READY.call_once(|| {
        // SAFETY: both functions have no precondition but to be called once and not concurrently, which `Once` gives;
        // the callback is a plain function that ignores its user data.
        unsafe {
            llama_cpp_sys_2::llama_log_set(Some(log::on_line), std::ptr::null_mut());
            llama_cpp_sys_2::llama_backend_init();
        }
    });
}

/// The instruction sets and options this llama.cpp was compiled with, in its own words.
pub fn system_info() -> String {
    init();
    // SAFETY: returns a pointer to a static, zero-terminated string.
    let text = unsafe { std::ffi::CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
    text.to_string_lossy().trim().to_owned()
}

pub(crate) fn c_path(path: &Path) -> Result<CString> {
    path.to_str()
        .and_then(|text| CString::new(text).ok())
        .ok_or_else(|| Error::Path { path: path.to_owned() })
}
