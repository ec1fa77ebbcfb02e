//! In what two lists of metadata differ.

use std::path::Path;

use plmconv_formats::gguf::{Metadata, Value};

use super::Difference;

/// Characters of a value that are shown.
const SHOWN: usize = 72;

/// The keys whose values differ, in the order of `found`, then what is missing.
pub fn differences(file: &Path, found: &Metadata, derived: &Metadata) -> Vec<Difference> {
    let of = |key: &str, found: Option<&Value>, derived: Option<&Value>| {
        let (key, found, derived) = match (found, derived) {
            (Some(Value::Array(a)), Some(Value::Array(b))) if a.values.len() == b.values.len() => {
                let at = a.values.iter().zip(&b.values).position(|(a, b)| a != b).unwrap_or(0);
                (format!("{key}[{at}]"), a.values.get(at), b.values.get(at))
            }
            _ => (key.to_string(), found, derived),
        };
        Difference::Metadata {
            file: file.to_path_buf(),
            key,
            found: found.map(shown),
            derived: derived.map(shown),
        }
    };
    let differing = found.iter().filter(|(key, value)| derived.get(key) != Some(*value));
    let missing = derived.iter().filter(|(key, _)| found.get(key).is_none());
    let differing = differing.map(|(key, value)| of(key, Some(value), derived.get(key)));
    differing.chain(missing.map(|(key, value)| of(key, None, Some(value)))).collect()
}

/// A value on one line, with its type.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("{text:?}"),
        Value::Array(array) => format!("{} values", array.values.len()),
        other => format!("{} ({:?})", other.to_string_representation(), other.value_type()),
    };
    if text.chars().count() <= SHOWN {
        return text;
    }
    let cut: String = text.chars().take(SHOWN - 1).collect();
    format!("{cut}…")
}

#[cfg(test)]
mod tests {
    use plmconv_formats::gguf::string_array;

    use super::*;

    #[test]
    fn what_differs_is_named_down_to_an_arrays_entry() {
        let list = |words: &[&str]| string_array(words.iter().map(|word| word.to_string()));
        let metadata = |pairs: Vec<(&str, Value)>| -> Metadata {
            pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect()
        };
        let found =
            metadata(vec![("n", Value::U32(1)), ("tokens", list(&["a", "b"])), ("own", Value::Bool(true))]);
        let derived =
            metadata(vec![("tokens", list(&["a", "\u{1b}c"])), ("n", Value::I32(1)), ("lost", list(&["a"]))]);
        let differences = differences(Path::new("f"), &found, &derived);
        let shown: Vec<_> = differences
            .iter()
            .map(|difference| match difference {
                Difference::Metadata { key, found, derived, .. } => {
                    let text = |side: &Option<String>| side.clone().unwrap_or_default();
                    format!("{key} {} {}", text(found), text(derived))
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(
            shown,
            ["n 1 (U32) 1 (I32)", r#"tokens[1] "b" "\u{1b}c""#, "own true (Bool) ", "lost  1 values"]
        );
    }
}
