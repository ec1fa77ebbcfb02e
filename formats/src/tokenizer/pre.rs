//! Pre-tokenizers: which of llama.cpp's names means the same splits as a tokenizer.json's pre-tokenizer.
//!
//! The structure is compared (the regexes, in order), not what it does to a sample text: a fine-tune with other
//! tokens splits the same way.

use std::sync::OnceLock;

use serde_json::Value;
use tokenizers::utils::SysRegex;

use crate::error::{Error, Result};

/// Pre-tokenizers with the same splits and flags under one or more of llama.cpp's names.
#[derive(Debug)]
pub(super) struct PreTokenizer {
    /// Names in llama.cpp; the first is the one written.
    names: &'static [&'static str],
    /// Regexes applied one after the other, each cutting every match out of the pieces before it.
    pub splits: &'static [&'static str],
    /// A piece that is a token as a whole is taken without merging.
    pub ignore_merges: bool,
    /// What llama.cpp does where `tokenizer.ggml.add_bos_token` is absent.
    pub add_bos: bool,
    /// `splits`, compiled at their first use: that takes longer than all else of a small tokenizer.
    regexes: OnceLock<Vec<SysRegex>>,
}

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const SEED_CODER: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+";
const DEEPSEEK_V3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
const LINE_BREAK: &str = r"[\r\n]";
const DIGIT: &str = r"\p{N}";
const DIGITS: &str = r"\p{N}+";

/// THE table. Regexes are those of published tokenizer.json files. llama.cpp has each in its own dialect; an entry
/// is here only if it splits alike, so that ids are the same.
static TABLE: [PreTokenizer; 9] = [
    pre(
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
        ],
        &[QWEN2],
    ),
    pre(&["qwen35"], &[QWEN35]),
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        splits: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        regexes: OnceLock::new(),
    },
    pre(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    pre(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[GPT2],
    ),
    pre(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[DIGIT, GPT2],
    ),
    pre(&["deepseek-coder"], &[LINE_BREAK, r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", DIGIT]),
    pre(
        &["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"],
        &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK_V3],
    ),
    pre(&["seed-coder"], &[SEED_CODER]),
];

/// Names that llama.cpp loads but whose splits the table above does not hold: rare, or (as `gpt-4o` and `tekken`,
/// whose combining marks it cuts off) only nearly those of the tokenizer they are for.
const OTHER_NAMES: [&str; 39] = [
    "gpt-4o",
    "llama4",
    "kanana2",
    "talkie",
    "minimax-m2",
    "tekken",
    "default",
    "minicpm5",
    "deepseek-llm",
    "spark2_5",
    "youtu",
    "falcon",
    "jais-2",
    "gemma4",
    "granite-embed-multi-311m",
    "sarvam-moe",
    "jina-v1-en",
    "jina-v2-code",
    "roberta-bpe",
    "whitespace",
    "poro-chat",
    "glm4",
    "glm5",
    "viking",
    "bloom",
    "gpt3-finnish",
    "exaone-moe",
    "chameleon",
    "granite-embed-multi-97m",
    "tiny_aya",
    "cohere2moe",
    "superbpe",
    "bailingmoe",
    "bailingmoe2",
    "llada-moe",
    "kimi-k2",
    "ufakzeka",
    "afmoe",
    "laguna",
];

const fn pre(names: &'static [&'static str], splits: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, splits, ignore_merges: false, add_bos: false, regexes: OnceLock::new() }
}

impl PreTokenizer {
    /// The name written into a GGUF.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// The compiled splits.
    pub fn regexes(&self) -> &[SysRegex] {
        let compile = |regex: &&str| SysRegex::new(regex).expect("a constant regex");
        self.regexes.get_or_init(|| self.splits.iter().map(compile).collect())
    }

