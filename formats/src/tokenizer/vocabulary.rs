//! A vocabulary: tokens by id, their types, the merges, and the pre-tokenizer, from a folder or from a GGUF.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::added::AddedTokens;
use super::files::{AddedToken, BpeJson, TokenizerFiles, VocabJson};
use super::pre::{PreTokenizer, check_pre_tokenizer_name};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, integer};
use crate::limits::{self, MAX_MERGES};
use crate::warning::Warning;
use crate::{json, small_file};

/// `llama_token_type`, the numbers in `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenType {
    Normal = 1,
    Unknown = 2,
    Control = 3,
    UserDefined = 4,
    Unused = 5,
    Byte = 6,
}

impl TokenType {
    fn from_number(number: i64) -> Option<TokenType> {
        use TokenType::*;
        [Normal, Unknown, Control, UserDefined, Unused, Byte].into_iter().find(|t| *t as i64 == number)
    }
}

/// Everything that decides how text becomes ids.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    /// Where it was read, for errors.
    pub path: PathBuf,
    /// By id; as many as the model has rows of embedding.
    pub tokens: Vec<String>,
    /// By id.
    pub types: Vec<TokenType>,
    /// `left right`, best first.
    pub merges: Vec<String>,
    /// llama.cpp's name of the pre-tokenizer.
    pub pre: String,
}

impl Vocabulary {
    /// The vocabulary of a folder, filled up to `vocab_size` tokens, and what of the tokenizer it leaves out. `pre`
    /// overrides the pre-tokenizer's name.
    ///
    /// # Errors
    /// No tokenizer; another model than byte-level BPE; a normalizer or a pre-tokenizer that llama.cpp does not have;
    /// ids that are out of range, taken twice or not where a loader puts them; merges of unknown tokens.
    pub fn from_files(
        files: &mut TokenizerFiles,
        vocab_size: usize,
        pre: Option<&str>,
    ) -> Result<(Vocabulary, Vec<Warning>)> {
        if let Some(name) = pre {
            check_pre_tokenizer_name(name)?;
        }
        let mut merges = Vec::new();
        if let Some(json) = &mut files.json {
            check_model(&files.folder.join("tokenizer.json"), &json.model)?;
            merges = std::mem::take(&mut json.model.merges.0);
        }
        match &files.json {
            Some(json) => {
                let path = files.folder.join("tokenizer.json");
                check_normalizer(&path, &json.normalizer)?;
                let pre = match pre {
                    Some(name) => name,
                    None => PreTokenizer::recognize(&json.pre_tokenizer, json.model.ignore_merges)
                        .map_err(|regex| Error::UnknownPreTokenizer { path: path.clone(), regex })?
                        .name(),
                };
                if merges.is_empty() {
                    merges = read_merges(&files.folder.join("merges.txt"))?.unwrap_or_default();
                }
                build(files, path, &json.model.vocab.0, vocab_size, merges, pre.to_string())
            }
            None => {
                let path = files.folder.join("vocab.json");
                let missing = || Error::NoTokenizer { path: files.folder.clone() };
                let vocab: VocabJson = json::read_optional(&path)?.ok_or_else(missing)?;
                let merges = read_merges(&files.folder.join("merges.txt"))?.ok_or_else(missing)?;
                let pre = match pre {
                    Some(name) => name,
                    None => pre_of_class(files, &path)?,
                };
                build(files, path, &vocab.0, vocab_size, merges, pre.to_string())
            }
        }
    }

