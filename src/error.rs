//! How a failure ends: the sentence, the hint, the exit code.

mod hint;
mod place;

use std::path::PathBuf;

use plmconv_calibrate::{Error as CalibrateError, Leftover};
use plmconv_quant::Error as QuantError;
use plmconv_validate::Error as ValidateError;

pub use place::{At, Place};

use crate::hub::HubError;
use crate::interrupt;
use crate::log::{Severity, log_with_hint};
use crate::verification::Verification;

/// A mistake in what the user typed; ends with exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct UsageError {
    message: String,
    hint: Option<String>,
}

impl UsageError {
    /// A usage error without a hint.
    pub fn new(message: impl Into<String>) -> UsageError {
        UsageError { message: message.into(), hint: None }
    }

    /// A usage error that says what to type instead.
    pub fn with_hint(message: impl Into<String>, hint: impl Into<String>) -> UsageError {
        UsageError { message: message.into(), hint: Some(hint.into()) }
    }
}

/// The user pressed Ctrl-C, or the run was told to end by another signal.
pub fn interrupted(leftover: Leftover) -> anyhow::Error {
    CalibrateError::Interrupted(leftover).into()
}

/// What is left of the run, if it ended because it was [`interrupted`].
pub fn leftover(error: &anyhow::Error) -> Option<&Leftover> {
    match error.downcast_ref() {
        Some(CalibrateError::Interrupted(leftover)) => Some(leftover),
        _ if matches!(error.downcast_ref(), Some(ValidateError::Stopped)) => Some(&Leftover::Nothing),
        _ if matches!(error.downcast_ref(), Some(HubError::Stopped)) => Some(&Leftover::Nothing),
        _ => None,
    }
}

/// An output that is not what should have been written; it does not get its name.
#[derive(Debug, thiserror::Error)]
#[error("what was written does not read back: {detail}")]
pub struct ReadBack {
    detail: String,
}

impl ReadBack {
    /// From what reading it ended with.
    pub fn new(error: &anyhow::Error) -> ReadBack {
        ReadBack { detail: sentence(error) }
    }
}

/// The candidate is farther from its reference than allowed; ends with exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{}: not within the limits: {failed}", candidate.display())]
pub struct ParityFailure {
    pub candidate: PathBuf,
    /// What was exceeded.
    pub failed: String,
}

/// A file is not what its source gives; ends with exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{}: not what {} gives: {summary}", file.display(), model.display())]
pub struct NotReproduced {
    file: PathBuf,
    model: PathBuf,
    /// How much differs.
    summary: String,
    hint: Option<String>,
}

impl NotReproduced {
    /// The failure that a verification ends with.
    pub fn new(verification: &Verification) -> NotReproduced {
        NotReproduced {
            file: verification.file.clone(),
            model: verification.model.clone(),
            summary: verification.summary(),
            hint: verification.hint(),
        }
    }
}

/// A text file that is not UTF-8.
#[derive(Debug, thiserror::Error)]
#[error("{}: not UTF-8 text (byte {offset})", path.display())]
pub struct NotUtf8 {
    pub path: PathBuf,
    pub offset: usize,
    /// It is UTF-16, by its first bytes.
    pub is_utf16: bool,
}

/// Token ids mean different things to the two sides.
#[derive(Debug, thiserror::Error)]
#[error("the two sides have different tokenizers, so the same text gives them different tokens")]
pub struct TokenizerMismatch;

/// How a command failed, in words.
#[derive(Debug)]
pub struct Failure {
    /// One sentence.
    pub message: String,
    /// What may help.
    pub hint: Option<String>,
    /// That the process would end with.
    pub exit_code: u8,
}

impl Failure {
    /// Arguments that are none.
    pub fn of_usage(message: String) -> Failure {
        Failure { message: message.trim_start_matches("error: ").to_string(), hint: None, exit_code: 2 }
    }
}

/// An error in words.
pub fn failure(error: &anyhow::Error) -> Failure {
    Failure { message: sentence(error), hint: hint::of(error), exit_code: exit_code(error) }
}

/// Prints the sentence and the hint to stderr and says which code the process ends with.
pub fn report(error: &anyhow::Error) -> u8 {
    let Failure { message, hint, exit_code } = failure(error);
    log_with_hint(Severity::Error, &message, hint.as_deref());
    exit_code
}

/// The chain of causes in one line; a cause that the error before it has already quoted is not said twice, and a
/// [`Place`] says nothing.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.ends_with(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

fn exit_code(error: &anyhow::Error) -> u8 {
    // A pattern that fits no tensor, a type that needs an importance matrix: found late, still a usage error.
    let policy = matches!(
        error.downcast_ref::<QuantError>(),
        Some(QuantError::UnmatchedPattern { .. } | QuantError::NeedsImportance { .. })
    );
    let calibration = error.downcast_ref().is_some_and(is_usage);
    if policy || calibration || error.is::<UsageError>() {
        2
    } else if error.is::<ParityFailure>() || error.is::<NotReproduced>() {
        3
    } else if leftover(error).is_some() {
        interrupt::exit_code()
    } else {
        1
    }
}

/// Whether calibration failed by what the user typed: files and numbers that do not go together.
fn is_usage(error: &CalibrateError) -> bool {
    match error {
        CalibrateError::TextTooShort { .. }
        | CalibrateError::OwnTextTooShort { .. }
        | CalibrateError::ForeignWork { .. }
        | CalibrateError::NotStatistics { .. }
        | CalibrateError::StatisticsVersion { .. }
        | CalibrateError::StatisticsLayout { .. }
        | CalibrateError::ForeignStatistics { .. }
        | CalibrateError::StatisticsShape { .. }
        | CalibrateError::NothingToMerge
        | CalibrateError::MergedKey { .. }
        | CalibrateError::MergedTensor { .. }
        | CalibrateError::ForeignImatrix { .. }
        | CalibrateError::ImportanceLength { .. }
        | CalibrateError::BudgetTooSmall { .. } => true,
        CalibrateError::Matrix { source, .. } => is_usage(source),
        _ => false,
    }
}
