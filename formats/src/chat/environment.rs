//! What transformers offers to a template beside Jinja itself.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::NaiveDateTime;
use minijinja::filters;
use minijinja::formatting::{FormatStyle, format};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};
use minijinja_contrib::{filters::filesizeformat, globals};

use super::arguments::{Arguments, invalid, whole};
use super::methods::pay_for_fields;
use super::python::{MAX_DEPTH, Text, is_namespace, pay, write_repr, write_str};
use super::{FUEL, clock, methods, scan, text, tojson};

/// What the template told with `raise_exception`.
#[derive(Clone, Default)]
pub(super) struct Refusal(Arc<Mutex<Option<String>>>);

impl Refusal {
    pub(super) fn message(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn set(&self, message: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(message);
    }
}

/// transformers' environment, with our limits.
///
/// # Errors
/// None that a template could cause.
pub(super) fn environment(refusal: Refusal, now: NaiveDateTime) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(methods::call);
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) => Ok(out.write_str(text)?),
        None => Ok(out.write_str(&str_of(state, value)?)?),
    });
    // Jinja does not have it, and it would print everything.
    environment.remove_global("debug");
    environment.add_function(
        "raise_exception",
        move |state: &State<'_, '_>, message: Value| -> Result<Value, Error> {
            refusal.set(str_of(state, &message)?);
            Err(invalid("the template raised an exception"))
        },
    );
    environment.add_function("strftime_now", move |state: &State<'_, '_>, format: String| {
        pay(state, format.len().saturating_mul(32))?;
        Ok(clock::strftime(now, &format))
    });
    environment.add_function(scan::GENERATION, |state: &mut State<'_, '_>, named: Kwargs| {
        named.get::<Value>("caller")?.call(state, &[])
    });
    environment.add_filter(scan::ASSIGNED, |state: &State<'_, '_>, value: Value| {
        match is_namespace(&value) {
            true => Ok(value),
            false => contained(state, value),
        }
    });
    environment.add_filter(scan::ASSIGNED_ATTRIBUTE, contained);
    environment.add_filter("tojson", tojson::to_json);
    environment.add_filter(scan::JOINED, |state: &State<'_, '_>, value: Value| match is_container(&value) {
        true => str_of(state, &value).map(Value::from),
        false => Ok(value),
    });
    add_text_filters(&mut environment);
    environment.add_filter("center", |state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
        let args = Arguments::new(&args.into_values(), &["width"])?;
        text::pad(state, &str_of(state, &value)?, args.number(0, 80)?, ' ', text::Side::Both)
    });
    environment.add_filter("wordcount", |state: &State<'_, '_>, value: Value| {
        let in_word = |c: char| c.is_alphanumeric() || c == '_';
        Ok(Value::from(str_of(state, &value)?.split(|c| !in_word(c)).filter(|word| !word.is_empty()).count()))
    });
    environment.add_filter("truncate", |state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
        let args = Arguments::new(&args.into_values(), &["length", "killwords", "end", "leeway"])?;
        truncate(&str_of(state, &value)?, &args)
    });
    environment.add_filter("filesizeformat", filesizeformat);
    environment.add_filter("indent", indent);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("format", |state: &State<'_, '_>, text: Value, args: Rest<ValueOrKwargs>| {
        percent(state, &text, &args.into_values())
    });
    environment.add_filter(scan::PERCENT, |state: &State<'_, '_>, text: Value, operand: Value| {
        let operands = if operand.is_tuple() { operand.try_iter()?.collect() } else { vec![operand] };
        percent(state, &text, &operands)
    });
    environment.add_function("cycler", |state: &State<'_, '_>, items: Rest<Value>| {
        globals::cycler(items.0.into_iter().map(|item| contained(state, item)).collect::<Result<_, _>>()?)
    });
    environment
        .add_function("joiner", |separator: Option<String>| globals::joiner(separator.map(Value::from)));
    environment.add_test("callable", |value: Value| value.kind() == ValueKind::Plain);
    // None has no items, and text is a sequence.
    environment.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: Value| {
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Map | Seq | String | Undefined)
    });
    Ok(environment)
}

/// `repr(value)`
fn repr_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = Text::new(state);
    write_repr(&mut out, value, 0)?;
    Ok(out.text)
}

/// `str(value)`
fn str_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = Text::new(state);
    write_str(&mut out, value)?;
    Ok(out.text)
}

fn is_container(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable)
}

/// Filters that make text of any value: the engine's own do not pay for that.
fn add_text_filters(environment: &mut Environment<'static>) {
    environment.add_filter("string", |state: &State<'_, '_>, value: Value| str_of(state, &value));
    environment
        .add_filter("upper", |state: &State<'_, '_>, value: Value| Ok(str_of(state, &value)?.to_uppercase()));
    environment
        .add_filter("lower", |state: &State<'_, '_>, value: Value| Ok(str_of(state, &value)?.to_lowercase()));
    environment.add_filter("capitalize", |state: &State<'_, '_>, value: Value| {
        Ok(text::capitalize(&str_of(state, &value)?))
    });
    environment.add_filter("title", |state: &State<'_, '_>, value: Value| {
        Ok(filters::title(str_of(state, &value)?.into()))
    });
    environment.add_filter("trim", |state: &mut State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
        methods::call(state, &Value::from(str_of(state, &value)?), "strip", &args.into_values())
    });
    environment.add_filter(
        "replace",
        |state: &mut State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
            methods::call(state, &Value::from(str_of(state, &value)?), "replace", &args.into_values())
        },
    );
    environment.add_filter("pprint", |state: &State<'_, '_>, value: Value| repr_of(state, &value));
    environment.add_filter("join", join);
    let escape = |state: &State<'_, '_>, value: Value| {
        let signs = [('&', "&amp;"), ('<', "&lt;"), ('>', "&gt;"), ('"', "&#34;"), ('\'', "&#39;")];
        if value.is_safe() {
            return Ok(value);
        }
        let mut out = Text::new(state);
        for c in str_of(state, &value)?.chars() {
            let sign = signs.iter().find(|(sign, _)| *sign == c);
            out.push(sign.map_or(&*c.encode_utf8(&mut [0; 4]), |(_, name)| name))?;
        }
        Ok(Value::from_safe_string(out.text))
    };
    environment.add_filter("e", escape);
    environment.add_filter("escape", escape);
    environment.add_filter("safe", |state: &State<'_, '_>, value: Value| {
        Ok(Value::from_safe_string(str_of(state, &value)?))
    });
}

