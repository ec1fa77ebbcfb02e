//! The object that a JSON file holds, key by key, with errors that name both.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::json;

/// Each file's own kinds of values are read beside what it describes.
pub(crate) struct Fields<'a> {
    pub path: &'a Path,
    pub map: Map<String, Value>,
}

impl<'a> Fields<'a> {
    /// Parses what was read from `path`.
    ///
    /// # Errors
    /// As [`json::parse`].
    pub fn parse(path: &'a Path, bytes: Vec<u8>) -> Result<Fields<'a>> {
        Ok(Fields { path, map: json::parse(path, bytes)? })
    }

    /// The value of a key, unless it is null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub fn text(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| self.bad(key, value, "true or false"));
        self.get(key).map(read).transpose()
    }

    pub fn bad(&self, key: &str, found: &Value, expected: &str) -> Error {
        bad_value(self.path, key, found, expected)
    }
}

pub(crate) fn bad_value(path: &Path, key: &str, found: impl ToString, expected: impl ToString) -> Error {
    Error::BadValue {
        path: path.to_path_buf(),
        key: key.into(),
        found: found.to_string(),
        expected: expected.to_string(),
    }
}

pub(crate) fn missing(path: &Path, key: &str) -> Error {
    Error::MissingKey { path: path.to_path_buf(), key: key.into() }
}
