//! Chat templates: in tokenizer_config.json, or in files of their own.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use crate::error::{Error, Result};
use crate::gguf::{Metadata, Value, string_array};
use crate::tokenizer::files::TokenizerFiles;
use crate::{json, small_file};

/// The folder of templates other than the default one.
pub(crate) const ADDITIONAL_TEMPLATES: &str = "additional_chat_templates";

/// Adds `tokenizer.chat_template`, and further templates under their names.
///
/// Without tokenizer_config.json there is none, as for the converter; a template there (even null) comes before the
/// files.
pub(super) fn add_chat_templates(metadata: &mut Metadata, files: &TokenizerFiles) -> Result<()> {
    let Some(config) = files.config.as_ref().filter(|c| !c.is_empty()) else { return Ok(()) };
    let templates = match config.get("chat_template") {
        Some(template) => template.clone(),
        None => template_files(&files.folder)?,
    };
    match templates {
        Json::String(template) => put(metadata, "tokenizer.chat_template", &template),
        Json::Array(list) => add_list(metadata, &list),
        _ => {}
    }
    Ok(())
}

/// chat_template.jinja with additional_chat_templates/*.jinja, or chat_template.json: a text, a list of texts with
/// names, or null.
pub(crate) fn template_files(folder: &Path) -> Result<Json> {
    let Some(template) = small_file::read_optional_text(&folder.join("chat_template.jinja"))? else {
        let json = json::read_optional::<Map<String, Json>>(&folder.join("chat_template.json"))?;
        return Ok(json.and_then(|mut j| j.remove("chat_template")).unwrap_or_default());
    };
    let template = unix_lines(template);
    let additional = jinja_files(&folder.join(ADDITIONAL_TEMPLATES))?;
    if additional.is_empty() {
        return Ok(Json::String(template));
    }
    let entry = |name: &str, template: String| serde_json::json!({"name": name, "template": template});
    let mut list = vec![entry("default", template)];
    for path in additional {
        let text = small_file::utf8(&path, small_file::read(&path)?)?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        list.push(entry(&name, unix_lines(text)));
    }
    Ok(Json::Array(list))
}

/// Paths of a folder's `*.jinja` files, by name; none if there is no such folder.
fn jinja_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.extension().is_some_and(|e| e == "jinja") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// A list of templates with names: the default one, and others whose names are listed too.
fn add_list(metadata: &mut Metadata, list: &[Json]) {
    let mut names: Vec<String> = Vec::new();
    let mut default = None;
    for choice in list {
        let name = choice.get("name").and_then(Json::as_str).unwrap_or_default();
        let Some(template) = choice.get("template").and_then(Json::as_str) else { continue };
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        match name.as_str() {
            "" => {}
            "default" => default = Some(template),
            _ => {
                put(metadata, &format!("tokenizer.chat_template.{name}"), template);
                names.push(name);
            }
        }
    }
    names.sort();
    names.dedup();
    if !names.is_empty() {
        metadata.set("tokenizer.chat_templates", string_array(names));
    }
    if let Some(default) = default {
        put(metadata, "tokenizer.chat_template", default);
    }
}

/// gguf-py leaves an empty text out.
fn put(metadata: &mut Metadata, key: &str, template: &str) {
    if !template.is_empty() {
        metadata.set(key, Value::String(template.to_string()));
    }
}

/// Text files are read as Python reads them, with one kind of line break.
fn unix_lines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}
