//! `general.*`: what a folder says about the model's name, origin and license.
//!
//! Sources in order: the model card, config.json's `_name_or_path`, the folder's own name (gguf-py's
//! `Metadata.load`). The first that tells something is believed.

use std::path::Path;

use serde_json::{Map, Value as Json};

use super::card::{ModelCard, Source};
use super::name::{NameParts, Parameters, size_label, title};
use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value, string_array};
use crate::hub;
use crate::json;
use crate::warning::Warning;

/// A recommended sampler parameter: the key below `general.sampling.`, its names in generation_config.json, and
/// what it is.
const SAMPLING: [(&str, &[&str], Kind); 12] = [
    ("sequence", &["sequence"], Kind::Text),
    ("top_k", &["top_k"], Kind::Integer),
    ("top_p", &["top_p"], Kind::Float),
    ("min_p", &["min_p"], Kind::Float),
    ("xtc_probability", &["xtc_probability"], Kind::Float),
    ("xtc_threshold", &["xtc_threshold"], Kind::Float),
    ("temp", &["temperature"], Kind::Float),
    ("penalty_last_n", &["penalty_last_n"], Kind::Integer),
    ("penalty_repeat", &["penalty_repeat", "repetition_penalty"], Kind::Float),
    ("mirostat", &["mirostat"], Kind::Integer),
    ("mirostat_tau", &["mirostat_tau"], Kind::Float),
    ("mirostat_eta", &["mirostat_eta"], Kind::Float),
];

#[derive(Clone, Copy)]
enum Kind {
    Text,
    Integer,
    Float,
}

/// Adds `general.*` of a folder, but for architecture, type and file type, and says what it leaves out. `parameters`
/// is the number of weights.
pub(super) fn add_general(
    metadata: &mut Metadata,
    folder: &Path,
    config: &Map<String, Json>,
    parameters: Parameters,
) -> Result<Vec<Warning>> {
    let mut warnings = add_sampling(metadata, folder)?;
    let mut card = ModelCard::read(folder);
    let guess = guesses(folder, config, parameters);
    let guessed = |of: fn(&NameParts) -> &Option<String>| guess.iter().find_map(|parts| of(parts).clone());
    let titled = |of: fn(&NameParts) -> &Option<String>| guessed(of).as_deref().map(title);

    let mut put = |key: &str, value: Option<String>| {
        // gguf-py leaves an empty text out.
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            metadata.set(format!("general.{key}"), Value::String(value));
        }
    };
    put("name", card.text(&["name", "model_name"]).or_else(|| titled(|p| &p.full_name)));
    put("author", card.text(&["author", "model_author", "model_creator"]));
    put("version", card.text(&["version", "model_version"]).or_else(|| guessed(|p| &p.version)));
    let organization = card.text(&["organization", "model_organization"]);
    put("organization", organization.or_else(|| titled(|p| &p.organization)));
    put("finetune", card.text(&["finetune", "model_finetune"]).or_else(|| guessed(|p| &p.finetune)));
    let basename = card.text(&["basename", "model_basename", "model_type"]);
    put("basename", basename.or_else(|| guessed(|p| &p.basename)));
    put("description", card.text(&["description", "model_description"]));
    let size = card.text(&["size_label", "model_size_label"]).or_else(|| guessed(|p| &p.size_label));
    let counted = match parameters {
        Parameters::Model(count @ 1..) => Some(size_label(count)),
        _ => None,
    };
    put("size_label", size.or(counted));
    put("license", card.license());
    put("license.name", card.text(&["license_name"]));
    put("license.link", card.text(&["license_link"]));
    for key in ["url", "doi", "uuid", "repo_url"] {
        put(&format!("source.{key}"), card.text(&[key, &format!("model_{key}")]));
    }
    let base_models = card.sources(&["base_model", "base_models", "base_model_sources"], parameters);
    add_sources(metadata, "base_model", base_models);
    add_sources(metadata, "dataset", card.sources(&["datasets", "dataset", "dataset_sources"], parameters));
    for (key, names) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let texts = card.texts(&names);
        if !texts.is_empty() {
            metadata.set(format!("general.{key}"), string_array(texts));
        }
    }
    warnings.extend(card.into_warnings());
    Ok(warnings)
}