    /// The vocabulary in a GGUF's metadata.
    ///
    /// # Errors
    /// Missing keys, another model than byte-level BPE, or arrays of different lengths.
    pub fn from_metadata(path: &Path, metadata: &Metadata) -> Result<Vocabulary> {
        let missing = |key: &str| Error::MissingKey { path: path.to_path_buf(), key: key.into() };
        let bad = |key: &str, found: String, expected: &str| Error::BadValue {
            path: path.to_path_buf(),
            key: key.into(),
            found,
            expected: expected.into(),
        };
        let model = metadata.string("tokenizer.ggml.model").ok_or_else(|| missing("tokenizer.ggml.model"))?;
        if model != "gpt2" {
            return Err(bad("tokenizer.ggml.model", model.into(), "gpt2 (byte-level BPE)"));
        }
        let owned = |key: &str| -> Result<Vec<String>> {
            let strings = metadata.strings(key).ok_or_else(|| missing(key))?;
            Ok(strings.into_iter().map(str::to_string).collect())
        };
        let tokens = owned("tokenizer.ggml.tokens")?;
        let types = match metadata.array("tokenizer.ggml.token_type") {
            None => vec![TokenType::Normal; tokens.len()],
            Some(array) => {
                let read = |v: &crate::gguf::Value| TokenType::from_number(integer(v)?);
                let types: Option<Vec<_>> = array.values.iter().map(read).collect();
                types.filter(|t| t.len() == tokens.len()).ok_or_else(|| {
                    let expected = format!("{} types from 1 to 6", tokens.len());
                    bad("tokenizer.ggml.token_type", format!("{} values", array.values.len()), &expected)
                })?
            }
        };
        let vocabulary = Vocabulary {
            path: path.to_path_buf(),
            tokens,
            types,
            merges: owned("tokenizer.ggml.merges")?,
            pre: metadata.string("tokenizer.ggml.pre").unwrap_or("default").to_string(),
        };
        vocabulary.check()?;
        Ok(vocabulary)
    }

    /// The splits that `pre` stands for.
    ///
    /// # Errors
    /// [`Error::UnknownSplits`] for those of llama.cpp's names that are known by name only.
    pub(super) fn pre_tokenizer(&self) -> Result<&'static PreTokenizer> {
        let unknown = || Error::UnknownSplits { path: self.path.clone(), name: self.pre.clone() };
        PreTokenizer::find(&self.pre).ok_or_else(unknown)
    }

    /// The two sides of merge `merge`.
    pub fn sides<'a>(&self, merge: &'a str) -> Result<(&'a str, &'a str)> {
        merge.split_once(' ').ok_or_else(|| self.bad_merge(merge))
    }

    fn bad_merge(&self, merge: &str) -> Error {
        Error::MergeOutOfVocabulary { path: self.path.clone(), merge: merge.into() }
    }

    /// Each token appears once (llama.cpp aborts otherwise), and merges only make and use tokens.
    fn check(&self) -> Result<()> {
        let mut ids: HashMap<&str, u32> = HashMap::with_capacity(self.tokens.len());
        for (id, token) in (0u32..).zip(&self.tokens) {
            if let Some(first) = ids.insert(token, id) {
                let (path, token) = (self.path.clone(), token.clone());
                return Err(Error::DuplicateToken { path, token, first, second: id });
            }
        }
        for merge in &self.merges {
            let (left, right) = self.sides(merge)?;
            let made = [left, right].concat();
            if ![left, right, made.as_str()].iter().all(|token| ids.contains_key(token)) {
                return Err(self.bad_merge(merge));
            }
        }
        Ok(())
    }
}

/// Puts base vocabulary and added tokens at their ids and fills the rest.
fn build(
    files: &TokenizerFiles,
    path: PathBuf,
    base: &[(String, u32)],
    vocab_size: usize,
    merges: Vec<String>,
    pre: String,
) -> Result<(Vocabulary, Vec<Warning>)> {
    let mut slots: Vec<Option<(&str, TokenType)>> = vec![None; vocab_size];
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(base.len());
    let out_of_range = |token: &str, id| {
        let (path, token) = (path.clone(), token.to_string());
        Error::TokenOutOfRange { path, token, id, vocab_size }
    };
    for (token, id) in base {
        let slot = slots.get_mut(*id as usize).ok_or_else(|| out_of_range(token, *id))?;
        if let Some((first, _)) = slot.replace((token, TokenType::Normal)) {
            let (path, first, second) = (path.clone(), first.to_string(), token.clone());
            return Err(Error::DuplicateTokenId { path, id: *id, first, second });
        }
        if let Some(first) = ids.insert(token, *id) {
            return Err(Error::DuplicateToken { path, token: token.clone(), first, second: *id });
        }
    }
    let added = AddedTokens::read(files, &ids)?;
    for (&id, token) in &added {
        let slot = slots.get_mut(id as usize).ok_or_else(|| out_of_range(&token.content, id))?;
        match *slot {
            Some((other, _)) if other != token.content => {
                let (first, second) = (other.to_string(), token.content.clone());
                return Err(Error::DuplicateTokenId { path, id, first, second });
            }
            _ => *slot = Some((&token.content, type_of(token))),
        }
    }
    let types = slots.iter().map(|s| s.map_or(TokenType::Unused, |(_, t)| t)).collect();
    let tokens = slots.iter().enumerate().map(|(id, slot)| match slot {
        None => format!("[PAD{id}]"),
        // llama.cpp matches these in the text itself, where a space is a space.
        Some((text, TokenType::UserDefined)) => text.replace('\u{2581}', " "),
        Some((text, _)) => text.to_string(),
    });
    let vocabulary = Vocabulary { tokens: tokens.collect(), types, merges, pre, path };
    vocabulary.check()?;
    Ok((vocabulary, lost_rules(added.values()).into_iter().collect()))
}

