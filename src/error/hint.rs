//! What to do about a failure: by the error and by the place where it came up.

use std::io::ErrorKind;

use plmconv_calibrate::{Error as CalibrateError, Leftover};
use plmconv_formats::Error as FormatError;
use plmconv_formats::model::Foreign;
use plmconv_quant::Error as QuantError;
use plmconv_validate::Error as EvaluatorError;

use crate::hub::HubError;

use super::{NotReproduced, NotUtf8, Place, ReadBack, TokenizerMismatch, UsageError};

/// The hint to print below the sentence, if there is one that helps.
pub fn of(error: &anyhow::Error) -> Option<String> {
    if let Some(usage) = error.downcast_ref::<UsageError>() {
        return usage.hint.clone();
    }
    if error.is::<ReadBack>() {
        return Some(READ_BACK.into());
    }
    if let Some(different) = error.downcast_ref::<NotReproduced>() {
        return different.hint.clone();
    }
    if let Some(NotUtf8 { is_utf16, .. }) = error.downcast_ref() {
        let encoding = if *is_utf16 { "UTF-16" } else { "LATIN1" };
        return Some(format!("give a plain text file in UTF-8 (iconv -f {encoding} -t UTF-8 converts one)"));
    }
    if let Some(error) = error.downcast_ref::<HubError>() {
        return error.hint().map(str::to_string);
    }
    if error.is::<TokenizerMismatch>() {
        let hint = "compare a model with the one it was made from; `plmconv inspect` shows the tokenizers";
        return Some(hint.into());
    }
    if let Some(QuantError::NeedsImportance { .. }) = error.downcast_ref() {
        return Some(NEEDS_IMPORTANCE.into());
    }
    let place = error.downcast_ref::<Place>().copied();
    if let Some(error) = error.downcast_ref::<CalibrateError>() {
        of_calibration(error, place)
    } else if let Some(error) = error.downcast_ref::<EvaluatorError>() {
        of_evaluator(error, place)
    } else {
        of_format(error.downcast_ref::<FormatError>()?, place)
    }
}

const NEEDS_IMPORTANCE: &str =
    "give llama-imatrix's file for this model with --imatrix, or have it measured with --calibrate TEXT";
const READ_BACK: &str = "the disk may be failing, or this is a bug: try another folder with -o";

fn of_calibration(error: &CalibrateError, place: Option<Place>) -> Option<String> {
    let hint = match error {
        CalibrateError::Format(error) => return of_format(error, place),
        CalibrateError::Validate(error) => return of_evaluator(error, place),
        CalibrateError::Matrix { source, .. } => return of_calibration(source, place),
        CalibrateError::Interrupted(leftover) => of_leftover(leftover)?,
        CalibrateError::DamagedWork { .. } => "leave out --resume to start over; the file is left alone",
        CalibrateError::ForeignWork { .. } => "leave out --resume to start over",
        CalibrateError::TextTooShort { .. } => "give more text, or shorter windows with --calibration-ctx",
        CalibrateError::OwnTextTooShort { .. } => {
            "ask for more tokens with --self, or for shorter windows with --calibration-ctx"
        }
        CalibrateError::Spill(_) => {
            "it is beside the output until the run ends and takes 4 * tokens * hidden_size * (layers + 1) bytes"
        }
        CalibrateError::ReadBack(_) => READ_BACK,
        CalibrateError::NotStatistics { .. } => "an importance matrix goes to --imatrix",
        CalibrateError::StatisticsVersion { .. } => "run plmconv calibrate again",
        CalibrateError::ForeignStatistics { .. } => {
            "run plmconv calibrate on this model; with --passes, give the text to quantize --calibrate"
        }
        CalibrateError::ForeignImatrix { .. } => {
            "it belongs to another model, or its names were changed: llama-imatrix makes one from a GGUF of this model"
        }
        CalibrateError::ImportanceLength { .. } => "it belongs to another model",
        CalibrateError::BudgetTooSmall { .. } => "raise the target, or free types that --tensor-type fixes",
        _ => return None,
    };
    Some(hint.into())
}

fn of_leftover(leftover: &Leftover) -> Option<&'static str> {
    match leftover {
        Leftover::Kept(_) => Some("the same command with --resume continues from there"),
        Leftover::InTheWay(_) => Some("continue with the command that kept it and --resume, or remove it"),
        Leftover::Nothing => None,
    }
}

