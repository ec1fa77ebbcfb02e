//! Text to ids and back, with the result that llama.cpp's own tokenizer has.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use super::byte_level::{ByteLevelBpe, byte_level_bpe};
use super::bytes;
use super::original::{Difference, first_difference};
use super::partition::{Fragment, Matched, ends_generation};
use super::pre::PreTokenizer;
use super::vocabulary::{TokenType, Vocabulary};
use crate::describe::{check_vocabulary_size, describe_tokenizer};
use crate::error::{Error, Result};
use crate::gguf::Metadata;
use crate::model::{Model, Origin};
use crate::{hex, json};

/// What llama.cpp takes for BOS and for EOS in a byte-level BPE whose file does not say, or names no token: GPT-2's.
const DEFAULT_SPECIAL: usize = 11;

/// A model's tokenizer: byte-level BPE as llama.cpp does it.
///
/// A folder's tokenizer goes the same way as a converted file's: through the vocabulary that the GGUF gets. So both
/// give the same ids, also where Hugging Face's own tokenizer would differ (llama.cpp does not normalize to NFC).
pub struct TextTokenizer {
    vocabulary: Vocabulary,
    matched: Matched,
    bpe: ByteLevelBpe,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    chat_template: Option<String>,
    /// The tokenizer.json that all this was read from, if it was.
    original: Option<PathBuf>,
    special_tokens: Map<String, Json>,
    /// Ids that end generation, whatever their text.
    ends: Vec<u32>,
}

/// Special tokens as a GGUF's keys name them, and as a chat template does.
const SPECIAL_TOKENS: [(&str, &str); 7] = [
    ("bos", "bos_token"),
    ("eos", "eos_token"),
    ("unknown", "unk_token"),
    ("seperator", "sep_token"),
    ("padding", "pad_token"),
    ("cls", "cls_token"),
    ("mask", "mask_token"),
];
/// Tokens that end a text, a turn or a message.
const ENDS: [&str; 3] = ["eos", "eot", "eom"];

impl TextTokenizer {
    /// The tokenizer of a folder or a GGUF.
    ///
    /// # Errors
    /// No tokenizer, a malformed one, or splits that are not known here.
    pub fn from_model(model: &Model) -> Result<TextTokenizer> {
        match &model.origin {
            Origin::HuggingFace(folder) => TextTokenizer::from_folder(folder, model.config.vocab_size),
            Origin::Gguf(file) => {
                check_vocabulary_size(file.path(), &file.metadata, model.config.vocab_size)?;
                TextTokenizer::from_metadata(file.path(), &file.metadata)
            }
        }
    }

    /// The tokenizer of a folder, for a model with `vocab_size` logits.
    ///
    /// # Errors
    /// As [`TextTokenizer::from_model`].
    pub fn from_folder(folder: &Path, vocab_size: usize) -> Result<TextTokenizer> {
        let mut tokenizer = TextTokenizer::from_metadata(folder, &describe_tokenizer(folder, vocab_size)?)?;
        tokenizer.original = Some(folder.join("tokenizer.json")).filter(|path| path.is_file());
        tokenizer.ends.extend(end_ids(folder)?);
        tokenizer.special_tokens.extend(further_special_tokens(folder)?);
        Ok(tokenizer)
    }

    /// The tokenizer that a GGUF's metadata describes. `path` names the file in errors.
    ///
    /// # Errors
    /// As [`TextTokenizer::from_model`].
    pub fn from_metadata(path: &Path, metadata: &Metadata) -> Result<TextTokenizer> {
        let vocabulary = Vocabulary::from_metadata(path, metadata)?;
        let pre = vocabulary.pre_tokenizer()?;
        let flag = |key: &str| metadata.get(key).and_then(crate::gguf::Value::as_bool);
        let add_bos = flag("tokenizer.ggml.add_bos_token").unwrap_or(pre.add_bos);
        let add_eos = flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
        let known = |id: usize| (id < vocabulary.tokens.len()).then_some(id as u32);
        // Where a token that is not known has to be added, llama.cpp takes its default.
        let special = |key: &str, is_added: bool| {
            metadata.unsigned(key).and_then(known).or_else(|| known(DEFAULT_SPECIAL).filter(|_| is_added))
        };
        let bos = special("tokenizer.ggml.bos_token_id", add_bos);
        let eos = special("tokenizer.ggml.eos_token_id", add_eos);
        Ok(TextTokenizer {
            add_bos: add_bos && bos.is_some(),
            add_eos: add_eos && eos.is_some(),
            bos,
            eos,
            chat_template: metadata.string("tokenizer.chat_template").map(str::to_string),
            special_tokens: special_tokens(metadata, &vocabulary),
            ends: ENDS.iter().filter_map(|kind| special_id(metadata, kind)).collect(),
            matched: Matched::new(&vocabulary),
            bpe: byte_level_bpe(&vocabulary)?,
            vocabulary,
            original: None,
        })
    }

