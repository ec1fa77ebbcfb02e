//! Special tokens: their ids, and which are added to a text.
//!
//! The rules are those of gguf-py's `SpecialVocab`: tokenizer_config.json names tokens whose ids are looked up among
//! tokenizer.json's added tokens; config.json's ids fill what is left; the post-processor tells what is added. What
//! llama.cpp would not take for a token's id is not written.

use serde_json::{Map, Value as Json};

use crate::gguf::{Metadata, Value};
use crate::tokenizer::files::{TokenizerFiles, TokenizerJson};
use crate::warning::Warning;

/// Kinds of special tokens, and the keys below `tokenizer.ggml.` of their ids. `cls` has none.
const KINDS: [(&str, Option<&str>); 9] = [
    ("bos", Some("bos_token_id")),
    ("eos", Some("eos_token_id")),
    ("unk", Some("unknown_token_id")),
    // llama.cpp's spelling.
    ("sep", Some("seperator_token_id")),
    ("pad", Some("padding_token_id")),
    ("cls", None),
    ("mask", Some("mask_token_id")),
    ("eot", Some("eot_token_id")),
    ("eom", Some("eom_token_id")),
];

/// The kinds that every tokenizer may have; the others come up where a post-processor replaces the end token.
const USUAL_KINDS: usize = 7;

/// Kinds that can be added to a text.
const ADDED_KINDS: [&str; 3] = ["bos", "eos", "sep"];

/// Special tokens found so far, in the order in which they were found.
struct Specials {
    ids: Vec<(&'static str, u32)>,
    add: Vec<(&'static str, bool)>,
    /// tokenizer_config.json as the post-processor corrects it; `None` if it is absent or empty.
    config: Option<Map<String, Json>>,
    /// How many of [`KINDS`] are looked for.
    kinds: usize,
    warnings: Vec<Warning>,
}

/// Adds `tokenizer.ggml.*_token_id` and `tokenizer.ggml.add_*_token`, and says what it leaves out.
pub(super) fn add_special_tokens(
    metadata: &mut Metadata,
    files: &TokenizerFiles,
    config_json: &Map<String, Json>,
    vocab_size: usize,
) -> Vec<Warning> {
    let config = files.config.clone().filter(|c| !c.is_empty());
    let mut specials =
        Specials { ids: Vec::new(), add: Vec::new(), config, kinds: USUAL_KINDS, warnings: Vec::new() };
    if let Some(json) = &files.json {
        specials.read_post_processor(json);
    }
    specials.read_tokenizer_config(files.json.as_ref());
    specials.read_config(config_json, vocab_size);

    for (kind, id) in &specials.ids {
        if let Some((_, Some(key))) = KINDS.iter().find(|(k, _)| k == kind) {
            metadata.set(format!("tokenizer.ggml.{key}"), Value::U32(*id));
        }
    }
    for (kind, add) in specials.add.iter().filter(|(kind, _)| ADDED_KINDS.contains(kind)) {
        metadata.set(format!("tokenizer.ggml.add_{kind}_token"), Value::Bool(*add));
    }
    specials.warnings.extend(clear_flags_without_token(metadata));
    specials.warnings
}

/// Keys of the ids of special tokens in a GGUF's metadata, each with its id; `None` for a value that is the id of no
/// token. Empty without a vocabulary.
pub fn special_token_ids(metadata: &Metadata) -> Vec<(String, Option<usize>)> {
    let Some(vocab_size) = metadata.array_len("tokenizer.ggml.tokens") else { return Vec::new() };
    let is_id = |key: &&str| key.starts_with("tokenizer.ggml.") && key.ends_with("_token_id");
    let keys = metadata.iter().map(|(key, _)| key).filter(is_id);
    keys.map(|key| (key.to_string(), metadata.unsigned(key).filter(|id| *id < vocab_size))).collect()
}

/// Takes out of a GGUF's metadata the ids of no token, and says which.
pub(crate) fn drop_bad_ids(metadata: &mut Metadata) -> Vec<Warning> {
    let Some(vocab_size) = metadata.array_len("tokenizer.ggml.tokens") else { return Vec::new() };
    let mut warnings = Vec::new();
    for (key, id) in special_token_ids(metadata) {
        match id {
            // The one type in which llama.cpp reads it.
            Some(id) => metadata.set(key, Value::U32(id as u32)),
            None => {
                let found = metadata.remove(&key).and_then(|v| match v.as_u64() {
                    Some(id) => Some(id.to_string()),
                    None => Some(v.as_i64()?.to_string()),
                });
                let found = found.unwrap_or_else(|| "no whole number".into());
                warnings.push(Warning::BadTokenId { key, found, vocab_size });
            }
        }
    }
    warnings.extend(clear_flags_without_token(metadata));
    warnings
}

/// Where a text is to be given a token that is not known, llama.cpp adds the one with id 11, whatever that is, and
/// transformers none.
fn clear_flags_without_token(metadata: &mut Metadata) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for kind in ["bos", "eos"] {
        let flag = format!("tokenizer.ggml.add_{kind}_token");
        let added = metadata.get(&flag).and_then(Value::as_bool) == Some(true);
        if added && metadata.get(&format!("tokenizer.ggml.{kind}_token_id")).is_none() {
            metadata.set(flag, Value::Bool(false));
            warnings.push(Warning::UnknownSpecial { kind });
        }
    }
    warnings
}

impl Specials {
    fn kinds(&self) -> impl Iterator<Item = &'static str> + use<> {
        KINDS.iter().take(self.kinds).map(|(kind, _)| *kind)
    }

