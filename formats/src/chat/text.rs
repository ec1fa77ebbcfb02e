//! Python's ideas about text: what is white space, a line, a title.

use minijinja::{Error, State, Value};

use super::python::Text;

/// `str.isspace` of one character.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Where the text is in a wider field.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Left,
    Right,
    Both,
}

/// `str.ljust`, `str.rjust` and `str.center`
pub(super) fn pad(
    state: &State<'_, '_>,
    text: &str,
    width: i64,
    fill: char,
    side: Side,
) -> Result<Value, Error> {
    let length = text.chars().count();
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(length);
    let before = match side {
        Side::Left => 0,
        Side::Right => missing,
        // CPython's way of sharing out an odd number.
        Side::Both => missing / 2 + (missing & width & 1),
    };
    let fill = fill.to_string();
    let mut out = Text::new(state);
    out.repeat(&fill, before)?;
    out.push(text)?;
    out.repeat(&fill, missing - before)?;
    Ok(Value::from(out.text))
}

/// `str.split` and, from the right, `str.rsplit`. A negative limit is none.
pub(super) fn split(text: &str, separator: Option<&str>, limit: i64, from_right: bool) -> Vec<Value> {
    let limit = usize::try_from(limit).map_or(usize::MAX, |limit| limit.saturating_add(1));
    match (separator, from_right) {
        (Some(separator), false) => text.splitn(limit, separator).map(Value::from).collect(),
        (Some(separator), true) => {
            let mut parts: Vec<Value> = text.rsplitn(limit, separator).map(Value::from).collect();
            parts.reverse();
            parts
        }
        (None, false) => split_words(text, limit),
        (None, true) => rsplit_words(text, limit),
    }
}

/// Words; the last is all that is left where there are more than `limit`.
fn split_words(text: &str, limit: usize) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() + 1 >= limit {
            parts.push(Value::from(rest));
            break;
        }
        let (word, behind) = rest.split_at(rest.find(is_space).unwrap_or(rest.len()));
        parts.push(Value::from(word));
        rest = behind.trim_start_matches(is_space);
    }
    parts
}

fn rsplit_words(text: &str, limit: usize) -> Vec<Value> {
    let mut parts = Vec::new();
    let mut rest = text.trim_end_matches(is_space);
    while !rest.is_empty() {
        if parts.len() + 1 >= limit {
            parts.push(Value::from(rest));
            break;
        }
        let begin =
            rest.char_indices().rev().find(|(_, c)| is_space(*c)).map_or(0, |(at, c)| at + c.len_utf8());
        parts.push(Value::from(&rest[begin..]));
        rest = rest[..begin].trim_end_matches(is_space);
    }
    parts.reverse();
    parts
}

/// `str.splitlines`
pub(super) fn split_lines(text: &str, keep_ends: bool) -> Vec<Value> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let sign = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(Value::from(&rest[..if keep_ends { at + sign } else { at }]));
        rest = &rest[at + sign..];
    }
    if !rest.is_empty() {
        lines.push(Value::from(rest));
    }
    lines
}

/// Jinja's `indent`.
pub(super) fn indent(
    state: &State<'_, '_>,
    text: &str,
    indent: &str,
    first: bool,
    blank: bool,
) -> Result<Value, Error> {
    let mut out = Text::new(state);
    // With one more line end, as Jinja does it: a line end at the end of the text stays.
    let mut lines = split_lines(&format!("{text}\n"), false).into_iter();
    let head = lines.next().unwrap_or_default();
    out.push(if first { indent } else { "" })?;
    out.push(head.as_str().unwrap_or_default())?;
    for line in lines {
        let line = line.as_str().unwrap_or_default();
        out.push("\n")?;
        out.push(if blank || !line.is_empty() { indent } else { "" })?;
        out.push(line)?;
    }
    Ok(Value::from(out.text))
}

/// `int(text, base)`
pub(super) fn integer(text: &str, base: u32) -> Option<i64> {
    let text = text.trim_matches(is_space).replace('_', "");
    let (sign, digits) = text.strip_prefix('-').map_or((1, text.trim_start_matches('+')), |rest| (-1, rest));
    let prefix = match base {
        16 => "0x",
        8 => "0o",
        2 => "0b",
        _ => "",
    };
    let lower = digits.to_ascii_lowercase();
    let digits = lower.strip_prefix(prefix).unwrap_or(&lower);
    if digits.starts_with(['+', '-']) {
        return None;
    }
    i64::from_str_radix(digits, base).ok()?.checked_mul(sign)
}

/// `float(text)`
pub(super) fn number(text: &str) -> Option<f64> {
    text.trim_matches(is_space).parse().ok()
}

/// `str.title`: what follows a letter is small, what does not is large.
pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase())
        } else {
            out.extend(c.to_uppercase())
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    out
}

/// `str.capitalize`
pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect())
        .unwrap_or_default()
}

/// `str.istitle`
pub(super) fn is_title(text: &str) -> bool {
    text.chars().any(|c| c.is_uppercase() || c.is_lowercase()) && title(text) == text
}
