//! A summary for a pull request or a CI run's page.

use std::fmt::Write;

use super::{LOWER_BOUND, ValidationReport};
use crate::report::figure;
use crate::terminal::one_line;

pub fn render(r: &ValidationReport) -> String {
    let mut out = String::new();
    write_into(&mut out, r).expect("writing into a string succeeds");
    out
}

fn write_into(out: &mut String, r: &ValidationReport) -> std::fmt::Result {
    let verdict = if r.passed { "✅ passed" } else { "❌ failed" };
    writeln!(out, "### Parity {verdict}: {}\n", code(&r.candidate.path))?;
    writeln!(
        out,
        "against {}, {} tokens scored in {} windows of {} (text: {})\n",
        code(&r.reference.path),
        r.tokens_scored,
        r.text.windows,
        r.text.ctx,
        r.text.origin
    )?;
    if r.kl_divergence.lower_bound {
        writeln!(out, "{LOWER_BOUND}\n")?;
    }
    writeln!(out, "| check | found | limit | |\n|---|---:|---|---|")?;
    for c in &r.checks {
        let mark = if c.passed { "✅" } else { "❌" };
        writeln!(out, "| {} | {} | {} {} | {mark} |", c.name, figure(c.value, 6), c.relation, c.limit)?;
    }
    let (p, k) = (&r.perplexity, &r.kl_divergence);
    let with_error = |v: super::Value, digits| {
        format!("{} ± {}", figure(v.value, digits), figure(v.standard_error, digits))
    };
    writeln!(out, "\n| measure | value |\n|---|---:|")?;
    writeln!(out, "| perplexity, candidate | {} |", with_error(p.candidate, 4))?;
    writeln!(out, "| perplexity, reference | {} |", with_error(p.reference, 4))?;
    writeln!(out, "| ln(perplexity ratio) | {} |", with_error(p.log_ratio, 6))?;
    if let Some(alone) = &r.weights_alone {
        writeln!(out, "| KL divergence of the weights alone | {} |", with_error(alone.kl_divergence, 6))?;
    }
    let quantiles = [k.median, k.p90, k.p99, k.max].map(|x| figure(x, 6)).join(", ");
    writeln!(out, "| KL divergence: median, 90 %, 99 %, max | {quantiles} |")?;
    writeln!(out, "| RMS of probability change | {} |", figure(r.probability_change.rms.value, 6))
}

/// A name as code that nothing in it can end, also in a table: on one line, with a longer fence than any in it.
fn code(name: &str) -> String {
    let name = one_line(name).replace('|', "\\|");
    let longest = name.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest + 1);
    // A fence of several needs a space between it and a backtick; the page does not show one on each side.
    let space = if longest > 0 || name.starts_with(' ') { " " } else { "" };
    format!("{fence}{space}{name}{space}{fence}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_code() {
        assert_eq!(code("a/b.gguf"), "`a/b.gguf`");
        assert_eq!(code("a`b``c"), "``` a`b``c ```");
        assert_eq!(code("a\n| <img>\u{1b}"), "`a\\n\\| <img>\\u{1b}`");
    }
}