fn of_evaluator(error: &EvaluatorError, place: Option<Place>) -> Option<String> {
    let hint = match (error, place) {
        (EvaluatorError::Format(error), _) => return of_format(error, place),
        (EvaluatorError::TextTooShort { .. }, Some(Place::CheckWindows)) => {
            "give a longer text, or shorter windows with --validate-ctx"
        }
        (EvaluatorError::TextTooShort { .. }, Some(Place::Windows)) => {
            "give a longer text, or shorter windows with --ctx"
        }
        (EvaluatorError::WindowTooShort { .. }, Some(Place::CheckWindows)) => "--validate-ctx 512 is usual",
        (EvaluatorError::WindowTooShort { .. }, Some(Place::Windows)) => "--ctx 512 is usual",
        (EvaluatorError::ContextLength { .. }, Some(Place::CheckWindows)) => {
            "choose shorter windows with --validate-ctx"
        }
        (EvaluatorError::ContextLength { .. }, Some(Place::Prompt)) => {
            "give a shorter prompt, or ask for fewer tokens with -n"
        }
        (EvaluatorError::ContextLength { .. }, Some(Place::Windows | Place::ReferenceOutput)) => {
            "choose shorter windows with --ctx"
        }
        (EvaluatorError::EmptySequence, Some(Place::Prompt)) => "give a prompt of at least one token",
        (EvaluatorError::Temperature { .. }, Some(Place::Prompt)) => {
            "--temp 0 always takes the most likely token"
        }
        (EvaluatorError::Reference { .. }, Some(Place::Reference)) => {
            "`plmconv reference` writes such a file; docs/validation.md says what it holds"
        }
        (EvaluatorError::Reference { .. }, Some(Place::Windows)) => {
            "leave out --text to compare on the text that the reference was made from"
        }
        (EvaluatorError::ReadBack { .. }, _) => "the disk may be failing: try another folder with -o",
        (EvaluatorError::Vocabulary { .. }, _) => "compare a model with the one it was made from",
        (EvaluatorError::NonFinite { .. } | EvaluatorError::NonFiniteLogits { .. }, _) => {
            "the weights before that place are damaged, or too large for their type"
        }
        (EvaluatorError::RuntimeLibrary { .. }, _) => {
            "set ORT_DYLIB_PATH to ONNX Runtime's library, 1.18 or newer; `pip install onnxruntime` brings one: \
             onnxruntime/capi/libonnxruntime.so.*"
        }
        (EvaluatorError::Runtime { .. }, _) => {
            "this needs a graph that `plmconv convert --to onnx` or `plmconv quantize --to onnx` wrote; --opset 23 \
             needs ONNX Runtime 1.23 or newer"
        }
        _ => return None,
    };
    Some(hint.into())
}

