//! Methods of Python's strings, dictionaries and lists.
//!
//! transformers' sandbox forbids those that change a value, so they are unknown here.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use super::arguments::{Arguments, invalid};
use super::python::{Text, is_printable, pay, write_str};
use super::text::{self, Side, is_space};

/// Calls a method of a value that is not the engine's own.
///
/// # Errors
/// An unknown method, wrong arguments, or more work than the fuel pays for.
pub(super) fn call(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), value.kind()) {
        (Some(text), _) => {
            // What is searched or copied costs as much as what is made.
            pay(state, text.len())?;
            string_method(state, text, method, args)
        }
        (None, ValueKind::Map) => map_method(state, value, method, args),
        (None, ValueKind::Seq) => list_method(state, value, method, args),
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

fn string_method(state: &State<'_, '_>, text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    if let Some(value) = shaped(text, method) {
        Arguments::new(args, &[])?;
        return Ok(value);
    }
    match method {
        "strip" | "lstrip" | "rstrip" => strip(text, method, args),
        "split" | "rsplit" => {
            let args = Arguments::new(args, &["sep", "maxsplit"])?;
            let separator = args.optional_text(0)?;
            if separator == Some("") {
                return Err(invalid("empty separator"));
            }
            list(state, text::split(text, separator, args.number(1, -1)?, method == "rsplit"))
        }
        "splitlines" => list(state, text::split_lines(text, Arguments::new(args, &["keepends"])?.flag(0))),
        "partition" | "rpartition" => partition(text, method, args),
        "replace" => replace(state, text, args),
        "join" => join(state, text, args),
        "format" => str_format(state, text, args),
        "startswith" | "endswith" => affixed(text, method == "startswith", args),
        "removeprefix" => {
            let args = Arguments::new(args, &["prefix"])?;
            Ok(text.strip_prefix(args.text(0)?).unwrap_or(text).into())
        }
        "removesuffix" => {
            let args = Arguments::new(args, &["suffix"])?;
            Ok(text.strip_suffix(args.text(0)?).unwrap_or(text).into())
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(text, method, args),
        "ljust" | "rjust" | "center" => {
            let args = Arguments::new(args, &["width", "fillchar"])?;
            args.required(0)?;
            let mut fill = args.optional_text(1)?.unwrap_or(" ").chars();
            let (Some(fill), None) = (fill.next(), fill.next()) else {
                return Err(invalid("the fill character must be one character"));
            };
            let side = match method {
                "ljust" => Side::Left,
                "rjust" => Side::Right,
                _ => Side::Both,
            };
            text::pad(state, text, args.number(0, 0)?, fill, side)
        }
        "zfill" => {
            let width = Arguments::new(args, &["width"])?.number(0, 0)?;
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            let padded = text::pad(state, digits, width.saturating_sub(sign.len() as i64), '0', Side::Right)?;
            Ok(format!("{sign}{padded}").into())
        }
        _ => Err(Error::from(ErrorKind::UnknownMethod)),
    }
}

/// Methods without arguments.
fn shaped(text: &str, method: &str) -> Option<Value> {
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    let cased = |c: char| c.is_uppercase() || c.is_lowercase();
    Some(match method {
        "upper" => text.to_uppercase().into(),
        "lower" | "casefold" => text.to_lowercase().into(),
        "title" => text::title(text).into(),
        "capitalize" => text::capitalize(text).into(),
        "swapcase" => {
            let swap = |c: char| {
                if c.is_uppercase() { c.to_lowercase().to_string() } else { c.to_uppercase().to_string() }
            };
            text.chars().map(swap).collect::<String>().into()
        }
        "isupper" => (text.chars().any(cased) && !text.chars().any(char::is_lowercase)).into(),
        "islower" => (text.chars().any(cased) && !text.chars().any(char::is_uppercase)).into(),
        "istitle" => text::is_title(text).into(),
        "isspace" => all(is_space).into(),
        "isdecimal" => all(|c| c.is_ascii_digit()).into(),
        "isdigit" => all(|c| c.is_ascii_digit() || "²³¹⁰⁴⁵⁶⁷⁸⁹".contains(c)).into(),
        "isnumeric" => all(char::is_numeric).into(),
        "isalnum" => all(char::is_alphanumeric).into(),
        "isalpha" => all(char::is_alphabetic).into(),
        "isascii" => text.is_ascii().into(),
        "isprintable" => text.chars().all(is_printable).into(),
        _ => return None,
    })
}

fn strip(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(args, &["chars"])?;
    let chars = args.optional_text(0)?;
    let stripped = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if method == "rstrip" { text } else { text.trim_start_matches(stripped) };
    Ok(if method == "lstrip" { text } else { text.trim_end_matches(stripped) }.into())
}

fn partition(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(args, &["sep"])?;
    let separator = args.text(0)?;
    let found = if method == "partition" { text.split_once(separator) } else { text.rsplit_once(separator) };
    let (before, middle, after) = match (found, method) {
        _ if separator.is_empty() => return Err(invalid("empty separator")),
        (Some((before, after)), _) => (before, separator, after),
        (None, "partition") => (text, "", ""),
        (None, _) => ("", "", text),
    };
    Ok(Tuple::from([before.into(), middle.into(), after.into()]).into())
}

fn replace(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(args, &["old", "new", "count"])?;
    let (old, new) = (args.text(0)?, args.text(1)?);
    let limit = usize::try_from(args.number(2, -1)?).unwrap_or(usize::MAX);
    let places = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    pay(state, places.min(limit).saturating_mul(new.len()))?;
    Ok(text.replacen(old, new, limit).into())
}

fn join(state: &State<'_, '_>, separator: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(args, &["iterable"])?;
    let mut out = Text::new(state);
    for (i, item) in args.required(0)?.try_iter()?.checked().enumerate() {
        let item = item?;
        state.consume_fuel(1)?;
        out.push(if i == 0 { "" } else { separator })?;
        out.push(
            item.as_str()
                .ok_or_else(|| invalid(format!("only strings can be joined, not {}", item.kind())))?,
        )?;
    }
    Ok(out.text.into())
}

fn str_format(state: &State<'_, '_>, text: &str, args: &[Value]) -> Result<Value, Error> {
    pay_for_fields(state, text, '{', args)?;
    format(FormatStyle::StrFormat, text, args).map(Value::from)
}

/// Pays for what a format can make at most: each field, which begins with `sign`, may be as wide as any number in the
/// format says, or as long as the longest value.
pub(super) fn pay_for_fields(
    state: &State<'_, '_>,
    text: &str,
    sign: char,
    values: &[Value],
) -> Result<(), Error> {
    // A width may be a value, as in `{:{}}`.
    let widths = text.contains(":{");
    let mut longest = 0;
    for value in values {
        longest = longest.max(match value.as_i64() {
            Some(width) if widths => usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX),
            Some(_) => 0,
            None => {
                let mut out = Text::new(state);
                write_str(&mut out, value)?;
                out.text.len()
            }
        });
    }
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widest = numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).max().unwrap_or(0);
    // A float has some 300 digits at most.
    let field = longest.saturating_add(widest).saturating_add(320);
    pay(state, text.matches(sign).count().saturating_mul(field))
}

