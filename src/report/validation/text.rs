//! For people at a terminal.

use super::{LOWER_BOUND, ValidationReport, WorstReport};
use crate::report::{Table, figure, finite};
use crate::terminal::one_line;

/// Worst tokens and matrices shown; the other forms have all.
const SHOWN: usize = 8;
/// Characters of context shown.
const CONTEXT: usize = 48;

pub fn print(r: &ValidationReport) {
    say!("{}: {}", if r.passed { "PASS" } else { "FAIL" }, one_line(&r.candidate.path));
    say!("against {}", one_line(&r.reference.path));
    let bits = r.candidate.bits_per_weight.map_or("?".into(), |bits| figure(bits, 2));
    say!(
        "{} tokens scored in {} windows of {} (text: {}); limits for {bits} bits per weight{}\n",
        r.tokens_scored,
        r.text.windows,
        r.text.ctx,
        r.text.origin,
        r.arithmetic.map_or(String::new(), |whose| format!("; {whose} arithmetic"))
    );
    let mut checks = Table::new(&["check", "found", "limit", ""], &[1]);
    for c in &r.checks {
        let verdict = if c.passed { "ok" } else { "FAILED" };
        let limit = format!("{} {}", c.relation, c.limit);
        checks.add_row([c.name, &figure(c.value, 6), &limit, verdict]);
    }
    checks.print();
    if r.kl_divergence.lower_bound {
        say!("\n{LOWER_BOUND}");
    }
    say!();
    print_statistics(r);
    if let Some(layers) = &r.layers {
        say!();
        let mut rows = Table::new(&["layer", "relative error", "added"], &[0, 1, 2]);
        for l in layers {
            rows.add_row([
                l.layer.to_string(),
                finite(l.relative_error, |x| format!("{x:.3e}")),
                finite(l.added, |x| format!("{x:+.3e}")),
            ]);
        }
        rows.print();
    }
    if let Some(matrices) = &r.matrices {
        say!("\nmatrices whose products lose most where activations are rounded");
        let mut rows = Table::new(&["matrix", "relative error"], &[1]);
        for m in matrices.iter().take(SHOWN) {
            rows.add_row([
                one_line(&m.matrix).into_owned(),
                finite(m.relative_error, |x| format!("{x:.3e}")),
            ]);
        }
        rows.print();
    }
    if !r.worst_tokens.is_empty() {
        say!("\ntokens that diverge most");
        r.worst_tokens.iter().take(SHOWN).for_each(print_worst);
    }
    say!("\n{:.1} s, {:.1} tokens/s through both", r.seconds, r.tokens_per_second);
}

fn print_statistics(r: &ValidationReport) {
    let mut rows = Table::new(&["measure", "value", "± error"], &[1, 2]);
    let mut row = |name: &str, value: f64, error: Option<f64>| {
        rows.add_row([name.to_string(), figure(value, 6), error.map(|e| figure(e, 6)).unwrap_or_default()]);
    };
    let (p, k, change) = (&r.perplexity, &r.kl_divergence, &r.probability_change);
    row("perplexity, candidate", p.candidate.value, Some(p.candidate.standard_error));
    row("perplexity, reference", p.reference.value, Some(p.reference.standard_error));
    row("ln(perplexity ratio)", p.log_ratio.value, Some(p.log_ratio.standard_error));
    row("KL divergence, mean", k.mean, Some(k.standard_error));
    if let Some(alone) = &r.weights_alone {
        let kl = &alone.kl_divergence;
        row("  of the weights alone", kl.value, Some(kl.standard_error));
    }
    row("KL divergence, median", k.median, None);
    row("KL divergence, 90 %", k.p90, None);
    row("KL divergence, 95 %", k.p95, None);
    row("KL divergence, 99 %", k.p99, None);
    row("KL divergence, 99.9 %", k.p99_9, None);
    row("KL divergence, max", k.max, None);
    row("top-1 agreement", r.top1_agreement.value, Some(r.top1_agreement.standard_error));
    row("RMS of probability change", change.rms.value, Some(change.rms.standard_error));
    row("mean of probability change", change.mean.value, Some(change.mean.standard_error));
    rows.print();
}

fn print_worst(w: &WorstReport) {
    let skipped = w.context.chars().count().saturating_sub(CONTEXT);
    let context: String = w.context.chars().skip(skipped).collect();
    say!(
        "  {:8.4}  {:?} then {:?}: p {:.4} -> {:.4}; most likely {:?} -> {:?}",
        w.kl_divergence,
        context,
        w.token,
        w.probability_reference,
        w.probability_candidate,
        w.top_reference,
        w.top_candidate
    );
}
