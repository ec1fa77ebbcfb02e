//! GGUF files as ggml itself reads them: an outside witness for what our own reader and writer say.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use crate::error::{Error, Result};
use crate::llama::{c_path, capture, log_text};

/// A tensor's place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    pub name: String,
    /// ggml's name of the type, such as `q4_K`.
    pub type_name: String,
    /// ggml's order: the innermost dimension first, always four.
    pub shape: [i64; 4],
    pub bytes: usize,
    offset: u64,
}

/// The directory of a GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    tensors: Vec<Tensor>,
}

impl Gguf {
    /// Reads the header of `path`.
    ///
    /// # Errors
    /// [`Error::Gguf`] with what ggml logged.
    pub fn open(path: &Path) -> Result<Self> {
        let name = c_path(path)?;
        let params = sys::gguf_init_params { no_alloc: true, ctx: std::ptr::null_mut() };
        // SAFETY: `name` is a zero-terminated string that outlives the call; without `ctx`, nothing but the header's
        // own object is made.
        let (pointer, lines) = capture(|| unsafe { sys::gguf_init_from_file(name.as_ptr(), params) });
        let Some(pointer) = NonNull::new(pointer) else {
            return Err(Error::Gguf { path: path.to_owned(), log: log_text(&lines) });
        };
        let tensors = directory(pointer);
        // SAFETY: the pointer came from ggml and is freed once; `tensors` holds copies.
        unsafe { sys::gguf_free(pointer.as_ptr()) };
        Ok(Self { path: path.to_owned(), tensors })
    }

    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::NoTensor`].
    pub fn tensor(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .iter()
            .find(|tensor| tensor.name == name)
            .ok_or_else(|| Error::NoTensor { path: self.path.clone(), tensor: name.to_owned() })
    }

    /// The bytes of one tensor.
    ///
    /// # Errors
    /// [`Error::TensorPastEnd`], [`Error::Io`].
    pub fn read(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let mut file = File::open(&self.path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if tensor.offset.checked_add(tensor.bytes as u64).is_none_or(|end| end > length) {
            return Err(Error::TensorPastEnd { path: self.path.clone(), tensor: tensor.name.clone() });
        }
        file.seek(SeekFrom::Start(tensor.offset)).map_err(io)?;
        let mut bytes = vec![0; tensor.bytes];
        file.read_exact(&mut bytes).map_err(io)?;
        Ok(bytes)
    }

    /// An f32 tensor's values.
    ///
    /// # Errors
    /// [`Error::NoTensor`], also where the tensor is not f32; those of [`Gguf::read`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        let tensor = self.tensor(name)?;
        if tensor.type_name != "f32" {
            return Err(Error::NoTensor { path: self.path.clone(), tensor: format!("{name} in f32") });
        }
        let bytes = self.read(tensor)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect())
    }
}

fn directory(pointer: NonNull<sys::gguf_context>) -> Vec<Tensor> {
    let header = pointer.as_ptr();
    // SAFETY: the header is live for the whole function (the caller frees it afterwards); every index is below the
    // count that ggml gives; names are zero-terminated strings and shapes arrays of four.
    unsafe {
        let data = sys::gguf_get_data_offset(header);
        (0..sys::gguf_get_n_tensors(header))
            .map(|index| {
                let kind = sys::gguf_get_tensor_type(header, index);
                let shape = std::slice::from_raw_parts(sys::gguf_get_tensor_ne(header, index), 4);
                Tensor {
                    name: string(sys::gguf_get_tensor_name(header, index)),
                    type_name: string(sys::ggml_type_name(kind)),
                    shape: [shape[0], shape[1], shape[2], shape[3]],
                    bytes: sys::gguf_get_tensor_size(header, index),
                    offset: (data + sys::gguf_get_tensor_offset(header, index)) as u64,
                }
            })
            .collect()
    }
}

/// # Safety
/// `text` points at a zero-terminated string.
unsafe fn string(text: *const std::ffi::c_char) -> String {
    // SAFETY: the caller's promise.
    unsafe { std::ffi::CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
