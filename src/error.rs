//! How a failure ends: the sentence, the hint, the exit code.

use std::process::ExitCode;

use plmconv_formats::Error as FormatError;
use plmconv_quant::Error as QuantError;

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

/// The user pressed Ctrl-C.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; nothing was written")]
pub struct Interrupted;

/// Prints the sentence and the hint to stderr and says which code the process ends with.
pub fn report(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if let Some(hint) = hint(error) {
        eprintln!("hint: {hint}");
    }
    exit_code(error)
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    // A pattern that fits no tensor, a type that needs an importance matrix: found late, still a usage error.
    let policy = matches!(
        error.downcast_ref::<QuantError>(),
        Some(QuantError::UnmatchedPattern { .. } | QuantError::NeedsImportance { .. })
    );
    if policy || error.is::<UsageError>() {
        ExitCode::from(2)
    } else if error.is::<Interrupted>() {
        // What a shell reports for a process ended by SIGINT.
        ExitCode::from(130)
    } else {
        ExitCode::from(1)
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(usage) = error.downcast_ref::<UsageError>() {
        return usage.hint.clone();
    }
    Some(
        match error.downcast_ref::<FormatError>()? {
            FormatError::Exists { .. } => "add --force to replace it, or name another file with -o",
            FormatError::NotFound { .. } => {
                "check the spelling; MODEL is a folder with config.json, or a .gguf file"
            }
            FormatError::UnknownFormat { .. } => {
                "MODEL is a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file"
            }
            FormatError::BadMagic { .. } => "MODEL is a Hugging Face folder or a .gguf file",
            FormatError::Truncated { .. } | FormatError::HeaderLength { .. } => {
                "the download or copy may have stopped early; compare its size and fetch it again"
            }
            FormatError::UnknownPreTokenizer { .. } => {
                "name llama.cpp's nearest pre-tokenizer with --tokenizer-pre, e.g. --tokenizer-pre qwen2"
            }
            FormatError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                "free some space or choose another folder with -o; --dry-run prints the exact size"
            }
            FormatError::Io { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                "choose a folder you may write to with -o"
            }
            _ => return None,
        }
        .into(),
    )
}
