//! How a failure ends: the sentence, the hint, the exit code.

use std::borrow::Cow;
use std::path::PathBuf;
use std::process::ExitCode;

use plmconv_formats::Error as FormatError;
use plmconv_quant::Error as QuantError;
use plmconv_validate::Error as EvaluatorError;

use crate::interrupt;
use crate::terminal::visible;
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
#[derive(Debug, Default, thiserror::Error)]
pub enum Interrupted {
    #[default]
    #[error("interrupted; nothing was written")]
    NothingWritten,
    #[error("interrupted; what was finished is kept in {}", .0.display())]
    Kept(PathBuf),
    #[error("interrupted; nothing was written: {} is there already and not of this run", .0.display())]
    InTheWay(PathBuf),
}

/// What an interrupted run kept cannot be trusted.
#[derive(Debug, thiserror::Error)]
#[error("{}: damaged, or not kept by an interrupted run: {detail}", path.display())]
pub struct DamagedWork {
    pub path: PathBuf,
    pub detail: String,
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

/// A text that is no text.
#[derive(Debug, thiserror::Error)]
#[error("{}: not UTF-8 text (byte {offset})", path.display())]
pub struct NotUtf8 {
    pub path: PathBuf,
    pub offset: usize,
}

/// Token ids mean different things to the two sides.
#[derive(Debug, thiserror::Error)]
#[error("the two sides have different tokenizers, so the same text gives them different tokens")]
pub struct TokenizerMismatch;

/// Prints the sentence and the hint to stderr and says which code the process ends with.
pub fn report(error: &anyhow::Error) -> ExitCode {
    tell!("error: {}", sentence(error));
    if let Some(hint) = hint(error) {
        tell!("hint: {hint}");
    }
    exit_code(error)
}

/// Prints clap's message, or the help that was asked for, and ends the process. An argument may be a name that a shell
/// took from a folder.
pub fn usage(error: &clap::Error) -> ! {
    let text = error.render().to_string();
    if let Cow::Owned(shown) = visible(&text) {
        tell!("{}", shown.trim_end());
        std::process::exit(error.exit_code());
    }
    error.exit()
}

/// The chain of causes in one line; a cause that the error before it has already quoted is not said twice.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.ends_with(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    // A pattern that fits no tensor, a type that needs an importance matrix: found late, still a usage error.
    let policy = matches!(
        error.downcast_ref::<QuantError>(),
        Some(QuantError::UnmatchedPattern { .. } | QuantError::NeedsImportance { .. })
    );
    if policy || error.is::<UsageError>() {
        ExitCode::from(2)
    } else if error.is::<ParityFailure>() || error.is::<NotReproduced>() {
        ExitCode::from(3)
    } else if error.is::<Interrupted>() {
        ExitCode::from(interrupt::exit_code())
    } else {
        ExitCode::from(1)
    }
}

fn hint(error: &anyhow::Error) -> Option<String> {
    if let Some(usage) = error.downcast_ref::<UsageError>() {
        return usage.hint.clone();
    }
    match error.downcast_ref() {
        Some(Interrupted::Kept(_)) => {
            return Some("the same command with --resume goes on from there".into());
        }
        Some(Interrupted::InTheWay(_)) => {
            return Some("go on with that by the command that kept it and --resume, or remove it".into());
        }
        Some(Interrupted::NothingWritten) | None => {}
    }
    if error.is::<DamagedWork>() {
        return Some("leave --resume away to start over; the file is left alone".into());
    }
    if error.is::<ReadBack>() {
        return Some("the disk may be failing, or this is a bug: try another folder with -o".into());
    }
    if let Some(different) = error.downcast_ref::<NotReproduced>() {
        return different.hint.clone();
    }
    if error.is::<NotUtf8>() {
        return Some("give a plain text file in UTF-8 (iconv -f LATIN1 -t UTF-8 converts one)".into());
    }
    if error.is::<TokenizerMismatch>() {
        return Some(
            "compare a model with the one it was made from; `plmconv inspect` shows the tokenizers".into(),
        );
    }
    if let Some(error) = error.downcast_ref::<EvaluatorError>() {
        return evaluator_hint(error);
    }
    format_hint(error.downcast_ref::<FormatError>()?)
}

