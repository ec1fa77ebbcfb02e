//! Values as Python's `str` and `repr` write them.

use std::fmt::Write;

use minijinja::value::ValueKind;
use minijinja::{Error, State, Value};

use super::arguments::invalid;

/// Containers in containers that are written; more end in an error instead of a full stack.
pub(super) const MAX_DEPTH: usize = 100;
/// Bytes that one unit of fuel pays for.
const BYTES_PER_FUEL: usize = 64;

/// Text that is paid for with fuel while it grows, so that its length is bounded.
pub(super) struct Text<'s, 't, 'e> {
    pub(super) text: String,
    state: &'s State<'t, 'e>,
    unpaid: usize,
}

impl<'s, 't, 'e> Text<'s, 't, 'e> {
    pub(super) fn new(state: &'s State<'t, 'e>) -> Self {
        Text { text: String::new(), state, unpaid: 0 }
    }

    pub(super) fn push(&mut self, text: &str) -> Result<(), Error> {
        self.pay(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// `text` as often as `count` says.
    pub(super) fn repeat(&mut self, text: &str, count: usize) -> Result<(), Error> {
        self.pay(text.len().saturating_mul(count))?;
        self.text.extend(std::iter::repeat_n(text, count));
        Ok(())
    }

    fn pay(&mut self, bytes: usize) -> Result<(), Error> {
        self.unpaid = self.unpaid.saturating_add(bytes);
        if self.unpaid >= BYTES_PER_FUEL {
            self.state.consume_fuel((self.unpaid / BYTES_PER_FUEL) as u64)?;
            self.unpaid %= BYTES_PER_FUEL;
        }
        Ok(())
    }
}

/// Pays for work on `bytes` bytes.
pub(super) fn pay(state: &State<'_, '_>, bytes: usize) -> Result<(), Error> {
    state.consume_fuel((bytes / BYTES_PER_FUEL) as u64)
}

/// `str(value)`
pub(super) fn write_str(out: &mut Text<'_, '_, '_>, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.push(text),
        None if value.is_undefined() => Ok(()),
        None => write_repr(out, value, 0),
    }
}

/// `repr(value)`; `depth` says inside how many others.
pub(super) fn write_repr(out: &mut Text<'_, '_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid("values inside values, deeper than can be written"));
    }
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::Number if !value.is_integer() => {
            out.push(&float(f64::try_from(value.clone())?, ["inf", "-inf", "nan"]))
        }
        ValueKind::String => out.push(&quoted(value.as_str().unwrap_or_default())),
        // A list that is computed lazily is one, too.
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            out.push(open)?;
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                out.push(if count == 0 { "" } else { ", " })?;
                write_repr(out, &item?, depth + 1)?;
                count += 1;
            }
            out.push(if value.is_tuple() && count == 1 { "," } else { "" })?;
            out.push(close)
        }
        ValueKind::Map => {
            let (open, close) = if is_namespace(value) { ("<Namespace {", "}>") } else { ("{", "}") };
            out.push(open)?;
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push(if i == 0 { "" } else { ", " })?;
                write_repr(out, &key, depth + 1)?;
                out.push(": ")?;
                write_repr(out, &value.get_item(&key)?, depth + 1)?;
            }
            out.push(close)
        }
        // None, true, whole numbers; objects that Python writes with their address.
        _ => out.push(&value.to_string()),
    }
}

/// True for what `namespace()` gives.
pub(super) fn is_namespace(value: &Value) -> bool {
    value.as_object().is_some_and(|object| object.type_name().ends_with("::Namespace"))
}

/// `repr` of a float: the fewest digits that give the same number, an exponent below 1e-4 and from 1e16.
/// `special` is infinity, minus infinity and NaN.
pub(super) fn float(x: f64, special: [&str; 3]) -> String {
    if !x.is_finite() {
        return special[if x.is_nan() { 2 } else { usize::from(x < 0.0) }].into();
    }
    let scientific = format!("{x:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if x != 0.0 && !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{mantissa}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{x:?}"),
    }
}

/// `repr` of a string.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        let code = u32::from(c);
        let written = match c {
            '\\' => write!(out, "\\\\"),
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            _ if c == quote => write!(out, "\\{c}"),
            _ if is_printable(c) => write!(out, "{c}"),
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ if code < 0x10000 => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
        written.expect("writing into a string succeeds");
    }
    out.push(quote);
    out
}

/// `str.isprintable` of one character.
pub(super) fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Behind a letter, as `escape_debug` escapes a combining mark at the start of a text only.
    !c.is_whitespace() && ['a', c].iter().collect::<String>().escape_debug().count() == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats() {
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (1e100, "1e+100"),
            (123456789.125, "123456789.125"),
        ];
        for (x, text) in cases {
            assert_eq!(float(x, ["inf", "-inf", "nan"]), text);
        }
        assert_eq!(float(f64::NEG_INFINITY, ["inf", "-inf", "nan"]), "-inf");
    }

    #[test]
    fn strings() {
        assert_eq!(quoted("a'b"), "\"a'b\"");
        assert_eq!(quoted("'\""), "'\\'\"'");
        assert_eq!(quoted("ä\n\x1b\u{202e}\u{301}\u{a0}"), "'ä\\n\\x1b\\u202e\u{301}\\xa0'");
    }
}
