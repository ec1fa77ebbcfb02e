//! Unusual spellings of a checkpoint's tensor names.
//!
//! Wrappers put their own names into those of the tensors: torch.compile, data parallelism, PEFT. A model saved
//! without its head lacks the `model.` that all names otherwise begin with.

use std::borrow::Cow;

/// Parts of a name that wrappers put in, anywhere.
const WRAPPERS: [&str; 5] =
    ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"];

const EMBEDDING: &str = "embed_tokens.weight";
const LAYERS: &str = "layers.";
const HEAD: &str = "lm_head.weight";
const USUAL: &str = "model.";

/// How the tensors of one checkpoint are called.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Spelling {
    /// Stands where [`USUAL`] does in other checkpoints.
    prefix: String,
}

impl Spelling {
    /// The spelling of these names. Where they do not agree on one, they are taken as they are.
    pub fn of<'a>(names: impl Iterator<Item = &'a str>) -> Spelling {
        let mut prefix: Option<String> = None;
        for name in names {
            let name = unwrapped(name);
            let Some(found) = prefix_of(&name) else { continue };
            if prefix.as_deref().is_some_and(|prefix| prefix != found) {
                return Spelling { prefix: USUAL.into() };
            }
            prefix = Some(found.into());
        }
        Spelling { prefix: prefix.unwrap_or_else(|| USUAL.into()) }
    }

    /// The usual spelling of a name; itself where it is not one of the model's.
    pub fn usual<'a>(&self, name: &'a str) -> Cow<'a, str> {
        let unwrapped = unwrapped(name);
        if self.is_head(&unwrapped) {
            return Cow::Borrowed(HEAD);
        }
        match unwrapped.strip_prefix(&self.prefix) {
            Some(rest) if self.prefix != USUAL => Cow::Owned(format!("{USUAL}{rest}")),
            _ => unwrapped,
        }
    }

    /// The head is beside the model or, in one without any prefix, among its parts.
    fn is_head(&self, name: &str) -> bool {
        let outer = self.prefix.strip_suffix(USUAL).unwrap_or(&self.prefix);
        name == HEAD || name.strip_prefix(outer) == Some(HEAD)
    }
}

/// What comes before the part of a name that no spelling changes.
fn prefix_of(name: &str) -> Option<&str> {
    if let Some(prefix) = name.strip_suffix(EMBEDDING) {
        return Some(prefix);
    }
    let start = if name.starts_with(LAYERS) { 0 } else { name.find(".layers.")? + 1 };
    let (layer, _) = name[start + LAYERS.len()..].split_once('.')?;
    layer.parse::<usize>().ok().map(|_| &name[..start])
}

/// The name without the parts that wrappers put in.
fn unwrapped(name: &str) -> Cow<'_, str> {
    if !name.split('.').any(|part| WRAPPERS.contains(&part)) {
        return Cow::Borrowed(name);
    }
    let parts: Vec<_> = name.split('.').filter(|part| !WRAPPERS.contains(part)).collect();
    Cow::Owned(parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [&str; 3] = ["embed_tokens.weight", "layers.0.mlp.up_proj.weight", "norm.weight"];

    #[test]
    fn a_uniform_prefix_is_taken_off() {
        for prefix in
            ["model.", "", "transformer.", "base_model.model.model.", "module.model.", "_orig_mod.model."]
        {
            let names = PARTS.map(|part| format!("{prefix}{part}"));
            let spelling = Spelling::of(names.iter().map(String::as_str));
            for (name, part) in names.iter().zip(PARTS) {
                assert_eq!(spelling.usual(name), format!("model.{part}"), "{name}");
            }
        }
        let spelling = Spelling::of(["model.layers.3._orig_mod.mlp.up_proj.weight"].into_iter());
        assert_eq!(
            spelling.usual("model.layers.3._orig_mod.mlp.up_proj.weight"),
            "model.layers.3.mlp.up_proj.weight"
        );
    }

    #[test]
    fn the_head_is_found_with_each() {
        for (embedding, head) in [
            ("model.embed_tokens.weight", "lm_head.weight"),
            ("embed_tokens.weight", "lm_head.weight"),
            ("module.model.embed_tokens.weight", "module.lm_head.weight"),
            ("base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"),
            ("transformer.embed_tokens.weight", "transformer.lm_head.weight"),
            ("transformer.embed_tokens.weight", "lm_head.weight"),
        ] {
            assert_eq!(Spelling::of([head, embedding].into_iter()).usual(head), HEAD, "{head}");
        }
    }

    #[test]
    fn names_that_do_not_agree_stay() {
        let names = ["model.embed_tokens.weight", "vision.layers.0.mlp.up_proj.weight"];
        let spelling = Spelling::of(names.into_iter());
        for name in names {
            assert_eq!(spelling.usual(name), name);
        }
        assert_eq!(Spelling::of(["a", "b.c"].into_iter()).usual("b.c"), "b.c");
    }
}