/// Tokens that match by rules which llama.cpp does not have.
fn lost_rules<'a>(added: impl Iterator<Item = &'a AddedToken>) -> Option<Warning> {
    let with_rules = |token: &AddedToken| {
        let rules: Vec<&str> = token.rules().collect();
        (!rules.is_empty()).then(|| format!("{:?} ({})", token.content, rules.join(", ")))
    };
    let tokens: Vec<String> = added.filter_map(with_rules).collect();
    (!tokens.is_empty()).then_some(Warning::TokenRules { tokens })
}

fn type_of(token: &AddedToken) -> TokenType {
    if token.special || looks_special(&token.content) { TokenType::Control } else { TokenType::UserDefined }
}

/// Some models do not mark control tokens as special; convert_hf_to_gguf.py knows them by their look.
fn looks_special(token: &str) -> bool {
    let within = |start, end| token.starts_with(start) && token.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&token)
        || within("<|", "|>")
        || within("<｜", "｜>")
        || within("<unused", ">")
}

fn check_model(path: &Path, model: &BpeJson) -> Result<()> {
    let refuse = |detail: String| Err(Error::Tokenizer { path: path.to_path_buf(), detail });
    match model.kind.as_deref() {
        Some("BPE") => {}
        None if !model.merges.0.is_empty() => {}
        kind => {
            let kind = kind.unwrap_or("nothing");
            return refuse(format!("its model is {kind}, but only byte-level BPE can be converted"));
        }
    }
    if model.byte_fallback {
        return refuse("its BPE falls back to bytes, so it is not byte-level".into());
    }
    let affixes = [&model.continuing_subword_prefix, &model.end_of_word_suffix];
    if let Some(affix) = affixes.into_iter().flatten().find(|a| !a.is_empty()) {
        return refuse(format!("its BPE marks parts of words with `{affix}`, so it is not byte-level"));
    }
    Ok(())
}

/// llama.cpp normalizes nothing before byte-level BPE. Leaving out NFC changes only text that is not composed, as
/// every conversion of a Qwen tokenizer does; anything else would change plain text.
fn check_normalizer(path: &Path, normalizer: &Json) -> Result<()> {
    match normalizer.get("type").and_then(Json::as_str) {
        None if normalizer.is_null() => Ok(()),
        Some("NFC") => Ok(()),
        Some("Sequence") => {
            let parts = normalizer.get("normalizers").and_then(Json::as_array);
            parts.into_iter().flatten().try_for_each(|part| check_normalizer(path, part))
        }
        _ => Err(Error::Normalizer { path: path.to_path_buf(), normalizer: normalizer.to_string() }),
    }
}

fn pre_of_class(files: &TokenizerFiles, path: &Path) -> Result<&'static str> {
    let class = files.config_str("tokenizer_class");
    class.and_then(PreTokenizer::of_class).map(PreTokenizer::name).ok_or_else(|| {
        let found = match class {
            Some(class) => format!("there is only vocab.json, and the splits of `{class}` are not known"),
            None => "there is only vocab.json, and no `tokenizer_class` in tokenizer_config.json".into(),
        };
        Error::UnknownPreTokenizer { path: path.to_path_buf(), regex: found }
    })
}

/// merges.txt: a merge a line, after an optional line with a version.
fn read_merges(path: &Path) -> Result<Option<Vec<String>>> {
    let Some(text) = small_file::read_optional_text(path)? else { return Ok(None) };
    let mut merges = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || (number == 0 && line.starts_with('#')) {
            continue;
        }
        limits::check(path, "merges", merges.len() + 1, MAX_MERGES)?;
        let mut sides = line.split_whitespace();
        match (sides.next(), sides.next(), sides.next()) {
            (Some(left), Some(right), None) => merges.push(format!("{left} {right}")),
            _ => {
                let detail = format!("line {}: `{line}` is not a merge of two tokens", number + 1);
                return Err(Error::Tokenizer { path: path.to_path_buf(), detail });
            }
        }
    }
    Ok(Some(merges))
}
