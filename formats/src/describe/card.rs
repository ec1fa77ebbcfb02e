//! The front matter of a model card (README.md), and what `general.*` keys it gives.

use std::path::{Path, PathBuf};

use super::name::{NameParts, Parameters, title};
use super::yaml::Yaml;
use crate::small_file;
use crate::warning::Warning;

/// A model card's front matter; empty where there is none. A card never keeps a model from being converted: what
/// cannot be used is left out and told.
#[derive(Debug)]
pub(super) struct ModelCard {
    path: PathBuf,
    front: Yaml,
    warnings: Vec<Warning>,
}

/// A model or data set that a model comes from: keys below `general.base_model.N.`, values.
pub(super) type Source = Vec<(&'static str, String)>;

/// The keys of a [`Source`], in the order in which they are written.
const SOURCE_KEYS: [&str; 9] =
    ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"];

impl ModelCard {
    /// Reads README.md of a folder.
    pub fn read(folder: &Path) -> ModelCard {
        let mut card = ModelCard { path: folder.join("README.md"), front: Yaml::Null, warnings: Vec::new() };
        let text = match small_file::read_optional(&card.path) {
            Ok(bytes) => card.decode(bytes.unwrap_or_default()),
            Err(error) => {
                card.warnings.push(Warning::unreadable(card.path.clone(), &error));
                return card;
            }
        };
        match front_matter(&text).map(|yaml| Yaml::parse(&yaml)) {
            None => {}
            Some(Ok(front)) => card.front = front,
            Some(Err(detail)) => card.warn(format!("not used: not YAML: {detail}")),
        }
        card
    }

    /// The text, with Latin-1 for what is not UTF-8.
    fn decode(&mut self, bytes: Vec<u8>) -> String {
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).map_or(bytes.as_slice(), |rest| rest);
        let mut text = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            text.push_str(chunk.valid());
            text.extend(chunk.invalid().iter().map(|&byte| char::from(byte)));
        }
        // Only what is read matters.
        if text.len() != bytes.len() && front_matter(&String::from_utf8_lossy(bytes)) != front_matter(&text) {
            self.warn("not UTF-8: what is not is read as Latin-1".into());
        }
        text
    }

    fn warn(&mut self, detail: String) {
        self.warnings.push(Warning::ModelCard { path: self.path.clone(), detail });
    }

    /// What was left out.
    pub fn into_warnings(self) -> Vec<Warning> {
        self.warnings
    }

    /// The text of the first of `keys` that has one. A list or a map is none.
    pub fn text(&mut self, keys: &[&str]) -> Option<String> {
        for key in keys {
            match self.front.get(key) {
                None | Some(Yaml::Null) => {}
                Some(Yaml::Text(text)) => return Some(text.clone()),
                Some(_) => self.warn(format!("`{key}` is not a text and is left out")),
            }
        }
        None
    }

    /// The license: a text, or several joined with commas.
    pub fn license(&mut self) -> Option<String> {
        match self.front.get("license") {
            Some(Yaml::List(_)) => Some(self.list("license").join(",")),
            _ => self.text(&["license"]),
        }
    }

    /// The texts of `keys` one after the other; a single text counts as a list of one.
    pub fn texts(&mut self, keys: &[&str]) -> Vec<String> {
        keys.iter().flat_map(|key| self.list(key)).collect()
    }

    fn list(&mut self, key: &str) -> Vec<String> {
        match self.front.get(key) {
            None | Some(Yaml::Null | Yaml::Map(_)) => Vec::new(),
            Some(Yaml::Text(text)) => vec![text.clone()],
            Some(Yaml::List(items)) => {
                let texts: Vec<_> = items.iter().filter_map(|i| i.text().map(str::to_string)).collect();
                if texts.len() != items.len() {
                    self.warn(format!("`{key}` holds entries that are not texts; they are left out"));
                }
                texts
            }
        }
    }

    /// What the first of `keys` that is there lists, or `None` if none is: models or data sets, each as a name on
    /// Hugging Face, a URL, or a map.
    pub fn sources(&mut self, keys: &[&str], parameters: Parameters) -> Option<Vec<Source>> {
        let (key, value) = keys.iter().find_map(|key| Some((key, self.front.get(key)?)))?;
        let items = match value {
            Yaml::List(items) => items.as_slice(),
            Yaml::Text(_) => std::slice::from_ref(value),
            Yaml::Null | Yaml::Map(_) => &[],
        };
        let source = |item: &Yaml| match item {
            Yaml::Text(id) => Some(source_of_id(id, parameters)),
            Yaml::Map(_) => Some(source_of_map(item)),
            Yaml::Null | Yaml::List(_) => None,
        };
        let sources: Vec<Source> = items.iter().filter_map(source).collect();
        if sources.len() != items.len() {
            self.warn(format!("`{key}` holds entries that are not names; they are left out"));
        }
        Some(sources)
    }
}

