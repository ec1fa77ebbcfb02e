//! The head of a GGUF file as it is read: front to back, in bounded memory.

use std::fmt::Display;
use std::io::{self, BufReader, Read};
use std::path::Path;

use super::{MetadataArray, Value, ValueType};
use crate::error::{Error, Result};
use crate::limits::allocated;
use crate::source::InputFile;

/// ggml's limit on a tensor name, and a sane one for keys.
const MAX_NAME: u64 = 1 << 16;
/// The longest text of a key; the longest in use are chat templates of some kilobytes.
const MAX_TEXT: u64 = 16 << 20;
/// How deep arrays may be nested.
const MAX_DEPTH: usize = 8;
/// What the decoded head may take besides twice its own bytes. The largest vocabularies in use take 26 MB.
const MAX_DECODED: u64 = 40 << 20;

/// `Read` over an [`InputFile`], for the header only.
struct PositionalReader<'a> {
    file: &'a InputFile,
    at: u64,
}

impl Read for PositionalReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = (out.len() as u64).min(self.file.len().saturating_sub(self.at)) as usize;
        self.file.read_exact_at(&mut out[..n], self.at).map_err(io::Error::other)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The header being read, with the offset for messages.
pub(super) struct Head<'a> {
    reader: BufReader<PositionalReader<'a>>,
    file: &'a InputFile,
    at: u64,
    /// Bytes of memory that what was read so far takes.
    decoded: u64,
    /// Keys of texts that are not UTF-8.
    broken_texts: Vec<String>,
}

impl Read for Head<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(out)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl<'a> Head<'a> {
    pub(super) fn new(file: &'a InputFile) -> Head<'a> {
        Head {
            reader: BufReader::new(PositionalReader { file, at: 0 }),
            file,
            at: 0,
            decoded: 0,
            broken_texts: Vec::new(),
        }
    }

    pub(super) fn path(&self) -> &'a Path {
        self.file.path()
    }

    /// Keys whose texts are not UTF-8 and were repaired.
    pub(super) fn into_broken_texts(self) -> Vec<String> {
        self.broken_texts
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    pub(super) fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N]> {
        let mut out = [0; N];
        let end = self.at + N as u64;
        self.read_exact(&mut out).map_err(|_| self.truncated(what, end))?;
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: impl Display) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: impl Display) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        let offset = self.at;
        let len = self.u64(what)?;
        let left = self.file.len().saturating_sub(self.at);
        if len > left {
            return Err(self.truncated(what, self.at.saturating_add(len)));
        }
        if len > MAX_NAME {
            return Err(self.malformed(offset, format!("{what} of {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        let end = self.at + len;
        self.read_exact(&mut bytes).map_err(|_| self.truncated(what, end))?;
        String::from_utf8(bytes).map_err(|_| self.malformed(offset, format!("{what} is not UTF-8")))
    }

    /// A value. Arrays are taken apart here: gguf-rs-lib limits the memory of one value, which says nothing of a
    /// file of many, or of a small file with one value of millions of booleans.
    pub(super) fn value(&mut self, key: &str, kind: ValueType) -> Result<Value> {
        self.value_at(key, kind, 0)
    }

    fn value_at(&mut self, key: &str, kind: ValueType, depth: usize) -> Result<Value> {
        if kind == ValueType::Array {
            return self.array_value(key, depth);
        }
        if kind == ValueType::String {
            return self.text(key).map(Value::String);
        }
        let offset = self.at;
        Value::read_from(self, kind).map_err(|e| {
            if self.at >= self.file.len() {
                self.truncated(format_args!("the value of `{key}`"), self.at.saturating_add(1))
            } else {
                self.malformed(offset, format!("`{key}`: {e}"))
            }
        })
    }

    /// The text of `key`. Tools that cut a text after so many bytes cut characters too, as llama-quantize does with the
    /// name of an importance matrix; where nothing depends on the text, the file need not be refused.
    fn text(&mut self, key: &str) -> Result<String> {
        let offset = self.at;
        // Not a String: vocabularies have hundreds of thousands of texts.
        let what = format_args!("the value of `{key}`");
        let len = self.u64(what)?;
        let end = self.at.saturating_add(len);
        if end > self.file.len() {
            return Err(self.truncated(what, end));
        }
        if len > MAX_TEXT {
            return Err(self.malformed(offset, format!("{what} has {len} bytes")));
        }
        let mut bytes = vec![0; len as usize];
        self.read_exact(&mut bytes).map_err(|_| self.truncated(what, end))?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(_) if key.starts_with("tokenizer.") || key == "general.architecture" => {
                return Err(self.malformed(offset, format!("{what} is not UTF-8")));
            }
            Err(e) => {
                if self.broken_texts.last().is_none_or(|last| last != key) {
                    self.broken_texts.push(key.to_string());
                }
                String::from_utf8_lossy(e.as_bytes()).into_owned()
            }
        };
        self.charge(allocated(text.len()))?;
        Ok(text)
    }

    fn array_value(&mut self, key: &str, depth: usize) -> Result<Value> {
        let offset = self.at;
        if depth == MAX_DEPTH {
            return Err(self.malformed(offset, format!("`{key}` has arrays in arrays, {depth} deep")));
        }
        let what = format_args!("the array `{key}`");
        let type_id = self.u32(what)?;
        let kind = ValueType::from_u32(type_id).map_err(|_| {
            self.malformed(offset, format!("`{key}` has elements of the unknown type {type_id}"))
        })?;
        let length = self.u64(what)?;
        // An element takes at least a byte.
        if length > self.file.len().saturating_sub(self.at) {
            return Err(self.truncated(what, self.at.saturating_add(length)));
        }
        let slots = length.saturating_mul(size_of::<Value>() as u64);
        self.charge(slots.saturating_add(allocated(size_of::<MetadataArray>())))?;
        let mut values = Vec::with_capacity(length as usize);
        for _ in 0..length {
            values.push(self.value_at(key, kind, depth + 1)?);
        }
        let array =
            MetadataArray::new(kind, values).map_err(|e| self.malformed(offset, format!("`{key}`: {e}")))?;
        Ok(Value::Array(Box::new(array)))
    }

    /// Counts memory.
    ///
    /// # Errors
    /// More than a file of these bytes may take.
    pub(super) fn charge(&mut self, bytes: u64) -> Result<()> {
        self.decoded = self.decoded.saturating_add(bytes);
        if self.decoded <= MAX_DECODED + 2 * self.at {
            return Ok(());
        }
        let detail = format!(
            "metadata and tensor directory would take more than {} MB of memory besides twice their own bytes",
            MAX_DECODED >> 20
        );
        Err(self.malformed(self.at, detail))
    }

    fn truncated(&self, what: impl Display, end: u64) -> Error {
        Error::Truncated {
            path: self.file.path().to_path_buf(),
            what: what.to_string(),
            end,
            len: self.file.len(),
        }
    }

    pub(super) fn malformed(&self, offset: u64, detail: String) -> Error {
        Error::Malformed { path: self.file.path().to_path_buf(), offset, detail }
    }
}
