//! What a model's name says: organization, base name, version, size, fine-tune.
//!
//! The rules are those of gguf-py's `Metadata.get_model_id_components`, so that our files carry the names that
//! llama.cpp's converter would give them.

use std::sync::LazyLock;

use regex::Regex;

/// The parts of a model's name, e.g. of `PLM-Team/PLM-1.8B-Instruct`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NameParts {
    /// `PLM-1.8B-Instruct`
    pub full_name: Option<String>,
    /// `PLM-Team`
    pub organization: Option<String>,
    /// `PLM`
    pub basename: Option<String>,
    /// `Instruct`
    pub finetune: Option<String>,
    pub version: Option<String>,
    /// `1.8B`
    pub size_label: Option<String>,
}

/// What a part between two hyphens can be. One part can be several at a time until the end.
#[derive(Clone, Copy, Default)]
struct Kinds {
    basename: bool,
    size_label: bool,
    finetune: bool,
    version: bool,
    /// A quantization type such as `Q4_K`; no key is made of it.
    kind: bool,
}

impl Kinds {
    fn count(self) -> usize {
        [self.basename, self.size_label, self.finetune, self.version, self.kind]
            .iter()
            .filter(|k| **k)
            .count()
    }
}

macro_rules! pattern {
    ($name:ident, $regex:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($regex).expect("a constant regex"));
    };
}

pattern!(VERSION, r"(?i)^(?:v|iter)?\d+(?:[.]\d+)*$");
pattern!(TYPE, r"(?i)^(?:i?q\d(?:_\w)*|b?fp?(?:16|32))$");
pattern!(SIZE, r"(?i)^(?:(?:(?:[A]|\d+[x])?\d+(?:[._]\d+)?[KMBT]\d?)|small|mini|medium|large|x?xl)$");
pattern!(FINETUNE, r"(?i)^(?:chat|instruct|vision|lora)$");
pattern!(NOT_A_WORD, r"^(?:v\d+(?:\.\d+)*|\d.*)$");
pattern!(DECIMAL, r"\d");
pattern!(HUB_URL, r"^https?://huggingface.co/([^/]+/[^/]+)$");

/// A size, against which a part of a name such as `128k` is told from a size; 0 if it is not known.
#[derive(Clone, Copy, Debug)]
pub(super) enum Parameters {
    /// Of a model.
    Model(usize),
    /// Of the matrices that an adapter changes, which may be few of its model's.
    Adapter(usize),
}

impl From<usize> for Parameters {
    fn from(parameters: usize) -> Parameters {
        Parameters::Model(parameters)
    }
}

impl Parameters {
    /// Whether a number in a name is far from the size.
    fn is_far_from(self, label: f64) -> bool {
        match self {
            Parameters::Model(0) | Parameters::Adapter(0) => false,
            Parameters::Model(own) => (label - own as f64).abs() > (7 * own as u64 / 8) as f64,
            Parameters::Adapter(own) => label < (own / 8) as f64,
        }
    }
}

impl NameParts {
    /// Takes a name or `organization/name` apart; `parameters` is the size of what it names.
    pub fn of(id: &str, parameters: impl Into<Parameters>) -> NameParts {
        let parameters = parameters.into();
        if id.contains(' ') {
            // A sentence, not an identifier.
            return NameParts { full_name: Some(id.into()), ..NameParts::default() };
        }
        let (organization, name) = match id.split_once('/') {
            Some((organization, name)) => (Some(organization).filter(|o| !o.starts_with('.')), name),
            None => (None, id),
        };
        let mut parts: Vec<(String, Kinds)> = name
            .split('-')
            .filter(|part| !part.is_empty())
            .enumerate()
            .map(|(i, part)| annotate(part, i > 0, parameters))
            .collect();
        drop_size_words(&mut parts);
        find_basename(&mut parts);

        let join = |has: fn(Kinds) -> bool| {
            let of_kind = parts.iter().filter(|(_, k)| has(*k)).map(|(part, _)| part.as_str());
            Some(of_kind.collect::<Vec<_>>().join("-")).filter(|joined| !joined.is_empty())
        };
        let mut sizes: Vec<&str> = Vec::new();
        for (part, _) in parts.iter().filter(|(_, k)| k.size_label) {
            if !sizes.contains(&part.as_str()) {
                sizes.push(part);
            }
        }
        let size_label = Some(sizes.join("-")).filter(|joined| !joined.is_empty());
        let finetune = join(|k| k.finetune);
        let version = join(|k| k.version && !k.basename);
        // A name without any other part is too ambiguous to be called a base name.
        let telling = size_label.is_some() || finetune.is_some() || version.is_some();
        NameParts {
            full_name: Some(name.into()),
            organization: organization.map(str::to_string),
            basename: join(|k| k.basename).filter(|_| telling),
            finetune,
            version,
            size_label,
        }
    }

