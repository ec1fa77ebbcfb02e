//! tokenizer.json and tokenizer_config.json of a tokenizer that a GGUF's metadata describes.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::pre::{GPT2, PreTokenizer};
use super::vocabulary::{TokenType, Vocabulary};
use crate::error::Result;
use crate::gguf::{Metadata, Value as GgufValue};

/// Roles of tokenizer_config.json, and the keys below `tokenizer.ggml.` of their ids.
const ROLES: [(&str, &str); 5] = [
    ("bos_token", "bos_token_id"),
    ("eos_token", "eos_token_id"),
    ("pad_token", "padding_token_id"),
    ("unk_token", "unknown_token_id"),
    ("mask_token", "mask_token_id"),
];

/// The class that takes tokenizer.json as it is, in every version of transformers.
pub(crate) const TOKENIZER_CLASS: &str = "PreTrainedTokenizerFast";

/// Contents of the two files.
pub(crate) struct TokenizerParts {
    pub tokenizer: Value,
    pub config: Map<String, Value>,
}

/// Both files, so that Hugging Face's tokenizer gives the ids that llama.cpp's gives. `path` names the source in
/// errors.
///
/// # Errors
/// No tokenizer in the metadata, one that is not byte-level BPE, or splits that are not known here.
pub(crate) fn rebuild(path: &Path, metadata: &Metadata) -> Result<TokenizerParts> {
    let vocabulary = Vocabulary::from_metadata(path, metadata)?;
    let pre = vocabulary.pre_tokenizer()?;
    let token = |key: &str| {
        let id = metadata.unsigned(&format!("tokenizer.ggml.{key}"))?;
        Some((id, vocabulary.tokens.get(id)?.as_str()))
    };
    let adds = |kind: &str, default| {
        let flag = metadata.get(&format!("tokenizer.ggml.add_{kind}_token")).and_then(GgufValue::as_bool);
        flag.unwrap_or(default)
    };
    let (add_bos, add_eos) = (adds("bos", pre.add_bos), adds("eos", false));
    let around = [token("bos_token_id").filter(|_| add_bos), token("eos_token_id").filter(|_| add_eos)];

    let mut config = Map::new();
    config.insert("tokenizer_class".into(), TOKENIZER_CLASS.into());
    for (role, key) in ROLES {
        config.insert(role.into(), token(key).map(|(_, text)| text).into());
    }
    config.insert("add_bos_token".into(), add_bos.into());
    config.insert("add_eos_token".into(), add_eos.into());
    config.insert("clean_up_tokenization_spaces".into(), false.into());
    if let Some(template) = chat_template(metadata) {
        config.insert("chat_template".into(), template);
    }
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added_tokens(&vocabulary),
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer(pre),
        "post_processor": post_processor(around),
        "decoder": byte_level(true),
        "model": model(&vocabulary, pre),
    });
    Ok(TokenizerParts { tokenizer, config })
}

fn is_added(kind: TokenType) -> bool {
    matches!(kind, TokenType::Control | TokenType::UserDefined | TokenType::Unknown)
}

fn added_tokens(vocabulary: &Vocabulary) -> Value {
    let all = vocabulary.tokens.iter().zip(&vocabulary.types).enumerate();
    let added = all.filter(|(_, (_, kind))| is_added(**kind)).map(|(id, (token, kind))| {
        json!({
            "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": *kind != TokenType::UserDefined,
        })
    });
    added.collect()
}

/// The BPE. A loader numbers added tokens on from the end of its vocabulary, so that only those at the end can be
/// left out of it.
fn model(vocabulary: &Vocabulary, pre: &PreTokenizer) -> Value {
    let types = &vocabulary.types;
    let used = types.iter().rposition(|kind| *kind != TokenType::Unused).map_or(0, |last| last + 1);
    let base = types[..used].iter().rposition(|kind| !is_added(*kind)).map_or(0, |last| last + 1);
    let ids: Map<String, Value> =
        vocabulary.tokens[..base].iter().cloned().zip((0u64..).map(Value::from)).collect();
    json!({
        "type": "BPE",
        "dropout": null,
        "unk_token": null,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": false,
        "byte_fallback": false,
        "ignore_merges": pre.ignore_merges,
        "vocab": ids,
        "merges": vocabulary.merges,
    })
}

fn pre_tokenizer(pre: &PreTokenizer) -> Value {
    // GPT-2's regex is the one that ByteLevel has built in, and that clients without regexes know.
    let (splits, built_in) = match pre.splits {
        [splits @ .., last] if *last == GPT2 => (splits, true),
        splits => (splits, false),
    };
    let split = |regex: &&str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = splits.iter().map(split).collect();
    steps.push(byte_level(built_in));
    match steps.len() {
        1 => steps.remove(0),
        _ => json!({"type": "Sequence", "pretokenizers": steps}),
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": use_regex})
}

/// Puts BOS before and EOS after every text, where they are given.
fn post_processor([bos, eos]: [Option<(usize, &str)>; 2]) -> Value {
    if bos.is_none() && eos.is_none() {
        return byte_level(false);
    }
    let around = |name: &str, segment: u8| {
        let special = |token: Option<(usize, &str)>| {
            token.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": segment}}))
        };
        let sequence = json!({"Sequence": {"id": name, "type_id": segment}});
        special(bos).into_iter().chain([sequence]).chain(special(eos))
    };
    let tokens: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|(id, text)| (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    json!({
        "type": "TemplateProcessing",
        "single": around("A", 0).collect::<Vec<_>>(),
        "pair": around("A", 0).chain(around("B", 1)).collect::<Vec<_>>(),
        "special_tokens": tokens,
    })
}

/// The template, or a list of all with their names where there are several.
fn chat_template(metadata: &Metadata) -> Option<Value> {
    let key = "tokenizer.chat_template";
    let default = metadata.string(key);
    let names = metadata.strings("tokenizer.chat_templates").unwrap_or_default();
    let named = names.into_iter().filter_map(|name| Some((name, metadata.string(&format!("{key}.{name}"))?)));
    let all: Vec<_> = default.map(|template| ("default", template)).into_iter().chain(named).collect();
    match (default, all.as_slice()) {
        (_, []) => None,
        (Some(default), [_]) => Some(default.into()),
        _ => Some(all.iter().map(|(name, text)| json!({"name": name, "template": text})).collect()),
    }
}
