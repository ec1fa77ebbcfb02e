//! Arguments by place and by name, as Python's functions take them.

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};

/// The arguments of one call, in the order of the function's parameters.
pub(super) struct Arguments {
    values: Vec<Option<Value>>,
}

impl Arguments {
    /// Assigns `args` to `names`.
    ///
    /// # Errors
    /// Too many, one given twice, or a name that is none of them.
    pub(super) fn new(args: &[Value], names: &[&str]) -> Result<Arguments, Error> {
        let (positional, named) = match args.split_last() {
            Some((last, rest)) if last.is_kwargs() => (rest, Some(Kwargs::try_from(last.clone())?)),
            _ => (args, None),
        };
        if positional.len() > names.len() {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        let mut values: Vec<Option<Value>> = positional.iter().cloned().map(Some).collect();
        values.resize(names.len(), None);
        for name in named.iter().flat_map(Kwargs::args) {
            let place =
                names.iter().position(|known| *known == name).filter(|place| values[*place].is_none());
            let place = place.ok_or_else(|| invalid(format!("unexpected argument `{name}`")))?;
            values[place] = named.as_ref().map(|named| named.get(name)).transpose()?;
        }
        Ok(Arguments { values })
    }

    /// An argument that is given and not None.
    pub(super) fn get(&self, place: usize) -> Option<&Value> {
        self.values[place].as_ref().filter(|value| !value.is_none())
    }

    /// An argument that has to be given.
    pub(super) fn required(&self, place: usize) -> Result<&Value, Error> {
        self.values[place].as_ref().ok_or_else(|| Error::from(ErrorKind::MissingArgument))
    }

    /// A string that has to be given.
    pub(super) fn text(&self, place: usize) -> Result<&str, Error> {
        let value = self.required(place)?;
        value.as_str().ok_or_else(|| invalid(format!("must be a string, not {}", value.kind())))
    }

    /// A string, if one is given.
    pub(super) fn optional_text(&self, place: usize) -> Result<Option<&str>, Error> {
        self.get(place).map(|_| self.text(place)).transpose()
    }

    /// A whole number, or its default.
    pub(super) fn number(&self, place: usize, default: i64) -> Result<i64, Error> {
        let Some(value) = self.get(place) else { return Ok(default) };
        whole(value).ok_or_else(|| invalid(format!("must be a whole number, not {}", value.kind())))
    }

    /// Whether a value is given that counts as true.
    pub(super) fn flag(&self, place: usize) -> bool {
        self.get(place).is_some_and(Value::is_true)
    }
}

/// A whole number; true is 1, as in Python.
pub(super) fn whole(value: &Value) -> Option<i64> {
    match value.kind() {
        minijinja::value::ValueKind::Bool => Some(i64::from(value.is_true())),
        _ if value.is_integer() => value.as_i64(),
        _ => None,
    }
}

/// An operation that its arguments do not allow.
pub(super) fn invalid(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}