    /// The entry of one of llama.cpp's names, or `None` if the table does not hold its splits.
    pub fn find(name: &str) -> Option<&'static PreTokenizer> {
        TABLE.iter().find(|p| p.names.contains(&name))
    }

    /// The pre-tokenizer of a `tokenizer_class` that comes as vocab.json and merges.txt.
    pub fn of_class(class: &str) -> Option<&'static PreTokenizer> {
        match class.strip_suffix("Fast").unwrap_or(class) {
            "Qwen2Tokenizer" => PreTokenizer::find("qwen2"),
            "GPT2Tokenizer" => PreTokenizer::find("gpt-2"),
            _ => None,
        }
    }

    /// The entry with the structure of a tokenizer.json's `pre_tokenizer`.
    ///
    /// # Errors
    /// What was found instead of a known structure, to be shown.
    pub fn recognize(value: &Value, ignore_merges: bool) -> Result<&'static PreTokenizer, String> {
        let mut splits = Vec::new();
        let byte_level = collect_splits(value, &mut splits)?;
        let found = splits.join(" then ");
        if !byte_level {
            return Err(format!("{found} without ByteLevel"));
        }
        let same_splits = |p: &&PreTokenizer| p.splits.iter().map(|s| spell(s)).eq(splits.iter().cloned());
        let mut candidates = TABLE.iter().filter(same_splits).peekable();
        if candidates.peek().is_none() {
            return Err(found);
        }
        candidates
            .find(|p| p.ignore_merges == ignore_merges)
            .ok_or_else(|| format!("{found} with `ignore_merges: {ignore_merges}`"))
    }
}

/// All names that llama.cpp loads.
pub fn known_pre_tokenizers() -> impl Iterator<Item = &'static str> {
    TABLE.iter().flat_map(|p| p.names.iter().copied()).chain(OTHER_NAMES)
}

/// Refuses a name that llama.cpp would refuse to load.
///
/// # Errors
/// [`Error::UnknownPreTokenizerName`], with the names that look most like it.
pub fn check_pre_tokenizer_name(name: &str) -> Result<()> {
    if known_pre_tokenizers().any(|known| known == name) {
        return Ok(());
    }
    let mut nearest: Vec<_> = known_pre_tokenizers().map(|k| (strsim::levenshtein(name, k), k)).collect();
    nearest.sort();
    let limit = (name.chars().count() / 2).max(2);
    let nearest = nearest.into_iter().filter(|(d, _)| *d <= limit).take(3).map(|(_, k)| k).collect();
    Err(Error::UnknownPreTokenizerName { name: name.into(), nearest })
}

/// Adds the regexes of a pre-tokenizer, nested sequences flattened. True if it ends in byte-level encoding.
fn collect_splits(value: &Value, splits: &mut Vec<String>) -> Result<bool, String> {
    let flag = |key: &str, default| value.get(key).and_then(Value::as_bool).unwrap_or(default);
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "Sequence" => {
            let steps =
                value.get("pretokenizers").and_then(Value::as_array).ok_or_else(|| value.to_string())?;
            let mut byte_level = false;
            for step in steps {
                if byte_level {
                    return Err(format!("{step} after ByteLevel"));
                }
                byte_level = collect_splits(step, splits)?;
            }
            Ok(byte_level)
        }
        "Split" => {
            let regex = value.pointer("/pattern/Regex").and_then(Value::as_str);
            let behavior = value.get("behavior").and_then(Value::as_str).unwrap_or_default();
            // Each regex of the table that is used this way matches all of a text, so that removing what does not
            // match removes nothing.
            let isolates = matches!((behavior, flag("invert", false)), ("Isolated", _) | ("Removed", true));
            match regex {
                Some(regex) if isolates => splits.push(spell(regex)),
                _ => return Err(value.to_string()),
            }
            Ok(false)
        }
        "Digits" => {
            splits.push(spell(if flag("individual_digits", false) { DIGIT } else { DIGITS }));
            Ok(false)
        }
        "ByteLevel" => {
            if flag("add_prefix_space", true) {
                return Err(format!("{value} (llama.cpp adds no space before a text)"));
            }
            if flag("use_regex", true) {
                splits.push(spell(GPT2));
            }
            Ok(true)
        }
        _ => Err(value.to_string()),
    }
}