fn source_of_id(id: &str, parameters: Parameters) -> Source {
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
        ModelCard {
            path: "README.md".into(),
            front: Yaml::parse(yaml).expect("is YAML"),
            warnings: Vec::new(),
        }
    }

    fn said(card: ModelCard) -> String {
        card.into_warnings().iter().map(Warning::to_string).collect::<Vec<_>>().join("\n")
    }

    fn read(bytes: &[u8]) -> ModelCard {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::write(dir.path().join("README.md"), bytes).expect("write");
        ModelCard::read(dir.path())
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
        let mut card =
            card("license: [mit, apache-2.0]\ntags: [x, [y]]\npipeline_tag: y\nname: [a]\nlanguage: no\n");
        assert_eq!(card.license().as_deref(), Some("mit,apache-2.0"));
        assert_eq!(card.texts(&["languages", "language"]), ["no"]);
        assert!(card.warnings.is_empty());
        assert_eq!(card.texts(&["tags", "pipeline_tag"]), ["x", "y"]);
        assert_eq!(card.text(&["name"]), None, "a list is no name");
        let warnings = said(card);
        assert!(warnings.contains("`tags`") && warnings.contains("`name`"), "{warnings}");
    }

    #[test]
    fn a_card_in_a_bad_state_is_told() {
        let mut latin = read(b"---\nauthor: Ren\xe9\ndescription: \xc3\xa9t\xc3\xa9\n---\n");
        assert_eq!(latin.text(&["author"]).as_deref(), Some("Ren\u{e9}"));
        assert_eq!(latin.text(&["description"]).as_deref(), Some("\u{e9}t\u{e9}"));
        assert!(said(latin).contains("Latin-1"));
        assert!(
            read(b"---\nauthor: x\n---\nRen\xe9").into_warnings().is_empty(),
            "what is not read does not matter"
        );
        assert!(said(read(b"---\ndescription: a: b\n---\n")).contains("not YAML"));
        let mut marked = read("\u{feff}---\nauthor: x\n---\n".as_bytes());
        assert_eq!(marked.text(&["author"]).as_deref(), Some("x"));
    }

    #[test]
    fn sources_are_names_urls_or_maps() {
        let mut card = card(
            "base_model: [PLM-Team/plm-1.8B-base, 'https://huggingface.co/a/b-v2', {name: X, doi: 1.10}, null]\n\
             datasets:\n",
        );
        let models = card.sources(&["base_model"], 0.into()).expect("are there");
        let keys: Vec<_> = models.iter().map(|m| m.iter().map(|(k, _)| *k).collect::<Vec<_>>()).collect();
        assert_eq!(keys[0], ["name", "organization", "repo_url"]);
        assert_eq!(keys[1], ["name", "version", "organization", "repo_url"]);
        assert_eq!(models[0][0].1, "Plm 1.8B Base");
        assert_eq!(models[2], [("name", "X".to_string()), ("doi", "1.10".to_string())]);
        assert_eq!(card.sources(&["datasets"], 0.into()), Some(Vec::new()));
        assert_eq!(card.sources(&["dataset"], 0.into()), None);
        assert_eq!(card.into_warnings().len(), 1);
    }
}
