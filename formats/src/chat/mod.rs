//! Chat templates: Jinja, rendered as transformers renders them, within limits.
//!
//! A template comes with a model, from anybody. It reads what it is given and nothing else, and it cannot take a machine
//! down: its length and its nesting are bounded before it is parsed (`scan`), its steps and the text it makes by the
//! engine's fuel. It runs on a thread of its own, whose stack suffices for what those allow, and which is given up after
//! a time: some of the engine's operations on lists (comparing, sorting, turning into text) cost no fuel.

mod arguments;
mod clock;
mod environment;
mod error;
mod methods;
mod python;
mod scan;
mod text;
mod tojson;

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use chrono::{Local, NaiveDateTime};
use minijinja::value::Serde;
use minijinja::{Error as EngineError, ErrorKind, Value};
use serde_json::{Map, Value as Json};

pub use error::TemplateError;

/// Steps of a template; 64 bytes of text cost as much as a step. None of seventy templates in use took 5,000 for a
/// conversation with tools.
const FUEL: u64 = 200_000;
/// Address space of the stack. A kilobyte a step is more than the deepest value that the fuel pays for needs; what is not
/// used takes no memory.
const STACK_BYTES: usize = 256 << 20;
/// Templates in use take milliseconds.
const TIME: Duration = Duration::from_millis(1500);

/// Renders a template with these variables, `messages` among them.
///
/// # Errors
/// A template that is malformed, fails, refuses the messages, or does more than a template may.
pub fn render(template: &str, variables: &Map<String, Json>) -> Result<String, TemplateError> {
    render_at(template, variables, Local::now().naive_local())
}

/// [`render`] at a given time, for `strftime_now`.
fn render_at(
    template: &str,
    variables: &Map<String, Json>,
    now: NaiveDateTime,
) -> Result<String, TemplateError> {
    let source = scan::prepare(template)?.into_owned();
    let variables = variables.clone();
    let failed = |detail: String| TemplateError::Failed { detail };
    let (sender, receiver) = mpsc::channel();
    // Nobody waits for a thread that is given up.
    let run = move || drop(sender.send(render_here(&source, &variables, now)));
    let thread = std::thread::Builder::new().name("chat template".into()).stack_size(STACK_BYTES);
    thread.spawn(run).map_err(|e| failed(format!("it has no thread to run in: {e}")))?;
    receiver.recv_timeout(TIME).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(TemplateError::limit("it takes too long")),
        RecvTimeoutError::Disconnected => Err(failed("the engine failed".into())),
    })
}

/// Everything that recurses with the template, so on the thread with the large stack.
fn render_here(
    source: &str,
    variables: &Map<String, Json>,
    now: NaiveDateTime,
) -> Result<String, TemplateError> {
    let refusal = environment::Refusal::default();
    let environment = environment::environment(refusal.clone(), now).map_err(|e| explain(&e))?;
    let rendered = environment.render_str(source, Value::from(Serde(variables)));
    rendered.map_err(|error| {
        refusal.message().map_or_else(|| explain(&error), |message| TemplateError::Refused { message })
    })
}

/// The engine's error in our words.
fn explain(error: &EngineError) -> TemplateError {
    let causes =
        std::iter::successors(Some(error), |e| std::error::Error::source(*e)?.downcast_ref::<EngineError>());
    if causes.clone().any(|cause| cause.kind() == ErrorKind::OutOfFuel) {
        return TemplateError::limit("it takes too many steps or makes too much text");
    }
    let cause = causes.last().unwrap_or(error);
    let line = cause.line().map(|line| format!("line {line}: ")).unwrap_or_default();
    let detail = cause.detail().map(|detail| format!(": {detail}")).unwrap_or_default();
    TemplateError::Failed { detail: format!("{line}{}{detail}", cause.kind()) }
}

#[cfg(test)]
mod tests;