    /// `https://huggingface.co/PLM-Team/PLM-1.8B` → `PLM-Team/PLM-1.8B`
    pub fn hub_id(url: &str) -> Option<&str> {
        Some(HUB_URL.captures(url)?.get(1)?.as_str())
    }
}

/// What a part is by itself, and its normalized spelling.
fn annotate(part: &str, may_be_size: bool, parameters: Parameters) -> (String, Kinds) {
    let mut kinds = Kinds::default();
    if VERSION.is_match(part) {
        kinds.version = true;
    } else if TYPE.is_match(part) {
        kinds.kind = true;
        return (part.to_uppercase(), kinds);
    } else if may_be_size && SIZE.is_match(part) {
        return annotate_size(part, parameters);
    } else if may_be_size && FINETUNE.is_match(part) {
        // That an adapter is one needs no saying.
        kinds.kind = matches!(parameters, Parameters::Adapter(1..)) && part.eq_ignore_ascii_case("lora");
        kinds.finetune = !kinds.kind;
    }
    (part.to_string(), kinds)
}

/// A part that is a size, or that looks like one and is a context length.
fn annotate_size(part: &str, parameters: Parameters) -> (String, Kinds) {
    let mut chars: Vec<char> = part.replace('_', ".").chars().collect();
    // `7b1` (BLOOM's way) is 7.1b.
    if let [.., unit, digit] = chars[..]
        && is_decimal(digit)
    {
        chars.truncate(chars.len() - 2);
        chars.extend(['.', digit, unit]);
    }
    let mut unit = chars.pop().unwrap_or_default();
    if chars.last().copied().is_some_and(is_decimal) && "kmbt".contains(unit) {
        unit = unit.to_ascii_uppercase();
    }
    let digits: String = chars.iter().collect();
    let mut kinds = Kinds::default();
    let thousands = "KMBT".find(unit).map_or(-1, |i| i as i32 + 1);
    let label = digits.parse::<f64>().map(|label| label * 1000f64.powi(thousands));
    if label.is_ok_and(|label| parameters.is_far_from(label)) {
        // Likely a context length.
        kinds.finetune = true;
        unit = unit.to_ascii_lowercase();
    }
    kinds.size_label = !kinds.finetune;
    (format!("{digits}{unit}"), kinds)
}

/// `small`, `xl` are not sizes where there is a number.
fn drop_size_words(parts: &mut [(String, Kinds)]) {
    if parts.iter().any(|(part, k)| k.size_label && DECIMAL.is_match(part)) {
        for (part, kinds) in parts {
            kinds.size_label &= !part.chars().all(char::is_alphabetic);
        }
    }
}

/// The base name is what comes first: words and versions, without a version at its end.
fn find_basename(parts: &mut [(String, Kinds)]) {
    let mut at_start = true;
    for (part, kinds) in parts.iter_mut() {
        let unknown = kinds.count() == 0;
        if at_start && ((unknown && part.starts_with(char::is_alphabetic)) || kinds.version) {
            kinds.basename = true;
        } else {
            at_start = false;
            kinds.finetune |= unknown;
        }
    }
    for (_, kinds) in parts.iter_mut().rev() {
        if !(kinds.basename && kinds.count() > 1) {
            break;
        }
        kinds.basename = false;
    }
}

fn is_decimal(character: char) -> bool {
    DECIMAL.is_match(character.encode_utf8(&mut [0; 4]))
}

