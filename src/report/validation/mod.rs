//! The report of a comparison: one structure, several forms.

mod html;
mod junit;
mod markdown;
mod plots;
mod text;

use anyhow::Result;
use plmconv_validate::Arithmetic;
use plmconv_validate::divergence::{MatrixRounding, WorstToken};
use plmconv_validate::estimate::Estimate;
use serde::Serialize;

use super::figure;
use crate::evaluation::{Comparison, Description, ReferenceSide};

/// Version of the JSON form; raised when a key changes its meaning or goes. docs/validation.md describes it.
const SCHEMA: &str = "plmconv.validation/1";
/// Name of the check that the histogram marks.
const MEAN_KL: &str = "mean KL divergence";
/// What a report says of a reference that does not know all of its distribution.
const LOWER_BOUND: &str =
    "The reference stores only its most likely tokens, so the divergence is a lower bound.";
/// Stretches of the text whose divergence is averaged.
const STRETCHES: usize = 64;

/// All that any form shows. Its JSON is documented in docs/validation.md.
#[derive(Serialize)]
pub struct ValidationReport {
    pub schema: &'static str,
    pub version: &'static str,
    pub passed: bool,
    pub checks: Vec<Check>,
    pub candidate: SideReport,
    pub reference: SideReport,
    pub text: TextReport,
    pub tokens_scored: usize,
    pub perplexity: PerplexityReport,
    pub kl_divergence: KlReport,
    /// Whose arithmetic the candidate computes; none where a runtime ran it.
    pub arithmetic: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights_alone: Option<WeightsAlone>,
    pub top1_agreement: Value,
    pub probability_change: ProbabilityChange,
    pub histogram: Vec<Bin>,
    pub along_text: Vec<Stretch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<LayerReport>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matrices: Option<Vec<MatrixReport>>,
    pub worst_tokens: Vec<WorstReport>,
    pub seconds: f64,
    pub tokens_per_second: f64,
}

/// One limit.
#[derive(Serialize)]
pub struct Check {
    pub name: &'static str,
    pub value: f64,
    pub limit: f64,
    /// `at most` or `at least`
    pub relation: &'static str,
    pub passed: bool,
}

#[derive(Serialize)]
pub struct SideReport {
    pub path: String,
    pub format: &'static str,
    #[serde(rename = "type")]
    pub dtype: Option<String>,
    pub bits_per_weight: Option<f64>,
    pub tensor_bytes: Option<u64>,
}

#[derive(Serialize)]
pub struct TextReport {
    pub origin: &'static str,
    pub path: Option<String>,
    pub sha256: Option<String>,
    pub seed: Option<u64>,
    pub tokens: usize,
    pub ctx: usize,
    pub windows: usize,
}

#[derive(Clone, Copy, Serialize)]
pub struct Value {
    pub value: f64,
    pub standard_error: f64,
}

impl From<Estimate> for Value {
    fn from(estimate: Estimate) -> Value {
        Value { value: estimate.value, standard_error: estimate.error }
    }
}

#[derive(Serialize)]
pub struct PerplexityReport {
    pub candidate: Value,
    pub reference: Value,
    pub ratio: f64,
    pub log_ratio: Value,
    pub correlation: f64,
}

#[derive(Serialize)]
pub struct KlReport {
    /// The reference stores only its most likely tokens, so that all of these are lower bounds.
    pub lower_bound: bool,
    pub mean: f64,
    pub standard_error: f64,
    pub median: f64,
    pub p90: f64,
    pub p95: f64,
    pub p99: f64,
    pub p99_9: f64,
    pub max: f64,
}

/// The candidate in exact arithmetic: what its weights alone do.
#[derive(Serialize)]
pub struct WeightsAlone {
    pub kl_divergence: Value,
    pub perplexity_ratio: f64,
    pub top1_agreement: Value,
}

#[derive(Serialize)]
pub struct ProbabilityChange {
    pub rms: Value,
    pub mean: Value,
}

/// Tokens whose divergence lies in `[from, to)`; the bins are powers of ten in half steps.
#[derive(Serialize)]
pub struct Bin {
    pub from: f64,
    pub to: f64,
    pub tokens: usize,
}

/// Scored tokens `[first, first + tokens)` in the order of the text.
#[derive(Serialize)]
pub struct Stretch {
    pub first: usize,
    pub tokens: usize,
    pub mean: f64,
    pub max: f64,
}

