//! JUnit XML: each limit is a test case.

use std::time::Duration;

use anyhow::Result;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{LOWER_BOUND, MEAN_KL, ValidationReport};
use crate::report::{figure, finite};
use crate::terminal::one_line;

pub fn render(r: &ValidationReport) -> Result<String> {
    // XML has no name for most control characters, and a CI prints the rest.
    let name = format!("{} against {}", one_line(&r.candidate.path), one_line(&r.reference.path));
    let mut suite = TestSuite::new(name);
    suite.set_time(Duration::from_secs_f64(r.seconds));
    for (key, value) in [
        ("plmconv.version", r.version.to_string()),
        ("tokens_scored", r.tokens_scored.to_string()),
        ("perplexity.candidate", finite(r.perplexity.candidate.value, |p| p.to_string())),
        ("perplexity.reference", finite(r.perplexity.reference.value, |p| p.to_string())),
    ] {
        suite.add_property((key, value.as_str()));
    }
    for check in &r.checks {
        let mut found = format!("{}, {} {}", figure(check.value, 6), check.relation, check.limit);
        if check.name == MEAN_KL && r.kl_divergence.lower_bound {
            found = format!("{found}. {LOWER_BOUND}");
        }
        let status = if check.passed {
            TestCaseStatus::success()
        } else {
            let mut status = TestCaseStatus::non_success(NonSuccessKind::Failure);
            status.set_message(format!("{} is {found}", check.name));
            status
        };
        let mut case = TestCase::new(check.name, status);
        case.set_classname("plmconv.validate");
        case.set_system_out(found);
        suite.add_test_case(case);
    }
    let mut report = Report::new("plmconv validate");
    report.add_test_suite(suite);
    Ok(report.to_string()?)
}