/// `tiny-plm` → `Tiny Plm`: words in lower case get capitals, versions and acronyms stay.
pub(super) fn title(name: &str) -> String {
    let spaced = name.replace('-', " ");
    let word = |w: &str| match is_lower(w) && !NOT_A_WORD.is_match(w) {
        true => capitalize(w),
        false => w.to_string(),
    };
    spaced.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// Python's `str.islower`: some letter has a case, and none is upper case.
fn is_lower(word: &str) -> bool {
    word.chars().any(char::is_lowercase) && !word.chars().any(char::is_uppercase)
}

/// Python's `str.title`: a capital after everything that has no case, so `plm18b` becomes `Plm18B`.
fn capitalize(word: &str) -> String {
    let mut out = String::new();
    let mut after_cased = false;
    for character in word.chars() {
        if after_cased {
            out.extend(character.to_lowercase());
        } else {
            // A letter whose capital is two (ß → SS) keeps only the first of them large.
            let mut capital = character.to_uppercase();
            out.extend(capital.next());
            out.extend(capital.flat_map(char::to_lowercase));
        }
        after_cased = character.is_lowercase() || character.is_uppercase();
    }
    out
}

/// `6.4M`, `1.8B`: the number of parameters with at least two digits (gguf-py's `size_label`).
pub(super) fn size_label(parameters: usize) -> String {
    let (scale, suffix) = match parameters as f64 {
        n if n > 1e12 => (1e-12, 'T'),
        n if n > 1e9 => (1e-9, 'B'),
        n if n > 1e6 => (1e-6, 'M'),
        _ => (1e-3, 'K'),
    };
    let scaled = parameters as f64 * scale;
    let digits = scaled.round_ties_even().to_string();
    let decimals = 2usize.saturating_sub(digits.trim_start_matches('0').len());
    format!("{scaled:.decimals$}{suffix}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names and what gguf-py makes of them.
    #[test]
    fn names_are_taken_apart_as_gguf_py_does() {
        let golden = include_str!("../../../fixtures/golden/model_names.json");
        let golden: Vec<serde_json::Value> = serde_json::from_str(golden).expect("the fixture is JSON");
        assert!(golden.len() > 50);
        for case in golden {
            let id = case["id"].as_str().expect("id");
            let parameters = case["parameters"].as_u64().expect("parameters") as usize;
            let parts = NameParts::of(id, parameters);
            let found = [
                &parts.full_name,
                &parts.organization,
                &parts.basename,
                &parts.finetune,
                &parts.version,
                &parts.size_label,
            ];
            let expected: Vec<_> = case["parts"]
                .as_array()
                .expect("parts")
                .iter()
                .map(|p| p.as_str().map(str::to_string))
                .collect();
            assert!(found.iter().copied().eq(&expected), "{id} ({parameters}): {parts:?}, not {expected:?}");
            assert_eq!(title(id), case["title"].as_str().expect("title"), "{id}");
        }
    }

    /// gguf-py's `get_model_id_components` with a negative number of parameters, which stands for an adapter.
    #[test]
    fn an_adapter_is_not_named_after_being_one() {
        for (id, parameters, finetune, version, size) in [
            ("PLM-1.8B-lora", 90_000, None, None, Some("1.8B")),
            ("org/PLM-1.8B-Lora-v2", 90_000, None, Some("v2"), Some("1.8B")),
            ("PLM-1.8B-128k-LoRA", 4_000_000, Some("128k"), None, Some("1.8B")),
            ("tiny-10k", 90_000, Some("10k"), None, None),
            ("tiny-12k", 90_000, None, None, Some("12K")),
            ("my-lora-adapter", 0, Some("lora-adapter"), None, None),
        ] {
            let parts = NameParts::of(id, Parameters::Adapter(parameters));
            let found = (parts.finetune.as_deref(), parts.version.as_deref(), parts.size_label.as_deref());
            assert_eq!(found, (finetune, version, size), "{id}");
        }
    }

    #[test]
    fn size_labels_are_those_of_gguf_py() {
        let golden = include_str!("../../../fixtures/golden/size_labels.json");
        let golden: Vec<(u64, String)> = serde_json::from_str(golden).expect("the fixture is JSON");
        assert!(golden.len() > 20);
        for (parameters, label) in golden {
            assert_eq!(size_label(parameters as usize), label, "{parameters}");
        }
    }

    #[test]
    fn hub_urls() {
        assert_eq!(NameParts::hub_id("https://huggingface.co/a/b"), Some("a/b"));
        assert_eq!(NameParts::hub_id("https://huggingface.co/datasets/a/b"), None);
        assert_eq!(NameParts::hub_id("https://example.org/a/b"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_name_has_parts(name in "[-/. _a-zA-Z0-9ßé]{0,24}|\\PC{0,12}", parameters: u32) {
            let parts = NameParts::of(&name, parameters as usize);
            proptest::prop_assert!(parts.full_name.is_some());
            title(&name);
            size_label(parameters as usize);
        }
    }
}
