//! YAML as far as a model card's front matter needs it: text, lists and maps.
//!
//! Scalars stay the text that is written: nothing here wants a number or a boolean, and `version: 1.10` or
//! `language: no` must not become one.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle};

/// A value of a YAML document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Yaml {
    Null,
    Text(String),
    List(Vec<Yaml>),
    Map(Vec<(String, Yaml)>),
}

/// Aliases and what they stand for are copied, so a few lines of them could fill the memory.
const MOST_VALUES: usize = 100_000;

/// The longest document; cards with the results of hundreds of benchmarks have some 200 kB.
const MOST_BYTES: usize = 4 << 20;

/// Text that counts as one more value where it is copied.
const BYTES_PER_VALUE: usize = 64;

/// Values are walked by recursion.
const DEEPEST: usize = 64;

impl Yaml {
    /// Parses one document.
    ///
    /// # Errors
    /// Where it is not YAML, with the line.
    pub fn parse(text: &str) -> Result<Yaml, String> {
        if text.len() > MOST_BYTES {
            return Err(format!("{} bytes, more than {MOST_BYTES}", text.len()));
        }
        let mut builder = Builder::default();
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|e| e.to_string())?;
            builder.take(event);
            if builder.values > MOST_VALUES || builder.open.len() > DEEPEST {
                return Err(format!("too many or too deeply nested values at line {}", span.start.line()));
            }
        }
        Ok(builder.root.unwrap_or(Yaml::Null))
    }

    /// The value of `key`, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Yaml> {
        match self {
            Yaml::Map(pairs) => pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match self {
            Yaml::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What a copy costs, in values.
    fn size(&self) -> usize {
        let of_text = |text: &str| 1 + text.len() / BYTES_PER_VALUE;
        match self {
            Yaml::Null => 1,
            Yaml::Text(text) => of_text(text),
            Yaml::List(items) => 1 + items.iter().map(Yaml::size).sum::<usize>(),
            Yaml::Map(pairs) => 1 + pairs.iter().map(|(k, v)| of_text(k) + v.size()).sum::<usize>(),
        }
    }
}

/// Makes values of the parser's events.
#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    anchors: HashMap<usize, Yaml>,
    root: Option<Yaml>,
    values: usize,
}

/// A list or map whose end has not come yet, with its anchor.
enum Open {
    List(usize, Vec<Yaml>),
    /// The last member is a key that waits for its value.
    Map(usize, Vec<(String, Yaml)>, Option<String>),
}

/// As in PyYAML the last of equal keys counts.
fn last_of_each(mut pairs: Vec<(String, Yaml)>) -> Vec<(String, Yaml)> {
    let mut seen = HashSet::new();
    let kept: Vec<bool> = pairs.iter().rev().map(|(key, _)| seen.insert(key.as_str())).collect();
    let mut kept = kept.into_iter().rev();
    pairs.retain(|_| kept.next() == Some(true));
    pairs
}

impl Builder {
    /// Counts values that are copied; false if there are too many, which ends the parsing.
    fn afford(&mut self, values: usize) -> bool {
        self.values = self.values.saturating_add(values);
        self.values <= MOST_VALUES
    }

    fn put(&mut self, anchor: usize, value: Yaml) {
        // Anchor 0 is none.
        if anchor != 0 && self.afford(value.size()) {
            self.anchors.insert(anchor, value.clone());
        }
        match self.open.last_mut() {
            None => self.root = Some(value),
            Some(Open::List(_, items)) => items.push(value),
            Some(Open::Map(_, _, key @ None)) => {
                // A key that is not a scalar cannot be asked for.
                *key = Some(value.text().unwrap_or_default().to_string());
            }
            Some(Open::Map(_, pairs, key)) => {
                pairs.push((key.take().unwrap_or_default(), value));
            }
        }
    }

    fn take(&mut self, event: Event<'_>) {
        match event {
            Event::Scalar(text, style, anchor, _) => {
                let is_null =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                self.values += 1;
                self.put(anchor, if is_null { Yaml::Null } else { Yaml::Text(text.into_owned()) });
            }
            Event::SequenceStart(anchor, _) => self.open.push(Open::List(anchor, Vec::new())),
            Event::MappingStart(anchor, _) => self.open.push(Open::Map(anchor, Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                self.values += 1;
                match self.open.pop() {
                    Some(Open::List(anchor, items)) => self.put(anchor, Yaml::List(items)),
                    Some(Open::Map(anchor, pairs, _)) => self.put(anchor, Yaml::Map(last_of_each(pairs))),
                    None => {}
                }
            }
            Event::Alias(anchor) => self.put_alias(anchor),
            _ => {}
        }
    }

    /// Puts a copy of what `anchor` names, unless that is too much.
    fn put_alias(&mut self, anchor: usize) {
        if self.afford(self.anchors.get(&anchor).map_or(1, Yaml::size)) {
            let value = self.anchors.get(&anchor).cloned().unwrap_or(Yaml::Null);
            self.put(0, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Yaml {
        Yaml::Text(text.into())
    }

    #[test]
    fn values_keep_their_text() {
        let yaml = Yaml::parse("a: 1.10\nb: [x, 'null', ~]\nc:\n  d: no\n  e: >\n    two\n    words\na: 2\n");
        let yaml = yaml.expect("is YAML");
        assert_eq!(yaml.get("a"), Some(&text("2")));
        assert_eq!(yaml.get("b"), Some(&Yaml::List(vec![text("x"), text("null"), Yaml::Null])));
        let c = yaml.get("c").expect("c");
        assert_eq!(c.get("d"), Some(&text("no")));
        assert_eq!(c.get("e"), Some(&text("two words\n")));
        assert_eq!(yaml.get("z"), None);
    }

    #[test]
    fn aliases_are_copied_but_not_without_end() {
        let yaml = Yaml::parse("a: &x [p, q]\nb: *x\n").expect("is YAML");
        assert_eq!(yaml.get("b"), yaml.get("a"));
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let list = vec![format!("*a{}", i - 1); 10].join(", ");
            bomb.push_str(&format!("a{i}: &a{i} [{list}]\n"));
        }
        assert!(Yaml::parse(&bomb).expect_err("too large").contains("too many"));
        // Copies of a long text, and anchors in anchors.
        let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(1000));
        assert!(Yaml::parse(&text).expect_err("too large").contains("too many"));
        let nested = format!("{}[{}]{}", "[&a ".repeat(50), "x, ".repeat(10_000), "]".repeat(50));
        assert!(Yaml::parse(&nested).expect_err("too large").contains("too many"));
        assert!(Yaml::parse(&"[".repeat(10_000)).is_err());
        assert!(Yaml::parse(&"- ".repeat(10_000)).is_err());
    }

    #[test]
    fn not_yaml() {
        assert!(Yaml::parse("a: [1, 2\nb: }").is_err());
        assert_eq!(Yaml::parse(""), Ok(Yaml::Null));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_yaml_or_an_error(text in "[-a-c:\\[\\]{}&*!|>'\"#%@, \n\t]{0,60}") {
            let _ = Yaml::parse(&text);
        }
    }
}
