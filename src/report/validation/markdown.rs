//! A summary for a pull request or a CI run's page.

use std::fmt::Write;

use super::ValidationReport;

pub fn render(r: &ValidationReport) -> String {
    let mut out = String::new();
    write_into(&mut out, r).expect("writing into a string succeeds");
    out
}

fn write_into(out: &mut String, r: &ValidationReport) -> std::fmt::Result {
    let verdict = if r.passed { "✅ passed" } else { "❌ failed" };
    writeln!(out, "### Parity {verdict}: `{}`\n", r.candidate.path)?;
    writeln!(
        out,
        "against `{}`, {} tokens scored in {} windows of {} (text: {})\n",
        r.reference.path, r.tokens_scored, r.text.windows, r.text.ctx, r.text.origin
    )?;
    writeln!(out, "| check | found | limit | |\n|---|---:|---|---|")?;
    for c in &r.checks {
        let mark = if c.passed { "✅" } else { "❌" };
        writeln!(out, "| {} | {:.6} | {} {} | {mark} |", c.name, c.value, c.relation, c.limit)?;
    }
    let (p, k) = (&r.perplexity, &r.kl_divergence);
    writeln!(out, "\n| measure | value |\n|---|---:|")?;
    let with_error = |v: super::Value| format!("{:.4} ± {:.4}", v.value, v.standard_error);
    writeln!(out, "| perplexity, candidate | {} |", with_error(p.candidate))?;
    writeln!(out, "| perplexity, reference | {} |", with_error(p.reference))?;
    writeln!(out, "| ln(perplexity ratio) | {:.6} ± {:.6} |", p.log_ratio.value, p.log_ratio.standard_error)?;
    writeln!(
        out,
        "| KL divergence: median, 90 %, 99 %, max | {:.6}, {:.6}, {:.6}, {:.6} |",
        k.median, k.p90, k.p99, k.max
    )?;
    writeln!(out, "| RMS of probability change | {:.6} |", r.probability_change.rms.value)
}