/// Jinja's `join(d='', attribute=None)`
fn join(state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = Arguments::new(&args.into_values(), &["d", "attribute"])?;
    let separator = args.get(0).map(|separator| str_of(state, separator)).transpose()?.unwrap_or_default();
    let mut out = Text::new(state);
    for (i, item) in value.try_iter()?.checked().enumerate() {
        state.consume_fuel(1)?;
        out.push(if i == 0 { "" } else { &separator })?;
        let item = item?;
        match args.optional_text(1)? {
            Some(path) => write_str(&mut out, &attribute(&item, path)?)?,
            None => write_str(&mut out, &item)?,
        }
    }
    Ok(out.text.into())
}

/// The attribute at a path such as `function.name` or `0`.
fn attribute(value: &Value, path: &str) -> Result<Value, Error> {
    path.split('.').try_fold(value.clone(), |value, name| match name.parse::<usize>() {
        Ok(index) => value.get_item(&index.into()),
        Err(_) => value.get_attr(name),
    })
}

/// A value that may be put into another one that stays: lists are made of what is computed lazily, and neither a
/// namespace nor values of any depth are taken. So no value contains itself, which the engine would follow until the
/// stack ends.
fn contained(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => {
            let items = value.try_iter()?.checked().map(|item| {
                state.consume_fuel(1)?;
                item
            });
            Value::from(items.collect::<Result<Vec<_>, Error>>()?)
        }
        _ => value,
    };
    check_inside(state, &value, 0)?;
    Ok(value)
}

fn check_inside(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    if !is_container(value) {
        return Ok(());
    }
    if is_namespace(value) {
        return Err(invalid("a namespace is kept inside another value"));
    }
    if depth > MAX_DEPTH {
        return Err(invalid(format!("a value nested deeper than {MAX_DEPTH} levels cannot be kept")));
    }
    state.consume_fuel(1 + value.len().unwrap_or(0) as u64 / 8)?;
    for item in value.try_iter()?.checked() {
        let item = item?;
        if value.kind() == ValueKind::Map {
            check_inside(state, &value.get_item(&item)?, depth + 1)?;
        }
        check_inside(state, &item, depth + 1)?;
    }
    Ok(())
}

/// `text % values`
fn percent(state: &State<'_, '_>, text: &Value, values: &[Value]) -> Result<Value, Error> {
    let text = text.as_str().ok_or_else(|| invalid("a format must be a string"))?;
    pay_for_fields(state, text, '%', values)?;
    format(FormatStyle::Printf, text, values).map(Value::from)
}

/// Jinja's `indent(width=4, first=False, blank=False)`; the width may be a string.
fn indent(state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = Arguments::new(&args.into_values(), &["width", "first", "blank"])?;
    let mut indent = Text::new(state);
    match args.get(0).and_then(Value::as_str) {
        Some(text) => indent.push(text)?,
        None => indent.repeat(" ", usize::try_from(args.number(0, 4)?).unwrap_or(0))?,
    }
    text::indent(state, &str_of(state, &value)?, &indent.text, args.flag(1), args.flag(2))
}

/// Jinja's `int(default=0, base=10)`
fn int(value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = Arguments::new(&args.into_values(), &["default", "base"])?;
    let base = u32::try_from(args.number(1, 10)?).ok().filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| invalid("the base must be from 2 to 36"))?;
    let truncated = |x: f64| (x.is_finite() && x.abs() < i64::MAX as f64).then_some(x as i64);
    let found = match value.as_str() {
        Some(digits) => text::integer(digits, base).or_else(|| truncated(text::number(digits)?)),
        None if value.is_integer() => return Ok(value),
        None => whole(&value).or_else(|| truncated(f64::try_from(value).ok()?)),
    };
    Ok(found.map_or_else(|| args.get(0).cloned().unwrap_or(0.into()), Value::from))
}

/// Jinja's `float(default=0.0)`
fn float(value: Value, args: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let args = Arguments::new(&args.into_values(), &["default"])?;
    let found = match value.as_str() {
        Some(digits) => text::number(digits),
        None => whole(&value).map(|whole| whole as f64).or_else(|| f64::try_from(value).ok()),
    };
    Ok(found.map_or_else(|| args.get(0).cloned().unwrap_or(0.0.into()), Value::from))
}

/// Jinja's `truncate(length=255, killwords=False, end='...', leeway=5)`
fn truncate(text: &str, args: &Arguments) -> Result<Value, Error> {
    let end = args.optional_text(2)?.unwrap_or("...");
    let length = usize::try_from(args.number(0, 255)?).unwrap_or(0);
    let leeway = usize::try_from(args.number(3, 5)?).unwrap_or(0);
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept = length.checked_sub(end.chars().count());
    let kept = kept.ok_or_else(|| invalid("the length is shorter than what marks the end"))?;
    let cut: String = text.chars().take(kept).collect();
    let words = cut.rsplit_once(' ').filter(|_| !args.flag(1)).map_or(cut.as_str(), |(words, _)| words);
    Ok(format!("{words}{end}").into())
}