fn affixed(text: &str, at_start: bool, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(args, &["affix", "start", "end"])?;
    let text = slice(text, &args)?.1;
    let affix = args.required(0)?;
    let fits = |affix: &Value| match affix.as_str() {
        Some(affix) => Ok(if at_start { text.starts_with(affix) } else { text.ends_with(affix) }),
        None => Err(invalid(format!("must be a string or a tuple of strings, not {}", affix.kind()))),
    };
    if affix.kind() != ValueKind::Seq {
        return fits(affix).map(Value::from);
    }
    for affix in affix.try_iter()?.checked() {
        if fits(&affix?)? {
            return Ok(true.into());
        }
    }
    Ok(false.into())
}

/// `find` and the like; positions are counted in characters.
fn search(text: &str, method: &str, args: &[Value]) -> Result<Value, Error> {
    let args = Arguments::new(args, &["sub", "start", "end"])?;
    let wanted = args.text(0)?;
    let (first, text) = slice(text, &args)?;
    if method == "count" {
        return Ok(text.matches(wanted).count().into());
    }
    let found = if method.starts_with('r') { text.rfind(wanted) } else { text.find(wanted) };
    match found {
        Some(at) => Ok((first + text[..at].chars().count()).into()),
        None if method.ends_with("index") => Err(invalid("substring not found")),
        None => Ok((-1).into()),
    }
}

/// `text[start:end]` by the second and third argument, and where it begins.
fn slice<'t>(text: &'t str, args: &Arguments) -> Result<(usize, &'t str), Error> {
    if args.get(1).is_none() && args.get(2).is_none() {
        return Ok((0, text));
    }
    let length = text.chars().count();
    let place = |n: i64| {
        if n < 0 { length.saturating_sub(n.unsigned_abs() as usize) } else { (n as usize).min(length) }
    };
    let (start, end) = (place(args.number(1, 0)?), place(args.number(2, i64::MAX)?));
    let byte = |n: usize| text.char_indices().nth(n).map_or(text.len(), |(at, _)| at);
    Ok((start, if start < end { &text[byte(start)..byte(end)] } else { "" }))
}

fn map_method(state: &State<'_, '_>, map: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if method == "get" {
        let args = Arguments::new(args, &["key", "default"])?;
        let found =
            map.as_object().map(|object| args.required(0).map(|key| object.get_value(key))).transpose()?;
        return Ok(found.flatten().or(args.get(1).cloned()).unwrap_or(Value::from(())));
    }
    if !matches!(method, "keys" | "values" | "items" | "copy") {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    Arguments::new(args, &[])?;
    if method == "copy" {
        return Ok(map.clone());
    }
    let mut items = Vec::new();
    for key in map.try_iter()?.checked() {
        let key = key?;
        items.push(match method {
            "keys" => key,
            "values" => map.get_item(&key)?,
            _ => Tuple::from([key.clone(), map.get_item(&key)?]).into(),
        });
    }
    list(state, items)
}

fn list_method(state: &State<'_, '_>, seq: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    if method == "copy" {
        Arguments::new(args, &[])?;
        return Ok(seq.clone());
    }
    if !matches!(method, "count" | "index") {
        return Err(Error::from(ErrorKind::UnknownMethod));
    }
    let args = Arguments::new(args, &["value"])?;
    let wanted = args.required(0)?;
    let mut count = 0;
    for (i, item) in seq.try_iter()?.checked().enumerate() {
        state.consume_fuel(1)?;
        if item? == *wanted {
            if method == "index" {
                return Ok(i.into());
            }
            count += 1;
        }
    }
    if method == "index" { Err(invalid("the list does not hold it")) } else { Ok(count.into()) }
}

/// A list, each item paid for.
fn list(state: &State<'_, '_>, items: Vec<Value>) -> Result<Value, Error> {
    state.consume_fuel(items.len() as u64)?;
    Ok(items.into())
}