fn of_format(error: &FormatError, place: Option<Place>) -> Option<String> {
    let hint = match error {
        FormatError::Foreign { kind, .. } => return Some(of_foreign(kind)),
        FormatError::NotFound { .. } => return of_absent(place?),
        FormatError::Io { source, .. } => of_io(source.kind(), place?)?,
        FormatError::DanglingLink { .. } if is_input(place) => {
            "a download that stopped early leaves such links; fetch it again (hf download goes on where it stopped)"
        }
        FormatError::DanglingLink { .. } => "remove the link, or create what it points to",
        FormatError::LfsPointer { .. } => {
            "the repository was cloned without git-lfs: `git lfs install`, then `git lfs pull` in its folder"
        }
        FormatError::WebPage { .. } => {
            "a page about the file was saved instead of the file; `hf download` fetches files"
        }
        FormatError::NotAFile { .. } => of_irregular(place?),
        FormatError::NotUtf8 { .. } => "save it as UTF-8 (iconv -f UTF-16 -t UTF-8 converts UTF-16)",
        FormatError::MissingShard { .. } | FormatError::NoWeights { .. } => {
            "the download may have stopped early; fetch the model again (hf download goes on where it stopped)"
        }
        FormatError::NotAnAdapter { .. } => ADAPTER,
        FormatError::Unmergeable { .. } => {
            "peft's merge_and_unload() and save_pretrained(FOLDER) give a checkpoint, where peft can do it"
        }
        FormatError::Inexpressible { target: "GGUF adapter", .. } => {
            "--lora ADAPTER merges it into its base model instead"
        }
        FormatError::UnknownModule { .. } => {
            "an adapter is for the model it was trained on, which its \
             adapter_config.json names (base_model_name_or_path)"
        }
        FormatError::BaseNotAFolder { .. } => "name the Hugging Face folder that the adapter was trained on",
        FormatError::Weights { .. } => "keep the files of one model only in the folder",
        FormatError::Changed { .. } => {
            "what was read before the change and after it may not belong together, so nothing was written; run it \
             again when nothing else writes there"
        }
        FormatError::Exists { .. } => "add --force to replace it, or name another file with -o",
        FormatError::NotAnOutput { kind: "a folder", .. } => "name a file in it",
        FormatError::NotAnOutput { .. } => "name another place for the output",
        FormatError::NotReplaced { .. } => {
            "only an earlier export of plmconv is replaced, and no folder that holds anything else; name another \
             folder with -o"
        }
        FormatError::NoFolder { .. } if place == Some(Place::Report) => "create the folder first",
        FormatError::NoFolder { .. } => "create the folder first, or name another place with -o",
        FormatError::NotAFolder { .. } if place == Some(Place::Report) => "name a file in a folder",
        FormatError::NotAFolder { .. } => "name a place in a folder with -o",
        FormatError::MixedShards { .. } => {
            "files of two sets are here under the names of one; fetch or write the set again"
        }
        FormatError::UnfinishedSet { .. } => {
            "the command that wrote it finishes that first when it is run again with --force"
        }
        FormatError::NoSnapshot { found, .. } => match found.last() {
            Some(last) => return Some(format!("name one of them, e.g. {}", last.display())),
            None => "the download may have stopped early; fetch the model again",
        },
        FormatError::UnknownFormat { .. } | FormatError::BadMagic { .. } => expected_at(place?)?,
        FormatError::Architecture { .. } => {
            "plmconv reads PLM models only (model_type or general.architecture `plm`)"
        }
        FormatError::BigEndian { .. } => {
            "convert the checkpoint again, or convert the file with llama.cpp's gguf_convert_endian.py"
        }
        FormatError::Truncated { .. } | FormatError::HeaderLength { .. } => match place? {
            Place::Statistics => "the copy may have stopped early; copy it or run plmconv calibrate again",
            _ => "the download or copy may have stopped early; compare its size and fetch it again",
        },
        FormatError::NoTokenizer { .. } => {
            "copy tokenizer.json and tokenizer_config.json from the base model"
        }
        FormatError::UnknownPreTokenizer { .. } if place == Some(Place::GgufMetadata) => {
            "name llama.cpp's nearest pre-tokenizer with --tokenizer-pre, e.g. --tokenizer-pre qwen2"
        }
        FormatError::UnknownPreTokenizer { .. } => {
            "`convert` and `quantize` take llama.cpp's name of the nearest one, e.g. --tokenizer-pre qwen2, and what \
             they write can be run"
        }
        FormatError::UnknownSplits { .. } => {
            "such a file can be converted, but not run here; llama.cpp's own tools run it"
        }
        _ => return None,
    };
    Some(hint.into())
}

/// Whether the place is something that is read.
fn is_input(place: Option<Place>) -> bool {
    !matches!(place, Some(Place::Output | Place::StatisticsOutput | Place::ReferenceOutput | Place::Report))
}

const MODEL: &str =
    "a model is a Hugging Face folder (config.json, *.safetensors, tokenizer.json) or a .gguf file";

const ADAPTER: &str =
    "an adapter is a folder that peft saved: adapter_config.json, adapter_model.safetensors";

/// What a place wants to be given.
fn expected_at(place: Place) -> Option<&'static str> {
    Some(match place {
        Place::Model | Place::GgufMetadata => MODEL,
        Place::Adapter => ADAPTER,
        Place::Text => "a text is a file in UTF-8",
        Place::Statistics => "`plmconv calibrate` writes statistics",
        Place::Imatrix => "llama-imatrix writes an importance matrix, as .gguf or .dat",
        Place::Reference => "`plmconv reference` writes stored outputs; a model can be a reference too",
        Place::Like => "`--like` takes the types of a GGUF's tensors",
        Place::TensorTypes => "it is a text file with one PATTERN=TYPE per line",
        _ => return None,
    })
}

fn of_absent(place: Place) -> Option<String> {
    if is_input(Some(place)) {
        return expected_at(place).map(|expected| format!("check the spelling; {expected}"));
    }
    Some("create the folder first, or choose another place".into())
}

fn of_io(kind: ErrorKind, place: Place) -> Option<&'static str> {
    Some(match (kind, is_input(Some(place))) {
        (ErrorKind::PermissionDenied, true) => "you are not allowed to read it; chmod +r allows it",
        (_, true) => return None,
        (ErrorKind::StorageFull, _) if place == Place::Output => {
            "free some space or choose another folder with -o; --dry-run prints the exact size"
        }
        (ErrorKind::StorageFull, _) if place == Place::Report => "free some space or choose another folder",
        (ErrorKind::StorageFull, _) => "free some space or choose another folder with -o",
        (ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem | ErrorKind::NotADirectory, _) => {
            match place {
                Place::Report => "choose a folder you may write to",
                _ => "choose a folder you may write to with -o",
            }
        }
        (ErrorKind::IsADirectory, _) => "name a file in that folder",
        _ => return None,
    })
}

