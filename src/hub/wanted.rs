//! Which files of a model are needed.

use std::path::Path;

use plmconv_formats::model::{INDEX, SINGLE, has_weights, may_be_weights};

/// What a folder is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A whole model.
    Model,
    /// A model's hyperparameters.
    Config,
    /// A LoRA adapter.
    Adapter,
}

/// A model's files but its weights.
const SMALL: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
];

/// The folder of further chat templates.
const TEMPLATES: &str = "additional_chat_templates/";

const ADAPTER: [&str; 3] = ["adapter_config.json", "adapter_model.safetensors", "README.md"];

impl Wanted {
    /// Those of the files of a repository that are needed, small ones first.
    pub fn of<'a>(self, files: &[&'a str]) -> Vec<&'a str> {
        let has = |name: &str| files.contains(&name);
        let is_weights = |name: &str| {
            // One file hides all others, as it does for transformers.
            may_be_weights(name) && !name.contains('/') && (name == SINGLE || !has(SINGLE))
        };
        let is_small = |name: &str| match self {
            Wanted::Config => name == SMALL[0],
            Wanted::Adapter => ADAPTER.contains(&name) && !name.ends_with(".safetensors"),
            Wanted::Model => {
                let template = name.strip_prefix(TEMPLATES).and_then(|rest| rest.strip_suffix(".jinja"));
                SMALL.contains(&name)
                    || (name == INDEX && !has(SINGLE))
                    || template.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '\\']))
            }
        };
        let is_large = |name: &str| match self {
            Wanted::Config => false,
            Wanted::Adapter => name == ADAPTER[1],
            Wanted::Model => is_weights(name),
        };
        let small = files.iter().copied().filter(|name| is_small(name));
        small.chain(files.iter().copied().filter(|name| is_large(name))).collect()
    }

    /// The file without which there is nothing to read, where `files` lacks one.
    pub fn missing(self, files: &[&str]) -> Option<&'static str> {
        match self {
            Wanted::Model if !files.contains(&SMALL[0]) => Some(SMALL[0]),
            Wanted::Model if !files.iter().any(|name| name.ends_with(".safetensors")) => {
                Some("*.safetensors")
            }
            Wanted::Config if files.is_empty() => Some(SMALL[0]),
            Wanted::Adapter => ADAPTER[..2].iter().find(|name| !files.contains(name)).copied(),
            _ => None,
        }
    }

    /// Whether a snapshot has what is needed of a usual model.
    pub fn is_complete(self, snapshot: &Path) -> bool {
        let has = |name: &str| snapshot.join(name).is_file();
        self.may_do(snapshot) && (self != Wanted::Model || has("tokenizer.json") || has("vocab.json"))
    }

    /// Whether a snapshot can be read at all.
    pub fn may_do(self, snapshot: &Path) -> bool {
        let has = |name: &str| snapshot.join(name).is_file();
        match self {
            Wanted::Config => has(SMALL[0]),
            Wanted::Adapter => has(ADAPTER[0]) && has(ADAPTER[1]),
            Wanted::Model => has(SMALL[0]) && has_weights(snapshot),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_read_is_fetched() {
        let files = [
            ".gitattributes",
            "README.md",
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            INDEX,
            "pytorch_model.bin",
            "x-q4.gguf",
            "onnx/model.onnx",
            "additional_chat_templates/tool.jinja",
            "additional_chat_templates/../../x.jinja",
            "adapter_model.safetensors",
            "tokenizer.json",
        ];
        let wanted = Wanted::Model.of(&files);
        assert_eq!(
            wanted,
            [
                "README.md",
                "config.json",
                INDEX,
                "additional_chat_templates/tool.jinja",
                "tokenizer.json",
                "model-00001-of-00002.safetensors",
                "model-00002-of-00002.safetensors",
            ]
        );
        assert_eq!(Wanted::Model.missing(&wanted), None);
        let single = [SINGLE, INDEX, "model-00001-of-00002.safetensors", "config.json"];
        assert_eq!(Wanted::Model.of(&single), ["config.json", SINGLE]);
        assert_eq!(Wanted::Config.of(&files), ["config.json"]);
        assert_eq!(Wanted::Model.missing(&["config.json"]), Some("*.safetensors"));
        assert_eq!(Wanted::Adapter.missing(&["adapter_config.json"]), Some("adapter_model.safetensors"));
    }
}