    /// The first id of a kind counts.
    fn set_id(&mut self, kind: &'static str, id: u32) {
        if !self.ids.iter().any(|(k, _)| *k == kind) {
            self.ids.push((kind, id));
        }
    }

    fn set_add(&mut self, kind: &'static str, add: bool) {
        match self.add.iter_mut().find(|(k, _)| *k == kind) {
            Some((_, value)) => *value = add,
            None => self.add.push((kind, add)),
        }
    }

    fn has_add(&self, kind: &str) -> bool {
        self.add.iter().any(|(k, _)| *k == kind)
    }

    /// What tokenizer_config.json says about `key`; null where it says nothing.
    fn named(&self, key: &str) -> Json {
        self.config.as_ref().and_then(|c| c.get(key)).cloned().unwrap_or_default()
    }

    fn rename(&mut self, key: &str, value: &Json) {
        if let Some(config) = &mut self.config {
            config.insert(key.into(), value.clone());
        }
    }

    fn read_post_processor(&mut self, json: &TokenizerJson) {
        let mut named = Named {
            bos: self.named("bos_token"),
            cls: self.named("cls_token"),
            eos: self.named("eos_token"),
            sep: self.named("sep_token"),
        };
        if !truthy(&named.bos) && truthy(&named.cls) {
            named.bos = named.cls.clone();
            self.rename("bos_token", &named.bos);
        }
        if !truthy(&named.eos) && truthy(&named.sep) {
            named.eos = named.sep.clone();
            self.rename("eos_token", &named.eos);
        }
        if !truthy(&json.post_processor) {
            return;
        }
        let processors = match json.post_processor.get("processors").and_then(Json::as_array) {
            Some(list) => list.as_slice(),
            None => std::slice::from_ref(&json.post_processor),
        };
        for processor in processors {
            match processor.get("type").and_then(Json::as_str) {
                Some("ByteLevel") => {
                    for kind in ["bos", "eos"] {
                        if !self.has_add(kind) {
                            self.set_add(kind, false);
                        }
                    }
                }
                Some("RobertaProcessing") => self.read_roberta(processor, &mut named),
                Some("TemplateProcessing") => self.read_template(processor, &mut named),
                _ => {}
            }
        }
    }

    fn read_roberta(&mut self, processor: &Json, named: &mut Named) {
        for kind in ADDED_KINDS {
            self.set_add(kind, true);
        }
        if self.config.is_none() {
            return;
        }
        let first =
            |key: &str, default: &Json| processor.pointer(&format!("/{key}/0")).unwrap_or(default).clone();
        if !truthy(&named.cls) {
            named.cls = first("cls", &named.bos);
            self.rename("cls_token", &named.cls);
        }
        if !truthy(&named.sep) {
            named.sep = first("sep", &named.eos);
            self.rename("sep_token", &named.sep);
        }
    }

