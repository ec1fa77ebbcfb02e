//! `adapter_config.json`: what peft was told.

use std::path::{Path, PathBuf};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::fields::{Fields, missing};
use crate::limits;

/// peft's default of `r` and of `lora_alpha`.
const DEFAULT: f64 = 8.0;

/// More than a model has modules, and what one pattern may take in memory.
const MAX_PATTERNS: usize = 1024;
const PATTERN_BYTES: usize = 1 << 15;

/// Settings that, unless they are false, null or empty, make the adapter something else than a sum; and what that is.
const REFUSED: [(&str, &str); 12] = [
    ("use_dora", "DoRA (`use_dora`), which rescales the sum of both,"),
    ("lora_bias", "biases (`lora_bias`), which a PLM has none of,"),
    ("use_qalora", "QALoRA (`use_qalora`)"),
    ("use_bdlora", "block-diagonal LoRA (`use_bdlora`)"),
    ("kasa_config", "KaSA (`kasa_config`)"),
    ("monteclora_config", "MonteCLoRA (`monteclora_config`)"),
    ("arrow_config", "routing between adapters (`arrow_config`)"),
    ("alora_invocation_tokens", "an adapter that some tokens switch on (`alora_invocation_tokens`)"),
    ("layer_replication", "repeated layers (`layer_replication`)"),
    ("trainable_token_indices", "tokens trained by themselves (`trainable_token_indices`)"),
    ("target_parameters", "parameters outside of modules (`target_parameters`)"),
    ("megatron_config", "layers of Megatron (`megatron_config`)"),
];

/// Ways to begin that change the base model as well, so that the adapter is not for the one it names.
const CHANGED_BASES: [&str; 6] = ["pissa", "olora", "corda", "loftq", "lora_ga", "mica"];

/// What decides how much each product counts.
#[derive(Debug)]
pub(super) struct AdapterConfig {
    path: PathBuf,
    rank: f64,
    alpha: f64,
    /// Divide by the root of the rank.
    rank_stabilized: bool,
    /// By patterns of module names, in the order of the file: the first that matches counts.
    ranks: Vec<(Regex, f64)>,
    alphas: Vec<(Regex, f64)>,
    modules_to_save: Vec<String>,
    pub ensure_weight_tying: bool,
}

impl AdapterConfig {
    /// Parses what was read from `path`.
    ///
    /// # Errors
    /// Not JSON, no LoRA or a kind of it that is no sum, values of the wrong kind.
    pub fn parse(path: &Path, bytes: Vec<u8>) -> Result<AdapterConfig> {
        let fields = Fields::parse(path, bytes)?;
        fields.refuse_other_kinds()?;
        Ok(AdapterConfig {
            path: path.into(),
            rank: fields.positive_or_default("r")?,
            alpha: fields.positive_or_default("lora_alpha")?,
            rank_stabilized: fields.is_on("use_rslora")?,
            ranks: fields.patterns("rank_pattern")?,
            alphas: fields.patterns("alpha_pattern")?,
            modules_to_save: fields.texts("modules_to_save")?,
            ensure_weight_tying: fields.is_on("ensure_weight_tying")?,
        })
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The rank of a module's matrices.
    pub fn rank(&self, module: &str) -> f64 {
        of_pattern(&self.ranks, module).unwrap_or(self.rank)
    }

    /// What a module's product is multiplied by.
    pub fn factor(&self, module: &str) -> f64 {
        let (alpha, rank) = (of_pattern(&self.alphas, module).unwrap_or(self.alpha), self.rank(module));
        if self.rank_stabilized { alpha / rank.sqrt() } else { alpha / rank }
    }

    /// `lora_alpha`, whatever patterns say.
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Whether a module is one of `modules_to_save`: as peft sees it, by the end of its name.
    pub fn saves(&self, module: &str) -> bool {
        self.modules_to_save.iter().any(|name| module.ends_with(name.as_str()))
    }
}

/// peft's `get_pattern_key`: the pattern stands for the end of a name, from a dot or the start on.
fn of_pattern(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    patterns.iter().find(|(pattern, _)| pattern.is_match(module)).map(|(_, value)| *value)
}

impl Fields<'_> {
    fn refuse_other_kinds(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::Unmergeable { path: self.path.into(), what });
        match self.text("peft_type") {
            Some("LORA") => {}
            Some(other) => return refuse(format!("an adapter of the type {other} (LORA is read)")),
            None => return Err(missing(self.path, "peft_type")),
        }
        if let Some((_, what)) = REFUSED.iter().find(|(key, _)| self.map.get(*key).is_some_and(is_set)) {
            return refuse((*what).into());
        }
        match self.text("init_lora_weights") {
            Some(start) if CHANGED_BASES.iter().any(|base| start.starts_with(base)) => refuse(format!(
                "an adapter that began with a changed base model (`init_lora_weights: {start}`; peft saves one for \
                 the model as it was with `path_initial_model_for_weight_conversion`)"
            )),
            _ => Ok(()),
        }
    }

    /// A positive number, or what peft takes without one.
    fn positive_or_default(&self, key: &str) -> Result<f64> {
        match self.map.get(key) {
            None => Ok(DEFAULT),
            Some(value) => self.positive(key, value),
        }
    }

    fn positive(&self, key: &str, value: &Value) -> Result<f64> {
        match value.as_f64() {
            Some(number) if number > 0.0 => Ok(number),
            _ => Err(self.bad(key, value, "a positive number")),
        }
    }

    fn is_on(&self, key: &str) -> Result<bool> {
        Ok(self.flag(key)?.unwrap_or(false))
    }

    fn texts(&self, key: &str) -> Result<Vec<String>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let texts = value.as_array().and_then(|list| {
            list.iter().map(|text| text.as_str().map(str::to_string)).collect::<Option<Vec<_>>>()
        });
        texts.ok_or_else(|| self.bad(key, value, "a list of names"))
    }

    fn patterns(&self, key: &str) -> Result<Vec<(Regex, f64)>> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let map = value.as_object().ok_or_else(|| self.bad(key, value, "patterns and numbers"))?;
        limits::check(self.path, "patterns of modules", map.len(), MAX_PATTERNS)?;
        let pattern = |(text, value): (&String, &Value)| -> Result<_> {
            let number = self.positive(&format!("{key}.{text}"), value)?;
            let whole = format!(r"^(?:.*\.)?(?:{text})$");
            match RegexBuilder::new(&whole).size_limit(PATTERN_BYTES).dfa_size_limit(PATTERN_BYTES).build() {
                Ok(pattern) => Ok((pattern, number)),
                Err(_) => Err(self.bad(key, &Value::String(text.clone()), "regular expressions")),
            }
        };
        map.iter().map(pattern).collect()
    }
}

