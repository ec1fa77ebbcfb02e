//! Metadata values as users spell them.

use std::str::FromStr;

use anyhow::Result;
use plmconv_formats::gguf::{Value, ValueType};

use crate::error::UsageError;

/// Types by name; llama.cpp's `--override-kv` says int, float, bool and str.
const TYPES: [(&str, ValueType); 14] = [
    ("u8", ValueType::U8),
    ("i8", ValueType::I8),
    ("u16", ValueType::U16),
    ("i16", ValueType::I16),
    ("u32", ValueType::U32),
    ("i32", ValueType::I32),
    ("u64", ValueType::U64),
    ("i64", ValueType::I64),
    ("int", ValueType::I64),
    ("f32", ValueType::F32),
    ("float", ValueType::F32),
    ("f64", ValueType::F64),
    ("bool", ValueType::Bool),
    ("str", ValueType::String),
];

/// `TYPE:VALUE`, or a value of the type that is there; what is new and has no type is a string.
///
/// # Errors
/// A value that is none of its type, an array.
pub fn parse(key: &str, text: &str, before: Option<&Value>) -> Result<Value> {
    let named = text.split_once(':').and_then(|(name, rest)| {
        TYPES.iter().find(|(known, _)| *known == name).map(|(_, value_type)| (*value_type, rest))
    });
    let (value_type, text) =
        named.unwrap_or((before.map_or(ValueType::String, |value| value.value_type()), text));
    if value_type == ValueType::Array {
        let hint = "arrays can only be removed";
        return Err(UsageError::with_hint(format!("`{key}` is an array"), hint).into());
    }
    of_type(value_type, text).ok_or_else(|| {
        let name = TYPES.iter().find(|(_, known)| *known == value_type).map_or("value", |(name, _)| *name);
        let hint = format!("--set '{key}=TYPE:VALUE' gives it another type");
        UsageError::with_hint(format!("{key}: `{text}` is not a {name}"), hint).into()
    })
}

fn of_type(value_type: ValueType, text: &str) -> Option<Value> {
    fn number<T: FromStr>(text: &str, value: fn(T) -> Value) -> Option<Value> {
        text.parse().ok().map(value)
    }
    match value_type {
        ValueType::U8 => number(text, Value::U8),
        ValueType::I8 => number(text, Value::I8),
        ValueType::U16 => number(text, Value::U16),
        ValueType::I16 => number(text, Value::I16),
        ValueType::U32 => number(text, Value::U32),
        ValueType::I32 => number(text, Value::I32),
        ValueType::U64 => number(text, Value::U64),
        ValueType::I64 => number(text, Value::I64),
        ValueType::F32 => number(text, Value::F32),
        ValueType::F64 => number(text, Value::F64),
        ValueType::Bool => number(text, Value::Bool),
        ValueType::String => Some(Value::String(text.to_string())),
        ValueType::Array => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_said_or_taken_from_what_is_there() {
        let parse = |text: &str, before: Option<Value>| parse("key", text, before.as_ref()).ok();
        assert_eq!(parse("7", Some(Value::U32(1))), Some(Value::U32(7)));
        assert_eq!(parse("7", None), Some(Value::String("7".into())));
        assert_eq!(parse("int:7", None), Some(Value::I64(7)));
        assert_eq!(parse("bool:true", Some(Value::U32(1))), Some(Value::Bool(true)));
        assert_eq!(parse("str:u32:7", None), Some(Value::String("u32:7".into())));
        assert_eq!(parse("http://x", None), Some(Value::String("http://x".into())));
        assert_eq!(parse("0.5", Some(Value::F32(1.0))), Some(Value::F32(0.5)));
        for (text, before) in
            [("-1", Value::U32(1)), ("300", Value::U8(1)), ("yes", Value::Bool(true)), ("u32:", Value::U8(1))]
        {
            assert_eq!(parse(text, Some(before)), None, "{text}");
        }
    }
}