#[derive(Serialize)]
pub struct LayerReport {
    pub layer: usize,
    pub relative_error: f64,
    pub added: f64,
}

/// What rounding of activations does to a matrix's product.
#[derive(Serialize)]
pub struct MatrixReport {
    pub matrix: String,
    pub relative_error: f64,
}

#[derive(Serialize)]
pub struct WorstReport {
    pub kl_divergence: f64,
    pub position: usize,
    pub context: String,
    pub token: String,
    pub top_reference: String,
    pub top_candidate: String,
    pub probability_reference: f64,
    pub probability_candidate: f64,
}

impl ValidationReport {
    pub fn new(c: &Comparison, reference_path: &std::path::Path) -> ValidationReport {
        let d = &c.divergence;
        let checks = checks(c);
        let layers = d.layers.as_ref().map(|layers| {
            let line = |l: &plmconv_validate::divergence::LayerDivergence| LayerReport {
                layer: l.layer,
                relative_error: l.relative_error,
                added: l.added,
            };
            layers.iter().map(line).collect()
        });
        ValidationReport {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            passed: checks.iter().all(|check| check.passed),
            checks,
            candidate: side(c.candidate.describe()),
            reference: match &c.reference {
                ReferenceSide::Model(model) => side(model.describe()),
                ReferenceSide::Stored(_) => SideReport {
                    path: reference_path.display().to_string(),
                    format: "stored outputs",
                    dtype: None,
                    bits_per_weight: None,
                    tensor_bytes: None,
                },
            },
            text: TextReport {
                origin: c.text.origin,
                path: c.text.path.as_ref().map(|p| p.display().to_string()),
                sha256: c.text.sha256.clone(),
                seed: c.text.seed,
                tokens: c.text.tokens,
                ctx: c.ctx,
                windows: c.windows,
            },
            tokens_scored: d.tokens_scored,
            perplexity: PerplexityReport {
                candidate: d.perplexity_candidate.into(),
                reference: d.perplexity_reference.into(),
                ratio: d.log_ratio.value.exp(),
                log_ratio: d.log_ratio.into(),
                correlation: d.correlation,
            },
            kl_divergence: KlReport {
                lower_bound: c.reference.knows_only_likely_tokens(),
                mean: d.kld.value,
                standard_error: d.kld.error,
                median: d.kld_median,
                p90: d.kld_p90,
                p95: d.kld_p95,
                p99: d.kld_p99,
                p99_9: d.kld_p999,
                max: d.kld_max,
            },
            arithmetic: c.candidate.arithmetic().map(Arithmetic::name),
            weights_alone: c.weights_alone.as_ref().map(|d| WeightsAlone {
                kl_divergence: d.kld.into(),
                perplexity_ratio: d.log_ratio.value.exp(),
                top1_agreement: d.same_top.into(),
            }),
            top1_agreement: d.same_top.into(),
            probability_change: ProbabilityChange {
                rms: d.rms_probability_change.into(),
                mean: d.mean_probability_change.into(),
            },
            histogram: histogram(&d.kld_by_token),
            along_text: along_text(&d.kld_by_token),
            layers,
            matrices: d.matrices.as_deref().map(matrices),
            worst_tokens: d.worst.iter().map(|w| worst(c, w)).collect(),
            seconds: c.elapsed.as_secs_f64(),
            tokens_per_second: c.tokens as f64 / c.elapsed.as_secs_f64().max(1e-9),
        }
    }

    /// What was exceeded, in one line.
    pub fn failures(&self) -> String {
        let failed = self.checks.iter().filter(|c| !c.passed);
        let lines: Vec<_> = failed
            .map(|c| format!("{} {} ({} {})", c.name, figure(c.value, 6), c.relation, c.limit))
            .collect();
        lines.join(", ")
    }

    /// Prints it on stdout.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            return super::print_json(self);
        }
        text::print(self);
        Ok(())
    }

    /// JUnit XML.
    ///
    /// # Errors
    /// A text that XML cannot hold.
    pub fn junit(&self) -> Result<String> {
        junit::render(self)
    }

    /// A short summary in Markdown.
    pub fn markdown(&self) -> String {
        markdown::render(self)
    }

    /// One self-contained page.
    ///
    /// # Errors
    /// A plot that cannot be drawn.
    pub fn html(&self) -> Result<String> {
        html::render(self)
    }
}