fn of_irregular(place: Place) -> &'static str {
    match expected_at(place) {
        Some(_) if place == Place::Text => "name one text file",
        Some(expected) => expected,
        None if place == Place::Report => "name a file",
        None => "name a file with -o",
    }
}

fn of_foreign(kind: &Foreign) -> String {
    let hint = match kind {
        Foreign::Adapter { .. } => {
            "name its base model, and the adapter with --lora ADAPTER[=SCALE]: it is merged as the model is read"
        }
        Foreign::UnmergedAdapter => {
            "merge it into its base model first: peft's merge_and_unload(), then save_pretrained(FOLDER), and convert \
             that folder"
        }
        Foreign::Quantized { .. } => {
            "start from the checkpoint that it was quantized from (bf16, f16 or f32); plmconv quantizes itself"
        }
        Foreign::OtherWeights { .. } => {
            "load the model in transformers and save it with save_pretrained(FOLDER), which writes safetensors"
        }
        Foreign::Ggufs { files } => match files.as_slice() {
            [one] => return format!("name the file: {}", one.display()),
            many => return format!("name one of them, e.g. {}", many[0].display()),
        },
        Foreign::Onnx { .. } => {
            "convert the checkpoint that it was made from; `inspect` shows an export, and `validate` (as the \
             candidate), `perplexity` and `generate` run one"
        }
        Foreign::Nested { folder, .. } | Foreign::PartOfModel { folder } => {
            return format!("name the folder: {}", folder.display());
        }
        Foreign::TrainingState { .. } => {
            "put it together first: zero_to_fp32.py (DeepSpeed) or `accelerate merge-weights` (FSDP)"
        }
        Foreign::LoneSafetensors | Foreign::GgufOf { .. } | Foreign::EmptyFolder => MODEL,
        Foreign::Archive { .. } => "unpack it first, and name the folder",
    };
    hint.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::At;

    fn hint(error: FormatError, place: Place) -> Option<String> {
        of(&Err::<(), _>(error).at(place).expect_err("an error"))
    }

    fn denied() -> FormatError {
        FormatError::Io { path: "x".into(), source: ErrorKind::PermissionDenied.into() }
    }

    const ALL: [Place; 16] = [
        Place::Model,
        Place::Adapter,
        Place::GgufMetadata,
        Place::Output,
        Place::Text,
        Place::Windows,
        Place::CheckWindows,
        Place::Prompt,
        Place::Statistics,
        Place::StatisticsOutput,
        Place::Imatrix,
        Place::Reference,
        Place::ReferenceOutput,
        Place::TensorTypes,
        Place::Like,
        Place::Report,
    ];

    #[test]
    fn the_same_error_has_another_hint_at_another_place() {
        assert!(hint(denied(), Place::Model).expect("a hint").contains("read"));
        assert!(hint(denied(), Place::Output).expect("a hint").contains("write to with -o"));
        let absent =
            |place| hint(FormatError::NotFound { path: "no/such/x".into() }, place).unwrap_or_default();
        assert!(absent(Place::Model).contains("config.json"));
        assert!(absent(Place::Output).contains("create the folder"));
        assert!(absent(Place::Text).contains("UTF-8"));
        assert!(absent(Place::Statistics).contains("calibrate"));
        for place in ALL
            .into_iter()
            .filter(|place| !matches!(place, Place::Model | Place::GgufMetadata | Place::Adapter))
        {
            assert!(!absent(place).contains("config.json"), "{place:?}");
        }
    }

    #[test]
    fn flags_are_named_only_where_the_command_has_them() {
        let full = |place| {
            let source = ErrorKind::StorageFull.into();
            hint(FormatError::Io { path: "x".into(), source }, place).unwrap_or_default()
        };
        for place in ALL {
            assert_eq!(full(place).contains("--dry-run"), place == Place::Output, "{place:?}");
            let pre = FormatError::UnknownPreTokenizer { path: "x".into(), regex: "y".into() };
            let is_own = hint(pre, place).is_some_and(|hint| hint.starts_with("name llama.cpp's nearest"));
            assert_eq!(is_own, place == Place::GgufMetadata, "{place:?}");
        }
        assert!(!full(Place::Report).contains("-o"));
    }
}
