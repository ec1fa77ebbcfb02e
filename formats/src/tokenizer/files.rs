//! The tokenizer files of a Hugging Face folder, as they are.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use super::bytes::escape_space;
use crate::error::Result;
use crate::json;
use crate::limits::{MAX_MERGES, MAX_TOKENS};

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
    pub merges: MergesJson,
    #[serde(default)]
    pub ignore_merges: bool,
    #[serde(default)]
    pub byte_fallback: bool,
    pub continuing_subword_prefix: Option<String>,
    pub end_of_word_suffix: Option<String>,
}

/// Merges as `left right`, best first. They are written so or, since transformers 4.45, as pairs.
#[derive(Debug, Default)]
pub(crate) struct MergesJson(pub Vec<String>);

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
                    if pairs.len() == MAX_TOKENS {
                        return Err(too_many("tokens", MAX_TOKENS));
                    }
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

impl<'de> Deserialize<'de> for MergesJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Merges;
        impl<'de> Visitor<'de> for Merges {
            type Value = MergesJson;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<MergesJson, A::Error> {
                let mut merges = Vec::new();
                while let Some(MergeJson(merge)) = list.next_element()? {
                    if merges.len() == MAX_MERGES {
                        return Err(too_many("merges", MAX_MERGES));
                    }
                    merges.push(merge);
                }
                Ok(MergesJson(merges))
            }
        }
        deserializer.deserialize_seq(Merges)
    }
}

struct MergeJson(String);

impl<'de> Deserialize<'de> for MergeJson {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct JoinedOrPair;
        impl<'de> Visitor<'de> for JoinedOrPair {
            type Value = MergeJson;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: a text or a pair of texts")
            }

            fn visit_str<E: serde::de::Error>(self, merge: &str) -> Result<MergeJson, E> {
                Ok(MergeJson(merge.into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<MergeJson, A::Error> {
                let mut side = |index| {
                    let side: Option<String> = pair.next_element()?;
                    side.ok_or_else(|| serde::de::Error::invalid_length(index, &self))
                };
                let (left, right) = (side(0)?, side(1)?);
                Ok(MergeJson(format!("{} {}", escape_space(&left), escape_space(&right))))
            }
        }
        deserializer.deserialize_any(JoinedOrPair)
    }
}

fn too_many<E: serde::de::Error>(what: &str, limit: usize) -> E {
    E::custom(format!("more than {limit} {what}: no model has so many"))
}