fn evaluator_hint(error: &EvaluatorError) -> Option<String> {
    Some(
        match error {
            EvaluatorError::Format(error) => return format_hint(error),
            EvaluatorError::TextTooShort { .. } => "give a longer text, or shorter windows with --ctx",
            EvaluatorError::WindowTooShort { .. } => "--ctx 512 is usual",
            EvaluatorError::ContextLength { .. } => "choose shorter windows with --ctx",
            EvaluatorError::Vocabulary { .. } => "compare a model with the one it was made from",
            EvaluatorError::NonFinite { .. } | EvaluatorError::NonFiniteLogits { .. } => {
                "the weights before that place are damaged, or too large for their type"
            }
            EvaluatorError::EmptySequence => "give a prompt of at least one token",
            EvaluatorError::Reference { .. } => {
                "`plmconv reference` writes such a file; docs/validation.md says what it holds"
            }
            EvaluatorError::RuntimeLibrary { .. } => {
                "set ORT_DYLIB_PATH to ONNX Runtime's library, 1.18 or newer; `pip install onnxruntime` brings one: \
                 onnxruntime/capi/libonnxruntime.so.*"
            }
            EvaluatorError::Runtime { .. } => {
                "this needs a graph that `plmconv convert --to onnx` or `plmconv quantize --to onnx` wrote; --opset 23 \
                 needs ONNX Runtime 1.23 or newer"
            }
            EvaluatorError::ReadBack { .. } => "the disk may be failing: try another folder with -o",
            EvaluatorError::Spill(_) => {
                "it stands beside the output until the run ends and takes 4 * tokens * hidden_size * (layers + 1) bytes"
            }
            EvaluatorError::Temperature { .. } => "--temp 0 always takes the most likely token",
            _ => return None,
        }
        .into(),
    )
}

fn format_hint(error: &FormatError) -> Option<String> {
    Some(
        match error {
            FormatError::Changed { .. } => {
                "what was read before the change and after it may not belong together, so nothing was written; run it \
                 again when nothing else writes there"
            }
            FormatError::Exists { .. } => "add --force to replace it, or name another file with -o",
            FormatError::NotAFile { .. } => "name a file instead",
            FormatError::NotReplaced { .. } => {
                "only an earlier export of plmconv is replaced, and no folder that holds anything else; name another \
                 folder with -o"
            }
            FormatError::NoFolder { .. } => "make the folder first, or name another place",
            FormatError::NotAFolder { .. } => "name a place in a folder",
            FormatError::MixedShards { .. } => {
                "files of two sets lie here under the names of one; fetch or write the set again"
            }
            FormatError::UnfinishedSet { .. } => {
                "the command that wrote it finishes that first when it is run again with --force"
            }
            FormatError::NotFound { .. } => {
                "check the spelling; MODEL is a folder with config.json, or a .gguf file"
            }
            FormatError::NoSnapshot { found, .. } => match found.last() {
                Some(last) => return Some(format!("name one of them, e.g. {}", last.display())),
                None => "the download may have stopped early; fetch the model again",
            },
            FormatError::UnknownFormat { .. } => {
                "MODEL is a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file"
            }
            FormatError::Architecture { .. } => {
                "plmconv runs PLM models (model_type or general.architecture `plm`) only"
            }
            FormatError::BadMagic { .. } => "MODEL is a Hugging Face folder or a .gguf file",
            FormatError::Truncated { .. } | FormatError::HeaderLength { .. } => {
                "the download or copy may have stopped early; compare its size and fetch it again"
            }
            FormatError::UnknownPreTokenizer { .. } => {
                "`convert` and `quantize` take llama.cpp's name of the nearest one, e.g. --tokenizer-pre qwen2, and what \
                 they write can be run"
            }
            FormatError::UnknownSplits { .. } => {
                "such a file can be converted, but not run here; llama.cpp's own tools run it"
            }
            FormatError::NoTokenizer { .. } => {
                "copy tokenizer.json and tokenizer_config.json of the original model into the folder"
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
