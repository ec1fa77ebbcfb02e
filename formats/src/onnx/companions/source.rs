//! What comes along with a model besides its weights: tokenizer, configurations and license, copied from a folder or
//! rebuilt from a GGUF's metadata.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Companion, push_json};
use crate::describe::chat_templates::template_files;
use crate::describe::general::sampling_of;
use crate::describe::special::drop_bad_ids;
use crate::describe::{check_vocabulary_size, describe_tokenizer};
use crate::error::{Error, Result};
use crate::gguf::{GgufFile, Metadata};
use crate::model::{Model, Origin};
use crate::tokenizer::rebuild::{TOKENIZER_CLASS, TokenizerParts, rebuild};
use crate::warning::Warning;
use crate::{json, small_file};

const TOKENIZER: &str = "tokenizer.json";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
const GENERATION_CONFIG: &str = "generation_config.json";
const TEMPLATE: &str = "chat_template.jinja";

/// Files of a checkpoint that are copied as they are, where it has them.
const COPIED: [&str; 5] =
    ["vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "LICENSE"];

/// Those that are looked into.
const READ: [&str; 4] = [TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, TEMPLATE];

/// Keys of token ids in a GGUF, and in generation_config.json.
const TOKEN_IDS: [(&str, &str); 5] = [
    ("tokenizer.ggml.bos_token_id", "bos_token_id"),
    ("tokenizer.ggml.eos_token_id", "eos_token_id"),
    ("tokenizer.ggml.eot_token_id", "eos_token_id"),
    ("tokenizer.ggml.eom_token_id", "eos_token_id"),
    ("tokenizer.ggml.padding_token_id", "pad_token_id"),
];

/// Whether a file of this name may come along.
pub(super) fn may_come_along(name: &str) -> bool {
    COPIED.contains(&name) || READ.contains(&name)
}

/// What comes along.
#[derive(Debug, Default)]
pub(super) struct SourceCompanions {
    pub files: Vec<Companion>,
    /// config.json, which each client wants in its own form; empty if there is none.
    pub config: Map<String, Value>,
    /// generation_config.json, which is among the files, too.
    pub generation: Map<String, Value>,
    /// What its user should know of.
    pub warnings: Vec<Warning>,
}

impl SourceCompanions {
    /// # Errors
    /// Files of a folder that are there and cannot be read; a GGUF whose tokens are not those of its embedding.
    pub fn of(model: &Model) -> Result<SourceCompanions> {
        let mut companions = SourceCompanions::default();
        match &model.origin {
            Origin::HuggingFace(folder) => companions.copy(folder, model.config.vocab_size)?,
            Origin::Gguf(file) => companions.rebuild(file, model)?,
        }
        Ok(companions)
    }

    fn copy(&mut self, folder: &Path, vocab_size: usize) -> Result<()> {
        self.config = json::read(&folder.join("config.json"))?;
        self.drop_bad_ids("config.json", vocab_size, |companions| &mut companions.config);
        for name in COPIED {
            self.copy_file(folder, name)?;
        }
        self.copy_tokenizer(folder, vocab_size)?;
        self.copy_generation_config(folder, vocab_size)
    }

    /// Copies a file, if it is there.
    fn copy_file(&mut self, folder: &Path, name: &str) -> Result<bool> {
        let path = folder.join(name);
        let Some(bytes) = small_file::read_optional(&path)? else { return Ok(false) };
        // What Python's json writes is not always what JavaScript reads.
        let is_json = path.extension().is_some_and(|e| e == "json");
        let bytes = if is_json { json::to_standard(&path, bytes)? } else { bytes };
        self.files.push(Companion { path: name.into(), bytes });
        Ok(true)
    }

    /// tokenizer.json, made of vocab.json and merges.txt if need be, and tokenizer_config.json with the template in it:
    /// not every client looks for it elsewhere.
    fn copy_tokenizer(&mut self, folder: &Path, vocab_size: usize) -> Result<()> {
        let mut config = json::read_optional::<Map<String, Value>>(&folder.join(TOKENIZER_CONFIG))?;
        if !self.copy_file(folder, TOKENIZER)? {
            let parts =
                describe_tokenizer(folder, vocab_size).and_then(|metadata| rebuild(folder, &metadata));
            match parts {
                Ok(parts) => {
                    push_json(&mut self.files, TOKENIZER, parts.tokenizer);
                    config.get_or_insert(parts.config);
                }
                Err(error) => self.warn_of_missing_tokenizer(&error),
            }
        }
        let has_template =
            |config: &Map<String, Value>| config.get("chat_template").is_some_and(|t| !t.is_null());
        let template = match &config {
            Some(config) if has_template(config) => Value::Null,
            _ => template_files(folder)?,
        };
        // Files come before the configuration in transformers, so that the default one alone would hide the others.
        if !template.is_array() {
            self.copy_file(folder, TEMPLATE)?;
        }
        if template.is_null() && self.copy_file(folder, TOKENIZER_CONFIG)? {
            return Ok(());
        }
        let mut config = config.unwrap_or_default();
        config.entry("tokenizer_class").or_insert(TOKENIZER_CLASS.into());
        if !template.is_null() {
            config.insert("chat_template".into(), template);
        }
        push_json(&mut self.files, TOKENIZER_CONFIG, Value::Object(config));
        Ok(())
    }

    /// generation_config.json; one that cannot be read is no reason to stop.
    fn copy_generation_config(&mut self, folder: &Path, vocab_size: usize) -> Result<()> {
        match json::read_optional(&folder.join(GENERATION_CONFIG)) {
            Ok(config) => self.generation = config.unwrap_or_default(),
            Err(error) => {
                self.warnings.push(Warning::unreadable(folder.join(GENERATION_CONFIG), &error));
                return Ok(());
            }
        }
        if self.drop_bad_ids(GENERATION_CONFIG, vocab_size, |companions| &mut companions.generation) {
            push_json(&mut self.files, GENERATION_CONFIG, Value::Object(self.generation.clone()));
        } else {
            self.copy_file(folder, GENERATION_CONFIG)?;
        }
        Ok(())
    }

    fn rebuild(&mut self, file: &GgufFile, model: &Model) -> Result<()> {
        check_vocabulary_size(file.path(), &file.metadata, model.config.vocab_size)?;
        let mut metadata = file.metadata.clone();
        self.warnings = drop_bad_ids(&mut metadata);
        match rebuild(file.path(), &metadata) {
            Ok(TokenizerParts { tokenizer, mut config }) => {
                config.insert("model_max_length".into(), model.config.max_position_embeddings.into());
                push_json(&mut self.files, TOKENIZER, tokenizer);
                push_json(&mut self.files, TOKENIZER_CONFIG, Value::Object(config));
            }
            Err(error) => self.warn_of_missing_tokenizer(&error),
        }
        self.generation = generation_config(&metadata);
        if !self.generation.is_empty() {
            push_json(&mut self.files, GENERATION_CONFIG, Value::Object(self.generation.clone()));
        }
        Ok(())
    }

    fn warn_of_missing_tokenizer(&mut self, error: &Error) {
        self.warnings.push(Warning::NoTokenizer { detail: error.to_string() });
    }

    /// Takes ids of no token out of a configuration. True if there were any.
    fn drop_bad_ids(
        &mut self,
        name: &str,
        vocab_size: usize,
        config: impl Fn(&mut SourceCompanions) -> &mut Map<String, Value>,
    ) -> bool {
        let mut warnings = Vec::new();
        let mut is_good = |key: &str, value: &Value| {
            let good = !value.is_number() || value.as_u64().is_some_and(|id| id < vocab_size as u64);
            if !good {
                let (key, found) = (format!("{name}: {key}"), value.to_string());
                warnings.push(Warning::BadTokenId { key, found, vocab_size });
            }
            good
        };
        config(self).retain(|key, value| match value {
            _ if !key.ends_with("_token_id") => true,
            Value::Array(ids) => {
                ids.retain(|id| is_good(key, id));
                !ids.is_empty()
            }
            value => is_good(key, value),
        });
        let any = !warnings.is_empty();
        self.warnings.extend(warnings);
        any
    }
}

/// What a GGUF says about writing text.
fn generation_config(metadata: &Metadata) -> Map<String, Value> {
    let mut config = Map::new();
    for (key, name) in TOKEN_IDS {
        let Some(id) = metadata.unsigned(key) else { continue };
        match config.get_mut(name) {
            None => drop(config.insert(name.into(), id.into())),
            Some(Value::Array(ids)) if ids.contains(&id.into()) => {}
            Some(Value::Array(ids)) => ids.push(id.into()),
            Some(first) if *first == id => {}
            Some(first) => *first = json!([first, id]),
        }
    }
    config.extend(sampling_of(metadata));
    config
}