    /// Ids of a plain text: BOS before it and EOS after it where the model wants them; control tokens that occur in
    /// the text are text. This is `llama_tokenize` with `add_special` and without `parse_special`, as
    /// llama-perplexity calls it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let body = self.encode_body(text, false)?;
        let bos = self.bos.filter(|_| self.add_bos);
        let eos = self.eos.filter(|_| self.add_eos);
        Ok(bos.into_iter().chain(body).chain(eos).collect())
    }

    /// Where transformers would give other ids than `ids`, which [`encode`](Self::encode) made of `text`: for tokens
    /// with rules that llama.cpp does not have, control tokens in the text, and text that is not NFC. `None` where
    /// there is no difference, or nothing to compare with.
    pub fn differs_from_transformers(&self, text: &str, ids: &[u32]) -> Option<Difference> {
        let body = usize::from(self.add_bos)..ids.len() - usize::from(self.add_eos);
        first_difference(self.original.as_deref()?, text, ids.get(body)?).ok()?
    }

    /// Ids of a rendered chat: control tokens in the text are taken as such, and nothing is added.
    pub fn encode_chat(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_body(text, true)
    }

    fn encode_body(&self, text: &str, parse_special: bool) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(text.len() / 3);
        for fragment in self.matched.cut(text, parse_special) {
            match fragment {
                Fragment::Token(id) => ids.push(id),
                Fragment::Text(text) => {
                    let encoded = self.bpe.encode_fast(text, false).map_err(|e| self.error(e))?;
                    ids.extend_from_slice(encoded.get_ids());
                }
            }
        }
        Ok(ids)
    }

    fn error(&self, error: tokenizers::Error) -> Error {
        Error::Tokenizer { path: self.vocabulary.path.clone(), detail: error.to_string() }
    }

    /// The text of ids, without control tokens; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        let shown = ids.iter().filter(|&&id| !self.is_control(id));
        let bytes: Vec<u8> = shown.flat_map(|&id| self.token_bytes(id)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The bytes a token stands for: of a control or user-defined token its text, of an unused id nothing. A
    /// character of several bytes may come as several tokens; [`TextTokenizer::stream`] puts them together.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let index = id as usize;
        match (self.vocabulary.types.get(index), self.vocabulary.tokens.get(index)) {
            (Some(TokenType::Unused), _) | (None, _) | (_, None) => Vec::new(),
            (Some(TokenType::Normal | TokenType::Byte), Some(text)) => bytes::decode(text),
            (Some(_), Some(text)) => text.as_bytes().to_vec(),
        }
    }

    /// A decoder for ids that come one by one.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder { tokenizer: self, pending: Vec::new() }
    }

    /// The token that begins a text, if there is one.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The token that ends a text, if there is one.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// True if [`TextTokenizer::encode`] puts BOS first.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// True if [`TextTokenizer::encode`] puts EOS last.
    pub fn add_eos(&self) -> bool {
        self.add_eos
    }

    /// True for tokens that end generation: EOS, the end of a turn or a message, all that generation_config.json names,
    /// and the ends of a turn that llama.cpp knows by their text.
    pub fn ends_generation(&self, id: u32) -> bool {
        self.ends.contains(&id) || self.vocabulary.tokens.get(id as usize).is_some_and(|t| ends_generation(t))
    }

    fn is_control(&self, id: u32) -> bool {
        matches!(self.vocabulary.types.get(id as usize), Some(TokenType::Control | TokenType::Unknown))
    }

    /// Number of ids, unused ones included.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.tokens.len()
    }

    /// llama.cpp's name of the pre-tokenizer.
    pub fn pre_tokenizer(&self) -> &str {
        &self.vocabulary.pre
    }

    /// The default chat template, in Jinja.
    pub fn chat_template(&self) -> Option<&str> {
        self.chat_template.as_deref()
    }

    /// The special tokens that a chat template finds under their names: `eos_token` and the like.
    pub fn special_tokens(&self) -> &Map<String, Json> {
        &self.special_tokens
    }

    /// SHA-256 of all that decides how text becomes ids. Equal digests: the same ids for every text.
    pub fn digest(&self) -> String {
        let mut hash = Sha256::new();
        // Aliases of one pre-tokenizer split alike.
        hash.update(PreTokenizer::find(&self.vocabulary.pre).map_or("", PreTokenizer::name));
        hash.update([0, u8::from(self.add_bos), u8::from(self.add_eos)]);
        for id in [self.bos.filter(|_| self.add_bos), self.eos.filter(|_| self.add_eos)] {
            hash.update(id.unwrap_or(u32::MAX).to_le_bytes());
        }
        for (token, kind) in self.vocabulary.tokens.iter().zip(&self.vocabulary.types) {
            hash.update((token.len() as u64).to_le_bytes());
            hash.update(token);
            hash.update([*kind as u8]);
        }
        for merge in &self.vocabulary.merges {
            hash.update((merge.len() as u64).to_le_bytes());
            hash.update(merge);
        }
        hex(hash.finalize())
    }
}