/// The divergence first, whose ideal is 0; that of the others is 1.
fn checks(c: &Comparison) -> Vec<Check> {
    let (d, limits) = (&c.divergence, c.limits);
    // What is not finite never passes, whatever the limit.
    let at_most = |name, value: f64, limit| Check {
        name,
        value,
        limit,
        relation: "at most",
        passed: value.is_finite() && value <= limit,
    };
    let top1 = d.same_top.value;
    vec![
        at_most(MEAN_KL, d.kld.value, limits.max_kld),
        at_most("perplexity ratio", d.log_ratio.value.exp(), limits.max_ppl_ratio),
        Check {
            name: "top-1 agreement",
            value: top1,
            limit: limits.min_top1,
            relation: "at least",
            passed: top1.is_finite() && top1 >= limits.min_top1,
        },
    ]
}

/// Those that lose most first.
fn matrices(found: &[MatrixRounding]) -> Vec<MatrixReport> {
    let mut reports: Vec<MatrixReport> = found
        .iter()
        .map(|m| MatrixReport { matrix: m.matrix.gguf_name(), relative_error: m.relative_error })
        .collect();
    reports.sort_by(|a, b| b.relative_error.total_cmp(&a.relative_error));
    reports
}

fn side(description: Description) -> SideReport {
    SideReport {
        path: description.path.display().to_string(),
        format: description.format,
        dtype: Some(description.dtype),
        bits_per_weight: Some(description.bits_per_weight),
        tensor_bytes: Some(description.tensor_bytes),
    }
}

fn worst(c: &Comparison, w: &WorstToken) -> WorstReport {
    let text = |id: u32| String::from_utf8_lossy(&c.candidate.tokenizer().token_bytes(id)).into_owned();
    WorstReport {
        kl_divergence: w.kld,
        position: w.position,
        context: c.candidate.tokenizer().decode(&w.context),
        token: text(w.token),
        top_reference: text(w.top_reference),
        top_candidate: text(w.top_candidate),
        probability_reference: w.probability_reference,
        probability_candidate: w.probability_candidate,
    }
}

/// Half decades from 1e-8 to 100; what lies below or above counts into the first or last bin, NaN into the last.
fn histogram(values: &[f32]) -> Vec<Bin> {
    const FIRST: i32 = -16;
    const LAST: i32 = 4;
    let edge = |half_decades: i32| 10f64.powf(half_decades as f64 / 2.0);
    let mut bins: Vec<Bin> =
        (FIRST..LAST).map(|i| Bin { from: edge(i), to: edge(i + 1), tokens: 0 }).collect();
    for &value in values {
        // NaN is below no end of a bin, so it counts as large.
        let below = |bin: &Bin| (value as f64) < bin.to;
        let index = bins.iter().position(below).unwrap_or(bins.len() - 1);
        bins[index].tokens += 1;
    }
    bins
}

fn along_text(values: &[f32]) -> Vec<Stretch> {
    let step = values.len().div_ceil(STRETCHES).max(1);
    let stretches = values.chunks(step).enumerate().map(|(i, chunk)| Stretch {
        first: i * step,
        tokens: chunk.len(),
        mean: chunk.iter().map(|x| *x as f64).sum::<f64>() / chunk.len() as f64,
        max: chunk.iter().fold(0.0, |m, &x| if x as f64 <= m { m } else { x as f64 }),
    });
    stretches.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_is_in_one_bin_and_one_stretch() {
        let values: Vec<f32> = (0..1000).map(|i| 1e-9 * 1.03f32.powi(i)).collect();
        let bins = histogram(&values);
        assert_eq!(bins.iter().map(|b| b.tokens).sum::<usize>(), 1000);
        let stretches = along_text(&values);
        assert_eq!(stretches.iter().map(|s| s.tokens).sum::<usize>(), 1000);
        assert!(stretches.len() <= STRETCHES);
    }

    #[test]
    fn nan_is_not_overlooked() {
        let values = [0.1, f32::NAN, f32::INFINITY, 1e-3];
        let bins = histogram(&values);
        assert_eq!(bins[bins.len() - 1].tokens, 2);
        let stretches = along_text(&values);
        assert_eq!(stretches.iter().filter(|s| !s.mean.is_finite()).count(), 2);
        assert!(stretches[1].max.is_nan() && stretches[2].max == f64::INFINITY);
    }
}
