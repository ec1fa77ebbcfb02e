//! `tojson` as transformers defines it: Python's `json.dumps`.

use std::fmt::Write;

use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Error, State, Value};

use super::arguments::{Arguments, invalid, whole};
use super::python::{MAX_DEPTH, Text, float};

/// The filter: `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
///
/// # Errors
/// A value that JSON cannot hold, wrong arguments, or more text than the fuel pays for.
pub(super) fn to_json(
    state: &State<'_, '_>,
    value: Value,
    args: Rest<ValueOrKwargs>,
) -> Result<Value, Error> {
    let writer = Writer::new(&Arguments::new(
        &args.into_values(),
        &["ensure_ascii", "indent", "separators", "sort_keys"],
    )?)?;
    let mut out = Text::new(state);
    writer.write(&mut out, &value, 0)?;
    Ok(Value::from(out.text))
}

/// What comes before each item: a text, as often as the item is deep.
struct Indent {
    text: String,
    times: usize,
}

struct Writer {
    ensure_ascii: bool,
    indent: Option<Indent>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl Writer {
    fn new(args: &Arguments) -> Result<Writer, Error> {
        let indent = match args.get(1) {
            None => None,
            Some(text) if text.as_str().is_some() => Some(Indent { text: args.text(1)?.into(), times: 1 }),
            Some(number) => {
                let times =
                    whole(number).ok_or_else(|| invalid("indent must be a whole number or a string"))?;
                Some(Indent { text: " ".into(), times: times.max(0) as usize })
            }
        };
        let mut separators = (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string());
        if let Some(pair) = args.get(2) {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            let [item, key] = pair.as_slice() else { return Err(invalid("separators must be two strings")) };
            let text = |v: &Value| {
                v.as_str().map(str::to_string).ok_or_else(|| invalid("a separator must be a string"))
            };
            separators = (text(item)?, text(key)?);
        }
        let (item_separator, key_separator) = separators;
        Ok(Writer {
            ensure_ascii: args.flag(0),
            indent,
            item_separator,
            key_separator,
            sort_keys: args.flag(3),
        })
    }

    fn write(&self, out: &mut Text<'_, '_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(invalid("values inside values, deeper than JSON is written"));
        }
        match value.kind() {
            ValueKind::None => out.push("null"),
            ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push(&number(value)?),
            ValueKind::String => self.write_string(out, value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => self.write_list(out, value, depth),
            ValueKind::Map => self.write_map(out, value, depth),
            kind => Err(invalid(format!("{kind} is not JSON serializable"))),
        }
    }

    fn write_list(&self, out: &mut Text<'_, '_, '_>, list: &Value, depth: usize) -> Result<(), Error> {
        out.push("[")?;
        let mut empty = true;
        for item in list.try_iter()?.checked() {
            self.begin_item(out, empty, depth + 1)?;
            empty = false;
            self.write(out, &item?, depth + 1)?;
        }
        self.end_items(out, empty, depth)?;
        out.push("]")
    }

    fn write_map(&self, out: &mut Text<'_, '_, '_>, map: &Value, depth: usize) -> Result<(), Error> {
        let mut keys = map.try_iter()?.checked().collect::<Result<Vec<Value>, _>>()?;
        if self.sort_keys {
            keys.sort();
        }
        out.push("{")?;
        for (i, key) in keys.iter().enumerate() {
            self.begin_item(out, i == 0, depth + 1)?;
            match key.kind() {
                ValueKind::String => self.write_string(out, key.as_str().unwrap_or_default())?,
                ValueKind::Number => self.write_string(out, &number(key)?)?,
                ValueKind::Bool | ValueKind::None => {
                    out.push("\"")?;
                    self.write(out, key, depth + 1)?;
                    out.push("\"")?;
                }
                kind => return Err(invalid(format!("keys must be strings or numbers, not {kind}"))),
            }
            out.push(&self.key_separator)?;
            self.write(out, &map.get_item(key)?, depth + 1)?;
        }
        self.end_items(out, keys.is_empty(), depth)?;
        out.push("}")
    }

    fn begin_item(&self, out: &mut Text<'_, '_, '_>, first: bool, depth: usize) -> Result<(), Error> {
        if !first {
            out.push(&self.item_separator)?;
        }
        self.line(out, depth)
    }

    fn end_items(&self, out: &mut Text<'_, '_, '_>, empty: bool, depth: usize) -> Result<(), Error> {
        if empty { Ok(()) } else { self.line(out, depth) }
    }

    fn line(&self, out: &mut Text<'_, '_, '_>, depth: usize) -> Result<(), Error> {
        let Some(Indent { text, times }) = &self.indent else { return Ok(()) };
        out.push("\n")?;
        out.repeat(text, times.saturating_mul(depth))
    }

    fn write_string(&self, out: &mut Text<'_, '_, '_>, text: &str) -> Result<(), Error> {
        let mut escaped = String::with_capacity(text.len() + 2);
        escaped.push('"');
        for c in text.chars() {
            match c {
                '"' => escaped.push_str("\\\""),
                '\\' => escaped.push_str("\\\\"),
                '\n' => escaped.push_str("\\n"),
                '\r' => escaped.push_str("\\r"),
                '\t' => escaped.push_str("\\t"),
                '\u{8}' => escaped.push_str("\\b"),
                '\u{c}' => escaped.push_str("\\f"),
                c if c < ' ' || self.ensure_ascii && c > '~' => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(escaped, "\\u{unit:04x}").expect("writing into a string succeeds");
                    }
                }
                c => escaped.push(c),
            }
        }
        escaped.push('"');
        out.push(&escaped)
    }
}

fn number(value: &Value) -> Result<String, Error> {
    if value.is_integer() {
        return Ok(value.to_string());
    }
    Ok(float(f64::try_from(value.clone())?, ["Infinity", "-Infinity", "NaN"]))
}
