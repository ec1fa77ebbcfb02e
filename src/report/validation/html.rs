//! One self-contained page: verdict, tables, plots as inline SVG. Nothing is loaded from anywhere.

use anyhow::{Result, anyhow};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};

use super::{ValidationReport, plots};

const TEMPLATE: &str = include_str!("report.html.jinja");

pub fn render(r: &ValidationReport) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("digits", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_template("report.html", TEMPLATE)?;
    let plot = |svg: Result<String>| svg.map(Value::from_safe_string);
    let layers = match &r.layers {
        Some(layers) => plot(plots::layers(layers))?,
        None => Value::UNDEFINED,
    };
    let page = environment.get_template("report.html")?.render(context! {
        r => Value::from(Serde(r)),
        histogram => plot(plots::histogram(&r.histogram))?,
        along_text => plot(plots::along_text(&r.along_text))?,
        layers => layers,
    });
    page.map_err(|e| anyhow!("the HTML report: {e}"))
}
