//! JUnit XML: each limit is a test case.

use std::time::Duration;

use anyhow::Result;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::ValidationReport;

pub fn render(r: &ValidationReport) -> Result<String> {
    let mut suite = TestSuite::new(format!("{} against {}", r.candidate.path, r.reference.path));
    suite.set_time(Duration::from_secs_f64(r.seconds));
    for (key, value) in [
        ("plmconv.version", r.version.to_string()),
        ("tokens_scored", r.tokens_scored.to_string()),
        ("perplexity.candidate", r.perplexity.candidate.value.to_string()),
        ("perplexity.reference", r.perplexity.reference.value.to_string()),
    ] {
        suite.add_property((key, value.as_str()));
    }
    for check in &r.checks {
        let found = format!("{:.6}, {} {}", check.value, check.relation, check.limit);
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
