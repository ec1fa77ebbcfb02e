//! One self-contained page: verdict, tables, plots as inline SVG. Nothing is loaded from anywhere.

use anyhow::{Result, anyhow};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context, escape_formatter};

use super::{LOWER_BOUND, MEAN_KL, ValidationReport, plots};
use crate::report::{figure, finite};
use crate::terminal::{one_line, visible};

const TEMPLATE: &str = include_str!("report.html.jinja");

pub fn render(r: &ValidationReport) -> Result<String> {
    let mut environment = Environment::new();
    // Signs for the direction of writing would work in the page as they do in a terminal.
    environment.set_formatter(|out, state, value| match value.as_str() {
        Some(text) if !value.is_safe() => escape_formatter(out, state, &Value::from(visible(text))),
        _ => escape_formatter(out, state, value),
    });
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    // A number that is not finite is null in JSON, which the template gets.
    environment
        .add_filter("digits", |value: Option<f64>, digits: usize| figure(value.unwrap_or(f64::NAN), digits));
    environment.add_filter("share", |value: Option<f64>, ideal: f64, limit: f64| share(value, ideal, limit));
    environment.add_filter("scientific", |value: Option<f64>| {
        finite(value.unwrap_or(f64::NAN), |value| format!("{value:.2e}"))
    });
    environment.add_filter("bytes", crate::report::human_bytes);
    environment.add_filter("visible", with_spaces);
    environment.add_filter("one_line", |text: &str| text.replace('\n', "↵"));
    environment.add_filter("probability", probability);
    environment.add_template("report.html", TEMPLATE)?;
    let plot = |svg: Result<String>| svg.map(Value::from_safe_string);
    let layers = match &r.layers {
        Some(layers) => plot(plots::layers(layers))?,
        None => Value::UNDEFINED,
    };
    let kl_limit = r.checks.iter().find(|c| c.name == MEAN_KL).map_or(f64::NAN, |c| c.limit);
    let page = environment.get_template("report.html")?.render(context! {
        r => Value::from(Serde(r)),
        histogram => plot(plots::histogram(&r.histogram, r.kl_divergence.mean, kl_limit))?,
        along_text => plot(plots::along_text(&r.along_text))?,
        layers => layers,
        lower_bound => LOWER_BOUND,
        date => chrono::Local::now().format("%Y-%m-%d").to_string(),
    });
    page.map_err(|e| anyhow!("the HTML report: {e}"))
}

/// How much of what is allowed is used up, in percent; all of it where that is not a number.
fn share(value: Option<f64>, ideal: f64, limit: f64) -> String {
    let used = (value.unwrap_or(f64::NAN) - ideal) / (limit - ideal);
    figure(if used.is_finite() { 100.0 * used.clamp(0.0, 1.0) } else { 100.0 }, 1)
}

/// A probability, so that a small one is not taken for none.
fn probability(value: Option<f64>) -> String {
    finite(value.unwrap_or(f64::NAN), |value| match value {
        value if value == 0.0 || value >= 5e-4 => figure(value, 4),
        value => format!("{value:.1e}"),
    })
}

/// A token with its white space made visible, which would not be seen at its edges.
fn with_spaces(token: &str) -> String {
    one_line(&token.replace('\n', "↵").replace('\t', "⇥").replace(' ', "␣")).into_owned()
}