impl fmt::Debug for TextTokenizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TextTokenizer")
            .field("path", &self.vocabulary.path)
            .field("pre", &self.vocabulary.pre)
            .field("vocab_size", &self.vocab_size())
            .finish_non_exhaustive()
    }
}

/// `tokenizer.ggml.<kind>_token_id`
fn special_id(metadata: &Metadata, kind: &str) -> Option<u32> {
    u32::try_from(metadata.unsigned(&format!("tokenizer.ggml.{kind}_token_id"))?).ok()
}

fn special_tokens(metadata: &Metadata, vocabulary: &Vocabulary) -> Map<String, Json> {
    let text = |kind: &str| vocabulary.tokens.get(special_id(metadata, kind)? as usize);
    let known = SPECIAL_TOKENS
        .iter()
        .filter_map(|(kind, name)| Some((name.to_string(), text(kind)?.as_str().into())));
    known.collect()
}

/// Special tokens of tokenizer_config.json that a GGUF has no key for: a list, or tokens under names of their own.
fn further_special_tokens(folder: &Path) -> Result<Map<String, Json>> {
    let config =
        json::read_optional::<Map<String, Json>>(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
    let text = |token: &Json| token.as_str().or_else(|| token.get("content")?.as_str()).map(Json::from);
    let mut found = Map::new();
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        match config.get(key) {
            Some(Json::Array(tokens)) => {
                found.insert("additional_special_tokens".into(), tokens.iter().filter_map(text).collect());
            }
            Some(Json::Object(named)) => {
                found.extend(named.iter().filter_map(|(name, token)| Some((name.clone(), text(token)?))));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// `eos_token_id` of generation_config.json, or else of config.json: an id, or several.
fn end_ids(folder: &Path) -> Result<Vec<u32>> {
    for file in ["generation_config.json", "config.json"] {
        let config = json::read_optional::<Map<String, Json>>(&folder.join(file))?.unwrap_or_default();
        let ids = match config.get("eos_token_id") {
            Some(Json::Array(ids)) => ids.as_slice(),
            Some(id) => std::slice::from_ref(id),
            None => continue,
        };
        return Ok(ids.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect());
    }
    Ok(Vec::new())
}

/// Puts the bytes of tokens together to whole characters.
#[derive(Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t TextTokenizer,
    pending: Vec<u8>,
}

impl StreamDecoder<'_> {
    /// Takes a token and returns the text that is complete with it; control tokens give none.
    pub fn push(&mut self, id: u32) -> String {
        if self.tokenizer.is_control(id) {
            return String::new();
        }
        self.pending.extend(self.tokenizer.token_bytes(id));
        let complete = complete_prefix(&self.pending);
        let rest = self.pending.split_off(complete);
        String::from_utf8_lossy(&std::mem::replace(&mut self.pending, rest)).into_owned()
    }

    /// What is left, with U+FFFD for a character that never became whole.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Length of `bytes` without a character at the end that more bytes could still complete.
fn complete_prefix(bytes: &[u8]) -> usize {
    let mut start = 0;
    loop {
        match std::str::from_utf8(&bytes[start..]) {
            Ok(_) => return bytes.len(),
            Err(e) => match e.error_len() {
                Some(bad) => start += e.valid_up_to() + bad,
                None => return start + e.valid_up_to(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_character_that_can_still_be_completed_waits() {
        assert_eq!(complete_prefix("aä".as_bytes()), 3);
        assert_eq!(complete_prefix(&"aä".as_bytes()[..2]), 1);
        assert_eq!(complete_prefix(b"a\xff"), 2);
        assert_eq!(complete_prefix(b"\xff\xe2\x82"), 1);
        assert_eq!(complete_prefix(b""), 0);
    }
}
