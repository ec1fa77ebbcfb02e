//! The front matter of a model card (README.md), and what `general.*` keys it gives.

use std::path::{Path, PathBuf};

use super::name::{NameParts, title};
use super::yaml::Yaml;
use crate::error::{Error, Result};
use crate::small_file;

/// A model card's front matter; empty where there is none.
#[derive(Debug)]
pub(super) struct ModelCard {
    path: PathBuf,
    front: Yaml,
}

/// A model or data set that a model comes from: keys below `general.base_model.N.`, values.
pub(super) type Source = Vec<(&'static str, String)>;

/// The keys of a [`Source`], in the order in which they are written.
const SOURCE_KEYS: [&str; 9] =
    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

impl ModelCard {
    /// Reads README.md of a folder.
    ///
    /// # Errors
    /// [`Error::ModelCard`] if the front matter is not YAML.
    pub fn read(folder: &Path) -> Result<ModelCard> {
        let path = folder.join("README.md");
        let text = small_file::read_optional_text(&path)?.unwrap_or_default();
        let front = match front_matter(&text) {
            None => Yaml::Null,
            Some(yaml) => {
                Yaml::parse(&yaml).map_err(|detail| Error::ModelCard { path: path.clone(), detail })?
            }
        };
        Ok(ModelCard { path, front })
    }

    /// The text of the first of `keys` that has one.
    ///
    /// # Errors
    /// [`Error::ModelCard`] if it is a list or a map.
    pub fn text(&self, keys: &[&str]) -> Result<Option<String>> {
        for key in keys {
            match self.front.get(key) {
                None | Some(Yaml::Null) => {}
                Some(Yaml::Text(text)) => return Ok(Some(text.clone())),
                Some(_) => return Err(self.error(format!("`{key}` is not a text"))),
            }
        }
        Ok(None)
    }

    /// The license: a text, or several joined with commas.
    pub fn license(&self) -> Result<Option<String>> {
        match self.front.get("license") {
            Some(Yaml::List(_)) => Ok(Some(self.list("license")?.unwrap_or_default().join(","))),
            _ => self.text(&["license"]),
        }
    }

    /// The texts of `keys` one after the other; a single text counts as a list of one.
    pub fn texts(&self, keys: &[&str]) -> Result<Vec<String>> {
        let mut all = Vec::new();
        for key in keys {
            all.extend(self.list(key)?.unwrap_or_default());
        }
        Ok(all)
    }

    fn list(&self, key: &str) -> Result<Option<Vec<String>>> {
        match self.front.get(key) {
            None | Some(Yaml::Null) => Ok(None),
            Some(Yaml::Text(text)) => Ok(Some(vec![text.clone()])),
            Some(Yaml::Map(_)) => Ok(Some(Vec::new())),
            Some(Yaml::List(items)) => {
                let texts: Option<Vec<_>> = items.iter().map(|i| i.text().map(str::to_string)).collect();
                texts.map(Some).ok_or_else(|| self.error(format!("`{key}` is not a list of texts")))
            }
        }
    }

    /// What the first of `keys` that is there lists, or `None` if none is: models or data sets, each as a name on
    /// Hugging Face, a URL, or a map.
    pub fn sources(&self, keys: &[&str], parameters: usize) -> Result<Option<Vec<Source>>> {
        let Some((key, value)) = keys.iter().find_map(|key| Some((key, self.front.get(key)?))) else {
            return Ok(None);
        };
        let items = match value {
            Yaml::List(items) => items.as_slice(),
            Yaml::Text(_) => std::slice::from_ref(value),
            Yaml::Null | Yaml::Map(_) => &[],
        };
        let source = |item: &Yaml| match item {
            Yaml::Text(id) => Ok(source_of_id(id, parameters)),
            Yaml::Map(_) => Ok(source_of_map(item)),
            // Written as an entry without keys, as the converter does for what it does not know.
            Yaml::Null | Yaml::List(_) => {
                Err(self.error(format!("`{key}` holds an entry that is not a name")))
            }
        };
        items.iter().map(source).collect::<Result<Vec<_>>>().map(Some)
    }

    fn error(&self, detail: String) -> Error {
        Error::ModelCard { path: self.path.clone(), detail }
    }
}

fn source_of_id(id: &str, parameters: usize) -> Source {
    let is_url = ["http://", "https://", "ssh://"].iter().any(|scheme| id.starts_with(scheme));
    let parts = match is_url {
        false => NameParts::of(id, parameters),
        true => NameParts::hub_id(id).map(|id| NameParts::of(id, parameters)).unwrap_or_default(),
    };
    let repo_url = match (&parts.organization, &parts.full_name) {
        _ if is_url => Some(id.to_string()),
        (Some(organization), Some(name)) => Some(format!("https://huggingface.co/{organization}/{name}")),
        _ => None,
    };
    let values = [
        ("name", parts.full_name.as_deref().map(title)),
        ("version", parts.version),
        ("organization", parts.organization.as_deref().map(title)),
        ("repo_url", repo_url),
    ];
    values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

fn source_of_map(map: &Yaml) -> Source {
    let entry = |key: &&'static str| Some((*key, map.get(key)?.text()?.to_string()));
    SOURCE_KEYS.iter().filter_map(entry).collect()
}

/// The lines between the first two lines `---`, if the first line of all is one.
fn front_matter(text: &str) -> Option<String> {
    let mut lines = python_lines(text);
    if lines.next()? != "---" {
        return None;
    }
    let mut yaml = String::new();
    for line in lines.take_while(|line| *line != "---") {
        yaml.push_str(line);
        yaml.push('\n');
    }
    // YAML forbids tabs for indentation, but model cards have them.
    Some(yaml.replace('\t', "  "))
}

/// Lines as Python's `str.splitlines` cuts them.
fn python_lines(text: &str) -> impl Iterator<Item = &str> {
    const BREAKS: [char; 10] =
        ['\n', '\r', '\u{b}', '\u{c}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{85}', '\u{2028}', '\u{2029}'];
    let mut rest = Some(text).filter(|t| !t.is_empty());
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.find(BREAKS).unwrap_or(text.len());
        let after = match text[end..].strip_prefix("\r\n") {
            Some(after) => after,
            None => text[end..].strip_prefix(BREAKS).unwrap_or_default(),
        };
        rest = Some(after).filter(|a| !a.is_empty());
        Some(&text[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(yaml: &str) -> ModelCard {
        ModelCard { path: "README.md".into(), front: Yaml::parse(yaml).expect("is YAML") }
    }

    #[test]
    fn front_matter_is_between_dashes() {
        assert_eq!(front_matter("---\na: 1\n---\n# Title\n").as_deref(), Some("a: 1\n"));
        assert_eq!(front_matter("---\r\na:\t1\r\n---\r\n").as_deref(), Some("a:  1\n"));
        assert_eq!(front_matter("# Title\n---\na: 1\n---\n"), None);
        assert_eq!(front_matter("---\nopen: end").as_deref(), Some("open: end\n"));
        assert_eq!(front_matter(""), None);
    }

    #[test]
    fn texts_and_lists() {
        let card = card("license: [mit, apache-2.0]\ntags: x\npipeline_tag: y\nname: [a]\nlanguage: no\n");
        assert_eq!(card.license().expect("a license").as_deref(), Some("mit,apache-2.0"));
        assert_eq!(card.texts(&["tags", "pipeline_tag"]).expect("tags"), ["x", "y"]);
        assert_eq!(card.texts(&["languages", "language"]).expect("language"), ["no"]);
        let error = card.text(&["name"]).expect_err("a list is no name");
        assert!(matches!(error, Error::ModelCard { .. }), "{error}");
    }

    #[test]
    fn sources_are_names_urls_or_maps() {
        let card = card(
            "base_model: [PLM-Team/plm-1.8B-base, 'https://huggingface.co/a/b-v2', {name: X, doi: 1.10}]\n\
             datasets:\n",
        );
        let models = card.sources(&["base_model"], 0).expect("sources").expect("are there");
        let keys: Vec<_> = models.iter().map(|m| m.iter().map(|(k, _)| *k).collect::<Vec<_>>()).collect();
        assert_eq!(keys[0], ["name", "organization", "repo_url"]);
        assert_eq!(keys[1], ["name", "version", "organization", "repo_url"]);
        assert_eq!(models[0][0].1, "Plm 1.8B Base");
        assert_eq!(models[2], [("name", "X".to_string()), ("doi", "1.10".to_string())]);
        assert_eq!(card.sources(&["datasets"], 0).expect("null"), Some(Vec::new()));
        assert_eq!(card.sources(&["dataset"], 0).expect("absent"), None);
    }
}
