//! One self-contained page: verdict, tables, plots as inline SVG. Nothing is loaded from anywhere.

use anyhow::{Result, anyhow};
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};

use super::{MEAN_KL, ValidationReport, plots};

const TEMPLATE: &str = include_str!("report.html.jinja");

pub fn render(r: &ValidationReport) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_filter("digits", |value: f64, digits: usize| format!("{value:.digits$}"));
    environment.add_filter("bytes", crate::report::human_bytes);
    environment.add_filter("percent_of", |value: f64, whole: f64| 100.0 * (value / whole).clamp(0.0, 1.0));
    environment.add_filter("visible", visible);
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
    });
    page.map_err(|e| anyhow!("the HTML report: {e}"))
}

/// White space of a token as signs, which otherwise nobody sees at its edges.
fn visible(token: &str) -> String {
    token.replace('\n', "↵").replace('\t', "⇥").replace(' ', "␣")
}