/// One spelling of a regex: line breaks as escapes, contractions in one of their two usual forms.
fn spell(regex: &str) -> String {
    regex
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace("(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", CONTRACTIONS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn split(regex: &str) -> Value {
        json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false})
    }

    fn byte_level(use_regex: bool) -> Value {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
    }

    fn sequence(steps: &[Value]) -> Value {
        json!({"type": "Sequence", "pretokenizers": steps})
    }

    fn name(value: &Value, ignore_merges: bool) -> Result<&'static str, String> {
        PreTokenizer::recognize(value, ignore_merges).map(PreTokenizer::name)
    }

    #[test]
    fn every_entry_is_recognized_by_its_own_structure() {
        for entry in &TABLE {
            let mut steps: Vec<_> = entry.splits.iter().map(|s| split(s)).collect();
            steps.push(byte_level(false));
            assert_eq!(name(&sequence(&steps), entry.ignore_merges), Ok(entry.name()));
            assert_eq!(entry.regexes().len(), entry.splits.len());
        }
    }

    #[test]
    fn other_spellings_are_the_same() {
        assert_eq!(name(&byte_level(true), false), Ok("gpt-2"));
        let digits = json!({"type": "Digits", "individual_digits": true});
        assert_eq!(name(&sequence(&[digits.clone(), byte_level(true)]), false), Ok("smollm"));
        let nested = sequence(&[sequence(&[split(QWEN2)]), byte_level(false)]);
        assert_eq!(name(&nested, false), Ok("qwen2"));
        let raw_breaks = QWEN2.replace(r"\r", "\r").replace(r"\n", "\n");
        assert_eq!(name(&sequence(&[split(&raw_breaks), byte_level(false)]), false), Ok("qwen2"));
        let removed =
            json!({"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Removed", "invert": true});
        assert_eq!(name(&sequence(&[removed, byte_level(false)]), true), Ok("llama-bpe"));
    }

    #[test]
    fn unknown_structures_name_what_was_found() {
        let found = |value: &Value| name(value, false).expect_err("is not known");
        assert!(found(&sequence(&[split(r"\w+|\W+"), byte_level(false)])).contains(r"\w+|\W+"));
        assert!(found(&split(QWEN2)).contains("without ByteLevel"));
        assert!(found(&json!({"type": "Metaspace"})).contains("Metaspace"));
        assert!(found(&json!({"type": "ByteLevel", "add_prefix_space": true})).contains("adds no space"));
        assert!(found(&Value::Null).contains("null"));
        let merged = json!({"type": "Split", "pattern": {"Regex": QWEN2}, "behavior": "MergedWithNext"});
        assert!(found(&sequence(&[merged, byte_level(false)])).contains("MergedWithNext"));
        let qwen2 = sequence(&[split(QWEN2), byte_level(false)]);
        assert!(name(&qwen2, true).expect_err("no such name").contains("ignore_merges"));
        assert!(found(&sequence(&[byte_level(false), split(QWEN2)])).contains("after ByteLevel"));
    }

    #[test]
    fn names_are_checked_and_unique() {
        let mut names: Vec<_> = known_pre_tokenizers().collect();
        for name in &names {
            assert!(check_pre_tokenizer_name(name).is_ok());
        }
        names.sort_unstable();
        assert!(names.windows(2).all(|w| w[0] != w[1]));
        match check_pre_tokenizer_name("qwen-2") {
            Err(Error::UnknownPreTokenizerName { nearest, .. }) => assert_eq!(nearest[0], "qwen2"),
            other => panic!("{other:?}"),
        }
    }
}