/// What the model's own name may be, best first.
fn guesses(folder: &Path, config: &Map<String, Json>, parameters: Parameters) -> Vec<NameParts> {
    let configured = config.get("_name_or_path").and_then(Json::as_str);
    // More slashes make it a path on someone's computer.
    let configured = configured.filter(|id| id.matches('/').count() <= 1).map(str::to_string);
    let own = folder_name(folder);
    configured.into_iter().chain(own).map(|id| NameParts::of(&id, parameters)).collect()
}

/// The model's id where the folder is named after a commit, else the folder's name; of `.` and `..` the name of the
/// folder that is meant.
fn folder_name(folder: &Path) -> Option<String> {
    if let Some(id) = hub::model_id(folder) {
        return Some(id);
    }
    let real = match folder.file_name() {
        Some(_) => folder.to_path_buf(),
        None => std::fs::canonicalize(folder).ok()?,
    };
    Some(real.file_name()?.to_string_lossy().into_owned())
}

fn add_sources(metadata: &mut Metadata, kind: &str, sources: Option<Vec<Source>>) {
    let Some(sources) = sources else { return };
    metadata.set(format!("general.{kind}.count"), Value::U32(sources.len() as u32));
    for (i, source) in sources.into_iter().enumerate() {
        for (key, value) in source.into_iter().filter(|(_, value)| !value.is_empty()) {
            metadata.set(format!("general.{kind}.{i}.{key}"), Value::String(value));
        }
    }
}

/// Recommended sampler parameters, and what of them is left out: no reason to stop, whatever the file holds.
///
/// # Errors
/// The file is there but cannot be read, such as a link that leads nowhere.
fn add_sampling(metadata: &mut Metadata, folder: &Path) -> Result<Vec<Warning>> {
    let path = folder.join("generation_config.json");
    let config = match json::read_optional::<Map<String, Json>>(&path) {
        Ok(config) => config.unwrap_or_default(),
        Err(error @ (Error::Json { .. } | Error::NotUtf8 { .. })) => {
            return Ok(vec![Warning::unreadable(path, &error)]);
        }
        Err(error) => return Err(error),
    };
    let mut warnings = Vec::new();
    for (key, names, kind) in SAMPLING {
        // A null is a value: it hides a second name.
        let Some((name, found)) = names.iter().find_map(|name| Some((name, config.get(*name)?))) else {
            continue;
        };
        let value = match (kind, found) {
            (_, Json::Null) => continue,
            (Kind::Text, Json::String(text)) if text.is_empty() => continue,
            (Kind::Text, Json::String(text)) => Some(Value::String(text.clone())),
            (Kind::Text, _) => None,
            (Kind::Float, _) => found.as_f64().map(|f| Value::F32(f as f32)),
            (Kind::Integer, _) => integer(found).map(Value::I32),
        };
        match value {
            Some(value) => metadata.set(format!("general.sampling.{key}"), value),
            None => {
                let expected = match kind {
                    Kind::Text => "a text",
                    Kind::Integer => "a whole number",
                    Kind::Float => "a number",
                };
                warnings.push(Warning::Sampler { name, found: found.to_string(), expected });
            }
        }
    }
    Ok(warnings)
}

/// generation_config.json's form of the sampler parameters in a GGUF's metadata.
pub(crate) fn sampling_of(metadata: &Metadata) -> Map<String, Json> {
    let mut config = Map::new();
    for (key, names, _) in SAMPLING {
        let value = match metadata.get(&format!("general.sampling.{key}")) {
            Some(Value::F32(f)) => shortest(*f),
            Some(Value::I32(n)) => (*n).into(),
            Some(Value::String(text)) => text.as_str().into(),
            _ => continue,
        };
        let name = names.last().expect("each has a name");
        config.insert(name.to_string(), value);
    }
    if ["temperature", "top_k", "top_p", "min_p"].iter().any(|name| config.contains_key(*name)) {
        // Without it they are ignored.
        config.insert("do_sample".into(), true.into());
    }
    config
}

/// The number as somebody would write it: 0.7, not what its 32 bits are in 64.
fn shortest(number: f32) -> Json {
    number.to_string().parse::<f64>().ok().into()
}

/// A whole number, also one that is written with a decimal point.
fn integer(value: &Json) -> Option<i32> {
    match value.as_i64() {
        Some(n) => n.try_into().ok(),
        None => {
            let float = value.as_f64()?;
            (float.fract() == 0.0 && float.abs() < 2f64.powi(31)).then_some(float as i32)
        }
    }
}
