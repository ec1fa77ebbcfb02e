//! How a model on the hub is named.

use std::fmt;
use std::path::Path;

/// The branch that is meant where none is named.
const MAIN: &str = "main";

/// `ORGANIZATION/NAME`, at a branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `ORGANIZATION/NAME`
    pub id: String,
    /// As the user says it, else `main`.
    pub revision: String,
}

impl HubName {
    /// `ORG/NAME`, `ORG/NAME@REVISION`, either after `hf://`, or the address of a model's page. `None` for what cannot be
    /// one, such as a name that ends as a file's does.
    pub fn parse(path: &Path) -> Option<HubName> {
        const FILES: [&str; 7] = [".json", ".safetensors", ".gguf", ".onnx", ".txt", ".bin", ".md"];
        const PAGES: [&str; 5] = [
            "https://huggingface.co/",
            "http://huggingface.co/",
            "https:/huggingface.co/",
            "hf.co/",
            "hf://",
        ];
        let text = path.to_str()?;
        let address = PAGES.iter().find_map(|page| text.strip_prefix(page)).unwrap_or(text);
        let address = address.trim_end_matches('/');
        let (id, revision) = address
            .split_once('@')
            .or_else(|| address.split_once("/tree/"))
            .map_or((address, MAIN), |(id, revision)| (id, revision));
        let (organization, name) = id.split_once('/')?;
        let is_model = is_word(organization) && is_word(name) && revision.split('/').all(is_word);
        let is_file = FILES.iter().any(|end| name.ends_with(end));
        (is_model && !is_file).then(|| HubName { id: id.into(), revision: revision.into() })
    }
}

/// A part of an id or a revision, which is no way out of a folder.
pub(super) fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with('.')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)?;
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_told_from_a_path() {
        let parse = |text: &str| HubName::parse(Path::new(text)).map(|name| (name.id, name.revision));
        for (text, id, revision) in [
            ("PLM-Team/PLM-1.8B-Instruct", "PLM-Team/PLM-1.8B-Instruct", "main"),
            ("hf://a/b@v1.0", "a/b", "v1.0"),
            ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
            ("https://huggingface.co/PLM-Team/PLM-1.8B/", "PLM-Team/PLM-1.8B", "main"),
            ("https://huggingface.co/a/b/tree/dev", "a/b", "dev"),
            ("hf.co/a/b", "a/b", "main"),
        ] {
            assert_eq!(parse(text), Some((id.into(), revision.into())), "{text}");
        }
        for text in [
            "./a/b",
            "/a/b",
            "../a",
            "a",
            "a/b/c",
            "model/config.json",
            "a/m.gguf",
            "a b/c",
            "a/*",
            "a/b@",
            "a/b@../c",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
