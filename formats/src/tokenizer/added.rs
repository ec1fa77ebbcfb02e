//! Added tokens: which there are, their ids, and which are special.
//!
//! tokenizer.json, tokenizer_config.json and (in older folders) added_tokens.json and special_tokens_map.json each
//! tell a part. They are put together as transformers 4's fast tokenizers do when they load a folder, because that
//! is what a model was trained with and what convert_hf_to_gguf.py sees.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::files::{AddedToken, TokenizerFiles};
use crate::error::{Error, Result};
use crate::json;

/// Named roles of tokenizer_config.json, in the order in which tokens that are new get their ids.
const NAMED: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// Added tokens on top of a base vocabulary.
pub(super) struct AddedTokens<'a> {
    files: &'a TokenizerFiles,
    base: &'a HashMap<&'a str, u32>,
    /// By id.
    tokens: BTreeMap<u32, AddedToken>,
    ids: HashMap<String, u32>,
}

impl<'a> AddedTokens<'a> {
    /// Reads all sources. `base` is the vocabulary of the BPE model.
    ///
    /// # Errors
    /// An id that differs from the one a loader gives, or a malformed file.
    pub fn read(
        files: &'a TokenizerFiles,
        base: &'a HashMap<&'a str, u32>,
    ) -> Result<BTreeMap<u32, AddedToken>> {
        let mut added = AddedTokens { files, base, tokens: BTreeMap::new(), ids: HashMap::new() };
        for entry in files.json.iter().flat_map(|json| &json.added_tokens) {
            added.declare(entry.id, entry.token.clone(), "tokenizer.json")?;
        }
        let mut config = files.config.clone().unwrap_or_default();
        let (file, declared) = added.declared(&mut config)?;
        for (id, token) in declared {
            added.declare(id, token, file)?;
        }
        for name in named_tokens(&config) {
            added.name(name);
        }
        // Those that the files have already stay as they are.
        for token in extra_tokens(&config).filter(|token| !token.is_empty()) {
            if !added.ids.contains_key(&token) {
                added.name(token);
            }
        }
        Ok(added.tokens)
    }

    /// Tokens that the configuration gives ids, by id, and the file: `added_tokens_decoder`, or what replaced it
    /// before it existed. Its predecessor special_tokens_map.json is merged into `config`.
    fn declared(&self, config: &mut Map<String, Value>) -> Result<(&'static str, Vec<(u32, AddedToken)>)> {
        let folder = &self.files.folder;
        if let Some(decoder) = config.get("added_tokens_decoder") {
            let bad = |e: serde_json::Error| Error::Json {
                path: folder.join("tokenizer_config.json"),
                detail: format!("added_tokens_decoder: {e}"),
            };
            let declared = BTreeMap::<u32, AddedToken>::deserialize(decoder).map_err(bad)?;
            return Ok(("tokenizer_config.json", declared.into_iter().collect()));
        }
        let special = json::read_optional::<Map<String, Value>>(&folder.join("special_tokens_map.json"))?;
        config.extend(special.unwrap_or_default());
        let named = named_tokens(config);
        let file = "added_tokens.json";
        let listed = json::read_optional::<BTreeMap<String, u32>>(&folder.join(file))?.unwrap_or_default();
        let token =
            |content| AddedToken { special: named.contains(&content), content, ..AddedToken::default() };
        let mut declared: Vec<_> = listed.into_iter().map(|(content, id)| (id, token(content))).collect();
        declared.sort_by_key(|(id, _)| *id);
        // tokenizer.json knows better what is special.
        declared.retain(|(_, token)| !self.ids.contains_key(&token.content));
        Ok((file, declared))
    }

    /// Adds or updates a token whose id a file tells.
    fn declare(&mut self, id: u32, token: AddedToken, file: &str) -> Result<()> {
        if token.content.is_empty() {
            return Ok(());
        }
        let loaded = self.loaded_id(&token.content);
        if loaded != id {
            let path = self.files.folder.join(file);
            return Err(Error::MisplacedToken { path, token: token.content, id, loaded });
        }
        self.insert(id, token);
        Ok(())
    }

    /// Makes a token special that the configuration names, and adds it if it is new.
    fn name(&mut self, named: String) {
        let known = self.ids.get(&named).copied();
        match known.and_then(|id| self.tokens.get_mut(&id)) {
            Some(token) => token.special = true,
            None if named.is_empty() => {}
            None => {
                let token = AddedToken { content: named, special: true, ..AddedToken::default() };
                self.insert(self.loaded_id(&token.content), token);
            }
        }
    }

    fn insert(&mut self, id: u32, token: AddedToken) {
        self.ids.insert(token.content.clone(), id);
        self.tokens.insert(id, token);
    }

    /// The id that loading gives a token: its own if it is known, else the next after all others.
    fn loaded_id(&self, content: &str) -> u32 {
        if let Some(&id) = self.ids.get(content).or_else(|| self.base.get(content)) {
            return id;
        }
        let base = self.base.len() as u32;
        match self.tokens.last_key_value() {
            Some((&last, _)) if last >= base => last.saturating_add(1),
            _ => base,
        }
    }
}

/// Tokens that the configuration gives a role, or calls special without one.
fn named_tokens(config: &Map<String, Value>) -> Vec<String> {
    let single = NAMED.iter().filter_map(|role| match config.get(*role) {
        Some(value) => content(value),
        None => class_default(config, role).map(str::to_string),
    });
    let additional = config.get("additional_special_tokens").and_then(Value::as_array);
    let additional = additional.into_iter().flatten().filter_map(content);
    single.chain(additional).collect()
}

/// Special tokens without a role as newer versions of transformers name them: a list, or a map with a name for each.
fn extra_tokens(config: &Map<String, Value>) -> impl Iterator<Item = String> {
    let extra = config.get("extra_special_tokens");
    let list = extra.and_then(Value::as_array).into_iter().flatten();
    let map = extra.and_then(Value::as_object).into_iter().flat_map(Map::values);
    list.chain(map).filter_map(content)
}

/// A token as text, or as an object with its content.
fn content(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value.get("content")?.as_str()).map(str::to_string)
}

/// What a tokenizer class takes for a role that the configuration does not mention (null is a mention).
fn class_default(config: &Map<String, Value>, role: &str) -> Option<&'static str> {
    let class = config.get("tokenizer_class")?.as_str()?;
    let roles: &[&str] = match class.strip_suffix("Fast").unwrap_or(class) {
        "Qwen2Tokenizer" => &["unk_token", "eos_token", "pad_token"],
        "GPT2Tokenizer" => &["unk_token", "bos_token", "eos_token"],
        _ => &[],
    };
    roles.contains(&role).then_some("<|endoftext|>")
}
