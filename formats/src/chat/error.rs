//! What may be wrong with a chat template.

/// Why a template gave no text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "fields are parts of the messages")]
pub enum TemplateError {
    /// The template called `raise_exception`.
    #[error("it says: {message}")]
    Refused { message: String },
    /// A syntax error, or an operation that fails.
    #[error("{detail}")]
    Failed { detail: String },
    /// It would take more time or memory than a template may.
    #[error("it is beyond what a template may do: {limit}")]
    Limit { limit: String },
}

impl TemplateError {
    pub(super) fn limit(limit: impl Into<String>) -> TemplateError {
        TemplateError::Limit { limit: limit.into() }
    }
}
