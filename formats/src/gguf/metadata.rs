//! GGUF metadata in file order.

use std::collections::HashMap;

use super::{ALIGNMENT_KEY, MetadataArray, Value, ValueType};

/// Key-value pairs in file order.
///
/// gguf-rs-lib keeps a hash map, whose order differs between runs; a file must be the same each time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
}

impl Metadata {
    /// No pairs.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// Sets `key`, in place if it is there, else at the end.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.pairs.iter_mut().find(|(k, _)| *k == key) {
            Some((_, v)) => *v = value,
            None => self.pairs.push((key, value)),
        }
    }

    /// Takes `key` out.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let at = self.pairs.iter().position(|(k, _)| k == key)?;
        Some(self.pairs.remove(at).1)
    }

    /// Brings the pairs into the order of `keys`; those not among them go last, in the order they had.
    pub fn sort_like<'k>(&mut self, keys: impl IntoIterator<Item = &'k str>) {
        let places: HashMap<&str, usize> = keys.into_iter().zip(0..).collect();
        self.pairs.sort_by_key(|(key, _)| places.get(key.as_str()).copied().unwrap_or(usize::MAX));
    }

    /// Without what is said of one file's layout: its alignment, and its place in a set of shards. Another file with
    /// the same metadata has a layout of its own.
    #[must_use]
    pub fn without_layout(&self) -> Metadata {
        let kept = self.pairs.iter().filter(|(key, _)| !is_layout(key));
        Metadata { pairs: kept.cloned().collect() }
    }

    /// Pairs in file order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// A string value.
    pub fn string(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// A non-negative integer of any width.
    pub fn unsigned(&self, key: &str) -> Option<usize> {
        integer(self.get(key)?)?.try_into().ok()
    }

    /// A number. Some tools write a whole one as an integer.
    pub fn float(&self, key: &str) -> Option<f32> {
        let value = self.get(key)?;
        value.as_f64().or_else(|| Some(integer(value)? as f64)).map(|number| number as f32)
    }

    /// The array at `key`.
    pub fn array(&self, key: &str) -> Option<&MetadataArray> {
        match self.get(key)? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Number of elements of the array at `key`.
    pub fn array_len(&self, key: &str) -> Option<usize> {
        Some(self.array(key)?.values.len())
    }

    /// The strings of the string array at `key`.
    pub fn strings(&self, key: &str) -> Option<Vec<&str>> {
        self.array(key)?.values.iter().map(Value::as_str).collect()
    }
}

/// Whether a key says how one file is laid out.
pub fn is_layout(key: &str) -> bool {
    key == ALIGNMENT_KEY || key.starts_with("split.")
}

/// An integer of any width, signed or not: tools differ in what they write.
pub fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_u64()?.try_into().ok())
}

/// A GGUF array of strings.
pub fn string_array(strings: impl IntoIterator<Item = String>) -> Value {
    array(ValueType::String, strings.into_iter().map(Value::String).collect())
}

/// A GGUF array of i32.
pub fn i32_array(numbers: impl IntoIterator<Item = i32>) -> Value {
    array(ValueType::I32, numbers.into_iter().map(Value::I32).collect())
}

fn array(element_type: ValueType, values: Vec<Value>) -> Value {
    let array = MetadataArray::new(element_type, values).expect("elements are of the one type");
    Value::Array(Box::new(array))
}

impl FromIterator<(String, Value)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (String, Value)>>(pairs: I) -> Metadata {
        let mut metadata = Metadata::new();
        metadata.pairs.extend(pairs);
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_take_the_order_of_other_keys_and_the_rest_stays() {
        let mut metadata = Metadata::new();
        for key in ["a", "b", "c", "d"] {
            metadata.set(key, Value::Bool(true));
        }
        metadata.sort_like(["d", "unknown", "b"]);
        assert!(metadata.iter().map(|(key, _)| key).eq(["d", "b", "a", "c"]));
    }
}