    /// Whether a template puts special tokens around one text, and between two.
    fn read_template(&mut self, processor: &Json, named: &mut Named) {
        let list =
            |key: &str| processor.get(key).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
        let (mut first, mut last) = (Json::Null, Json::Null);
        if let [start, .., end] = list("single") {
            first = special_of(start);
            if truthy(&first) {
                self.read_first(&first, named);
            }
            last = special_of(end);
            if truthy(&last) {
                self.read_last(&last, named);
            }
        }
        let mut pair = list("pair");
        if let [start, rest @ ..] = pair
            && truthy(&first)
            && special_of(start) == first
        {
            pair = rest;
        }
        if let [rest @ .., end] = pair
            && truthy(&last)
            && special_of(end) == last
        {
            pair = rest;
        }
        // A, separators, B
        let sequence = |item: &Json| item.pointer("/Sequence/id").and_then(Json::as_str).map(str::to_string);
        if let [a, between @ .., b] = pair
            && sequence(a).as_deref() == Some("A")
            && sequence(b).as_deref() == Some("B")
            && let Some(separator) = between.first().map(special_of)
        {
            let is_separator = |token: &Json| truthy(token) && (*token == named.sep || *token == named.eos);
            let second = if between.len() == 2 { special_of(&between[1]) } else { Json::Null };
            let add = (is_separator(&separator) && !truthy(&last)) || is_separator(&second);
            self.set_add("sep", add);
            if add && !truthy(&named.sep) {
                self.rename("sep_token", &named.eos);
            }
        }
    }

    fn read_first(&mut self, first: &Json, named: &mut Named) {
        if self.config.is_none() {
            named.bos = first.clone();
        } else if *first != named.bos && *first != named.cls {
            if !truthy(&named.bos) {
                named.bos = first.clone();
                self.rename("bos_token", first);
            }
            if !truthy(&named.cls) {
                named.cls = first.clone();
                self.rename("cls_token", first);
            }
        }
        self.set_add("bos", *first == named.bos || *first == named.cls);
    }

    fn read_last(&mut self, last: &Json, named: &mut Named) {
        if self.config.is_some() && *last != named.eos {
            // The template ends texts with another token than the configuration: that one ends a turn, or a message.
            if let Some((kind, _)) = KINDS.get(self.kinds) {
                self.kinds += 1;
                self.rename(&format!("{kind}_token"), &named.eos);
            }
            self.rename("eos_token", last);
        }
        named.eos = last.clone();
        self.set_add("eos", true);
    }

    fn read_tokenizer_config(&mut self, json: Option<&TokenizerJson>) {
        let Some(config) = self.config.take() else { return };
        let added = json.map(|json| json.added_tokens.as_slice()).unwrap_or_default();
        for kind in self.kinds() {
            if let Some(add) = config.get(&format!("add_{kind}_token")).and_then(Json::as_bool)
                && !self.has_add(kind)
            {
                self.set_add(kind, add);
            }
            let entry = config.get(&format!("{kind}_token"));
            let content = entry.and_then(|e| e.as_str().or_else(|| e.get("content")?.as_str()));
            let known = content.and_then(|content| added.iter().find(|entry| entry.token.content == content));
            if let Some(known) = known {
                self.set_id(kind, known.id);
            }
        }
    }

    fn read_config(&mut self, config: &Map<String, Json>, vocab_size: usize) {
        for kind in self.kinds() {
            let key = format!("{kind}_token_id");
            let inner = || config.get("text_config")?.get(&key);
            let value = config.get(&key).filter(|v| !v.is_null()).or_else(inner);
            // A list of ids (several end tokens) has no place in a GGUF and is left out.
            let Some(number) = value.filter(|v| v.is_i64() || v.is_u64()) else { continue };
            match number.as_u64().filter(|id| *id < vocab_size as u64) {
                Some(id) => self.set_id(kind, id as u32),
                None => {
                    let (key, found) = (format!("config.json: {key}"), number.to_string());
                    self.warnings.push(Warning::BadTokenId { key, found, vocab_size });
                }
            }
        }
    }
}

/// Special tokens by their names, as strings or as objects.
struct Named {
    bos: Json,
    cls: Json,
    eos: Json,
    sep: Json,
}

/// The special token at one place of a template.
fn special_of(item: &Json) -> Json {
    item.pointer("/SpecialToken/id").cloned().unwrap_or_default()
}

/// Python's idea of a value that is there.
fn truthy(value: &Json) -> bool {
    match value {
        Json::Null => false,
        Json::Bool(b) => *b,
        Json::String(s) => !s.is_empty(),
        Json::Array(a) => !a.is_empty(),
        Json::Object(o) => !o.is_empty(),
        Json::Number(n) => n.as_f64() != Some(0.0),
    }
}
