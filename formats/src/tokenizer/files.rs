//! The tokenizer files of a Hugging Face folder, as they stand.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::Result;
use crate::json;

/// What a folder says about its tokenizer.
#[derive(Debug)]
pub(crate) struct TokenizerFiles {
    pub folder: PathBuf,
    /// tokenizer.json
    pub json: Option<TokenizerJson>,
    /// tokenizer_config.json
    pub config: Option<Map<String, Value>>,
}

/// tokenizer.json, the parts that are looked at.
#[derive(Debug, Deserialize)]
pub(crate) struct TokenizerJson {
    #[serde(default, deserialize_with = "null_as_default")]
    pub added_tokens: Vec<IdentifiedToken>,
    #[serde(default)]
    pub normalizer: Value,
    #[serde(default)]
    pub pre_tokenizer: Value,
    #[serde(default)]
    pub post_processor: Value,
    pub model: BpeJson,
}

/// `model` of tokenizer.json.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct BpeJson {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub vocab: VocabJson,
    #[serde(default)]
    pub merges: Vec<MergeJson>,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

/// A merge as `left right` or, since transformers 4.45, as a pair.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum MergeJson {
    Joined(String),
    Pair(String, String),
}

/// Tokens and ids in file order; duplicates are kept to be seen. Empty for a model that is not BPE.
#[derive(Debug, Default)]
pub(crate) struct VocabJson(pub Vec<(String, u32)>);

/// An entry of `added_tokens`, or of `added_tokens_decoder` without its id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct AddedToken {
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
}

impl AddedToken {
    /// Names of the rules by which it is matched that have no place in a GGUF.
    pub fn rules(&self) -> impl Iterator<Item = &'static str> {
        let rules = [("lstrip", self.lstrip), ("rstrip", self.rstrip), ("single_word", self.single_word)];
        rules.into_iter().filter_map(|(name, set)| set.then_some(name))
    }
}

/// An added token with its id.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct IdentifiedToken {
    pub id: u32,
    #[serde(flatten)]
    pub token: AddedToken,
}

impl TokenizerFiles {
    /// Reads tokenizer.json and tokenizer_config.json where they are there.
    pub fn read(folder: &Path) -> Result<TokenizerFiles> {
        let config = json::read_optional(&folder.join("tokenizer_config.json"))?;
        let json = json::read_optional(&folder.join("tokenizer.json"))?;
        Ok(TokenizerFiles { folder: folder.to_path_buf(), json, config })
    }

    /// A string of tokenizer_config.json.
    pub fn config_str(&self, key: &str) -> Option<&str> {
        self.config.as_ref()?.get(key)?.as_str()
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl<'de> Deserialize<'de> for VocabJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;
        impl<'de> Visitor<'de> for Pairs {
            type Value = VocabJson;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tokens to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabJson, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(VocabJson(pairs))
            }

            // A Unigram model's list: read past it, so that the model's type can be named in the error.
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<VocabJson, A::Error> {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(VocabJson::default())
            }
        }
        deserializer.deserialize_any(Pairs)
    }
}
