//! What transformers offers to a template beside Jinja itself.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::NaiveDateTime;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};

use super::arguments::{Arguments, invalid};
use super::python::{MAX_DEPTH, Text, is_namespace, pay, write_str};
use super::{FUEL, clock, json, methods, scan, text};

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
    environment.add_function("raise_exception", move |state: &State<'_, '_>, message: Value| -> Result<Value, Error> {
        refusal.set(str_of(state, &message)?);
        Err(invalid("the template raised an exception"))
    });
    environment.add_function("strftime_now", move |state: &State<'_, '_>, format: String| {
        pay(state, format.len().saturating_mul(32))?;
        Ok(clock::strftime(now, &format))
    });
    environment.add_function(scan::GENERATION, |state: &mut State<'_, '_>, named: Kwargs| {
        named.get::<Value>("caller")?.call(state, &[])
    });
    environment.add_filter(scan::ASSIGNED, assigned);
    environment.add_filter("tojson", json::to_json);
    environment.add_filter("string", |state: &State<'_, '_>, value: Value| str_of(state, &value));
    environment.add_filter("center", |state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
        let args = Arguments::new(&args.into_values(), &["width"])?;
        text::pad(state, &str_of(state, &value)?, args.number(0, 80)?, ' ', text::Side::Both)
    });
    environment.add_filter("wordcount", |state: &State<'_, '_>, value: Value| {
        Ok(Value::from(str_of(state, &value)?.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).count()))
    });
    environment.add_filter("truncate", |state: &State<'_, '_>, value: Value, args: Rest<ValueOrKwargs>| {
        let args = Arguments::new(&args.into_values(), &["length", "killwords", "end", "leeway"])?;
        truncate(&str_of(state, &value)?, &args)
    });
    environment.add_test("callable", |value: Value| value.kind() == ValueKind::Plain);
    // None has no items, and text is a sequence.
    environment.add_test("iterable", |value: Value| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: Value| {
        use ValueKind::{Map, Seq, String, Undefined};
        matches!(value.kind(), Map | Seq | String | Undefined)
    });
    Ok(environment)
}

fn str_of(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    let mut out = Text::new(state);
    write_str(&mut out, value)?;
    Ok(out.text)
}

/// A value that is assigned to a name or a namespace: lists are made of what is computed lazily, and neither a
/// namespace inside a namespace nor values of any depth are taken. So no value contains itself, which the engine would
/// follow until the stack ends.
fn assigned(state: &State<'_, '_>, value: Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::Iterable {
        let items = value.try_iter()?.checked().map(|item| {
            state.consume_fuel(1)?;
            item
        });
        let list = Value::from(items.collect::<Result<Vec<_>, Error>>()?);
        check_inside(state, &list, 0)?;
        return Ok(list);
    }
    check_inside(state, &value, 0)?;
    Ok(value)
}

fn check_inside(state: &State<'_, '_>, value: &Value, depth: usize) -> Result<(), Error> {
    let nested = matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable);
    if !nested || depth == 0 && is_namespace(value) {
        return Ok(());
    }
    if is_namespace(value) {
        return Err(invalid("a namespace inside another value is assigned"));
    }
    if depth > MAX_DEPTH {
        return Err(invalid(format!("a value of more than {MAX_DEPTH} levels is assigned")));
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

/// Jinja's `truncate`.
fn truncate(text: &str, args: &Arguments) -> Result<Value, Error> {
    let end = args.optional_text(2)?.unwrap_or("...");
    let length = usize::try_from(args.number(0, 255)?).unwrap_or(0);
    let leeway = usize::try_from(args.number(3, 5)?).unwrap_or(0);
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into());
    }
    let kept = length.checked_sub(end.chars().count()).ok_or_else(|| invalid("length is shorter than the end"))?;
    let cut: String = text.chars().take(kept).collect();
    let whole_words = if args.flag(1) { &cut } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(words, _)| words) };
    Ok(format!("{whole_words}{end}").into())
}
