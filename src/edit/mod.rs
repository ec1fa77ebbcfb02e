//! Changes of a GGUF's metadata. Tensors are copied as they are.

mod value;

use anyhow::Result;
use plmconv_formats::gguf::{Metadata, Value, is_layout};
use plmconv_quant::policy::nearest_names;

use crate::error::UsageError;

/// Where a chat template is stored.
pub const CHAT_TEMPLATE: &str = "tokenizer.chat_template";

/// What is to be changed.
#[derive(Debug, Default)]
pub struct Edits {
    /// Key and value, as the user spells it.
    pub set: Vec<(String, String)>,
    pub remove: Vec<String>,
    pub chat_template: Option<String>,
}

/// One change that was made.
#[derive(Debug)]
pub struct Change {
    pub key: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

impl Edits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty() && self.chat_template.is_none()
    }

    /// Makes the changes: first what is removed, then what is set.
    ///
    /// # Errors
    /// A key that is not there, that plmconv decides itself, or whose value is not of its type.
    pub fn apply(&self, metadata: &mut Metadata) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for key in &self.remove {
            refuse_layout(key)?;
            let before = metadata.remove(key).ok_or_else(|| unknown_key(metadata, key))?;
            changes.push(Change { key: key.clone(), before: Some(before), after: None });
        }
        for (key, text) in &self.set {
            refuse_layout(key)?;
            let before = metadata.get(key).cloned();
            let after = value::parse(key, text, before.as_ref())?;
            changes.push(set(metadata, key, before, after));
        }
        if let Some(template) = &self.chat_template {
            let before = metadata.get(CHAT_TEMPLATE).cloned();
            changes.push(set(metadata, CHAT_TEMPLATE, before, Value::String(template.clone())));
        }
        Ok(changes)
    }
}

fn set(metadata: &mut Metadata, key: &str, before: Option<Value>, after: Value) -> Change {
    metadata.set(key, after.clone());
    Change { key: key.to_string(), before, after: Some(after) }
}

fn refuse_layout(key: &str) -> Result<()> {
    if !is_layout(key) {
        return Ok(());
    }
    let hint = "it says where the file's tensors lie; plmconv lays out what it writes itself";
    Err(UsageError::with_hint(format!("`{key}` cannot be edited"), hint).into())
}

/// The value of a key.
///
/// # Errors
/// There is none; the hint names the nearest keys.
pub fn value_of<'a>(metadata: &'a Metadata, key: &str) -> Result<&'a Value> {
    metadata.get(key).ok_or_else(|| unknown_key(metadata, key))
}

fn unknown_key(metadata: &Metadata, key: &str) -> anyhow::Error {
    let hint = match metadata.is_empty() {
        true => "the file has no metadata".to_string(),
        false => format!("nearest: {}", nearest_names(key, metadata.iter().map(|(known, _)| known))),
    };
    UsageError::with_hint(format!("the file has no metadata `{key}`"), hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.set("general.name", Value::String("Tiny".into()));
        metadata.set("plm.block_count", Value::U32(6));
        metadata.set("split.count", Value::U16(1));
        metadata
    }

    #[test]
    fn keys_keep_their_place_and_their_type() {
        let mut found = metadata();
        let edits = Edits {
            set: vec![("plm.block_count".into(), "7".into()), ("general.author".into(), "Ann".into())],
            remove: vec!["general.name".into()],
            chat_template: Some("{{ messages }}".into()),
        };
        let changes = edits.apply(&mut found).expect("possible");
        assert_eq!(changes.len(), 4);
        let keys: Vec<&str> = found.iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["plm.block_count", "split.count", "general.author", CHAT_TEMPLATE]);
        assert_eq!(found.get("plm.block_count"), Some(&Value::U32(7)));
        assert_eq!(found.string("general.author"), Some("Ann"));
    }

    #[test]
    fn what_cannot_be_edited_is_said() {
        let cases = [
            (Edits { remove: vec!["general.nam".into()], ..Edits::default() }, "no metadata `general.nam`"),
            (Edits { remove: vec!["split.count".into()], ..Edits::default() }, "cannot be edited"),
            (
                Edits { set: vec![("general.alignment".into(), "64".into())], ..Edits::default() },
                "cannot be edited",
            ),
            (
                Edits { set: vec![("plm.block_count".into(), "six".into())], ..Edits::default() },
                "`six` is not a u32",
            ),
        ];
        for (edits, says) in cases {
            let error = edits.apply(&mut metadata()).expect_err(says).to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