/// What Python takes for true.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(flag) => *flag,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(config: &Value) -> Result<AdapterConfig> {
        AdapterConfig::parse(Path::new("adapter_config.json"), config.to_string().into_bytes())
    }

    #[test]
    fn the_first_pattern_that_matches_the_end_of_a_name_counts() {
        let config = parse(&json!({
            "peft_type": "LORA", "r": 4, "lora_alpha": 16,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "q_proj": 8, "^model.norm": 3},
            "alpha_pattern": {"o_proj|down_proj": 4},
        }))
        .expect("is read");
        let module = |name: &str| (config.rank(name), config.factor(name));
        assert_eq!(module("model.layers.1.self_attn.q_proj"), (2.0, 8.0));
        // `layers.1` is no end of `layers.11`, since a pattern begins at a dot.
        assert_eq!(module("model.layers.11.self_attn.q_proj"), (8.0, 2.0));
        assert_eq!(module("model.layers.0.mlp.down_proj"), (4.0, 1.0));
        assert_eq!(module("model.layers.0.mlp.xdown_proj"), (4.0, 4.0));
        assert_eq!(module("q_proj").0, 8.0);
        assert_eq!(module("model.norm").0, 3.0);
    }

    #[test]
    fn rs_lora_divides_by_the_root() {
        let config = parse(&json!({"peft_type": "LORA", "r": 16, "lora_alpha": 8, "use_rslora": true}));
        assert_eq!(config.expect("is read").factor("q_proj"), 2.0);
        let defaults = parse(&json!({"peft_type": "LORA"})).expect("is read");
        assert_eq!((defaults.rank("x"), defaults.factor("x")), (8.0, 1.0));
    }

    #[test]
    fn what_is_no_sum_is_refused_by_name() {
        for (key, value, named) in [
            ("peft_type", json!("IA3"), "IA3"),
            ("use_dora", json!(true), "DoRA"),
            ("lora_bias", json!(true), "lora_bias"),
            ("init_lora_weights", json!("pissa_niter_4"), "pissa_niter_4"),
            ("layer_replication", json!([[0, 4]]), "repeated layers"),
        ] {
            let mut config = json!({"peft_type": "LORA"});
            config[key] = value;
            let error = parse(&config).expect_err(key);
            assert!(matches!(error, Error::Unmergeable { .. }), "{error}");
            assert!(error.to_string().contains(named), "{error}");
        }
        let harmless =
            json!({"peft_type": "LORA", "use_dora": false, "layer_replication": null, "bias": "all"});
        parse(&harmless).expect("is read");
        for (key, value) in [("r", json!(0)), ("lora_alpha", json!("x")), ("rank_pattern", json!({"(": 1}))] {
            let mut config = json!({"peft_type": "LORA"});
            config[key] = value;
            assert!(matches!(parse(&config), Err(Error::BadValue { .. })), "{key}");
        }
    }
}
