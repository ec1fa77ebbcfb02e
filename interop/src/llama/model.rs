//! A model that llama.cpp has loaded, and its vocabulary.

use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::{Token, c_path, capture, log_text};
use crate::error::{Error, Result};

/// How a file is read.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Map the file instead of reading it.
    pub memory_map: bool,
    /// Let llama.cpp check each tensor's bytes (scales that are not finite, and the like).
    pub check_tensors: bool,
    /// Let llama.cpp lay weights out anew for the machine's kernels, as its programs do.
    pub repack: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { memory_map: false, check_tensors: true, repack: true }
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    pointer: NonNull<sys::llama_model>,
}

// SAFETY: llama.cpp does not write to a model after loading it, and several contexts may use one from several threads.
unsafe impl Send for Model {}
// SAFETY: as above.
unsafe impl Sync for Model {}

impl Model {
    /// Loads `path`; for a split model, its first shard.
    ///
    /// # Errors
    /// [`Error::Load`] with what llama.cpp logged.
    pub fn load(path: &Path, options: LoadOptions) -> Result<Self> {
        super::init();
        let name = c_path(path)?;
        // SAFETY: returns a plain struct.
        let mut params = unsafe { sys::llama_model_default_params() };
        params.n_gpu_layers = 0;
        params.load_mode =
            if options.memory_map { sys::LLAMA_LOAD_MODE_MMAP } else { sys::LLAMA_LOAD_MODE_NONE };
        params.check_tensors = options.check_tensors;
        params.use_extra_bufts = options.repack;
        // SAFETY: `name` is a zero-terminated string that outlives the call, `params` comes from llama.cpp itself and
        // its pointers are its defaults.
        let (pointer, lines) = capture(|| unsafe { sys::llama_model_load_from_file(name.as_ptr(), params) });
        match NonNull::new(pointer) {
            Some(pointer) => Ok(Self { pointer }),
            None => Err(Error::Load { path: path.to_owned(), log: log_text(&lines) }),
        }
    }

    pub(super) fn pointer(&self) -> *mut sys::llama_model {
        self.pointer.as_ptr()
    }

    fn vocab(&self) -> *const sys::llama_vocab {
        // SAFETY: the model lives as long as `self`; the vocabulary is part of it.
        unsafe { sys::llama_model_get_vocab(self.pointer()) }
    }

    /// Number of tokens in the vocabulary, unused ids included.
    pub fn vocab_size(&self) -> usize {
        // SAFETY: the vocabulary belongs to the live model.
        let count = unsafe { sys::llama_vocab_n_tokens(self.vocab()) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Whether llama.cpp puts a beginning-of-sequence token before a text.
    pub fn adds_bos(&self) -> bool {
        // SAFETY: the vocabulary belongs to the live model.
        unsafe { sys::llama_vocab_get_add_bos(self.vocab()) }
    }

    /// The beginning-of-sequence token.
    pub fn bos(&self) -> Token {
        // SAFETY: the vocabulary belongs to the live model.
        unsafe { sys::llama_vocab_bos(self.vocab()) }
    }

    /// llama.cpp's number for the file's mixture of types (`llama_ftype`).
    pub fn file_type(&self) -> u32 {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_ftype(self.pointer()) }
    }

    /// Bytes of all tensors together.
    pub fn tensor_bytes(&self) -> u64 {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_size(self.pointer()) }
    }

    /// Number of weights.
    pub fn weights(&self) -> u64 {
        // SAFETY: the model is live.
        unsafe { sys::llama_model_n_params(self.pointer()) }
    }

    /// llama.cpp's one-line description, such as `plm 1.8B Q4_K - Medium`.
    pub fn description(&self) -> String {
        let mut buffer = [0u8; 256];
        // SAFETY: the model is live; llama.cpp writes at most `buffer.len()` bytes, the terminating zero included.
        unsafe { sys::llama_model_desc(self.pointer(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
        String::from_utf8_lossy(&buffer[..end]).into_owned()
    }

    /// Tokenizes `text`. With `parse_special`, texts such as `<|im_end|>` become their control token; without, they
    /// are split like any text. `add_special` lets llama.cpp add beginning and end tokens where the file says so.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if llama.cpp refuses the text.
    pub fn tokenize(&self, text: &str, add_special: bool, parse_special: bool) -> Result<Vec<Token>> {
        let refused = || Error::Tokenize { bytes: text.len() };
        let length = i32::try_from(text.len()).map_err(|_| refused())?;
        // A token covers at least one byte; two more for beginning and end.
        let mut tokens = vec![0; text.len() + 2];
        let room = i32::try_from(tokens.len()).map_err(|_| refused())?;
        // SAFETY: the vocabulary belongs to the live model, the text has `length` bytes and the buffer `room` tokens.
        let count = unsafe {
            sys::llama_tokenize(
                self.vocab(),
                text.as_ptr().cast(),
                length,
                tokens.as_mut_ptr(),
                room,
                add_special,
                parse_special,
            )
        };
        tokens.truncate(usize::try_from(count).map_err(|_| refused())?);
        Ok(tokens)
    }

    /// The text of `tokens`, control tokens included.
    ///
    /// # Errors
    /// [`Error::Tokenize`] if llama.cpp refuses them.
    pub fn detokenize(&self, tokens: &[Token]) -> Result<String> {
        let refused = || Error::Tokenize { bytes: tokens.len() };
        let count = i32::try_from(tokens.len()).map_err(|_| refused())?;
        let mut buffer = vec![0u8; 16 + tokens.len() * 16];
        loop {
            let room = i32::try_from(buffer.len()).map_err(|_| refused())?;
            // SAFETY: the vocabulary belongs to the live model; both buffers have the lengths given.
            let written = unsafe {
                sys::llama_detokenize(
                    self.vocab(),
                    tokens.as_ptr(),
                    count,
                    buffer.as_mut_ptr().cast(),
                    room,
                    false,
                    true,
                )
            };
            match usize::try_from(written) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(String::from_utf8_lossy(&buffer).into_owned());
                }
                // A negative count is the length it would have needed.
                Err(_) => buffer.resize(written.unsigned_abs() as usize, 0),
            }
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: the pointer came from llama.cpp, is freed once, and no context can outlive the model (`Context`
        // borrows it).
        unsafe { sys::llama_model_free(self.pointer()) };
    }
}
