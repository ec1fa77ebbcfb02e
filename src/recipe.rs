//! How a file can be made again, where its own bytes do not tell: written into it, and read by `plmconv verify`.
//!
//! A GGUF whose types are those of the preset it names, rounded to nearest (or by an importance matrix, which
//! llama-quantize's own keys tell), carries none: it has exactly the metadata of llama.cpp's tools. Exceptions from the
//! preset, statistics, passes, a budget and a pre-tokenizer that the user named are told by nothing else. An ONNX export
//! always carries one.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::{Context, Result, ensure};
use plmconv_calibrate::{Limit, Rounding};
use plmconv_formats::adapter::AdapterIdentity;
use plmconv_formats::onnx::QuantFormat;
use plmconv_formats::{DType, Layout, hex};
use plmconv_quant::policy::{FileType, Mixtures, Policy};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::passes::Pass;
use crate::target::{Gguf, Onnx, OnnxWeights, Target, Types, WeightType};

/// The key of a GGUF's metadata, and of an ONNX model's.
pub const KEY: &str = "plmconv.recipe";

/// Hexadecimal digits of a recipe's check.
const CHECK_DIGITS: usize = 16;

/// All that decides a file's bytes, but for the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The version of plmconv that wrote the file.
    pub version: String,
    /// A command line in its one spelling, without the model, the output and other files.
    pub arguments: Vec<String>,
    /// SHA-256 of the statistics that guided the rounding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub statistics: Option<String>,
    /// SHA-256 of the importance matrix that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub imatrix: Option<String>,
    /// The LoRA adapters that were merged into the model, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub adapters: Vec<RecipeAdapter>,
    /// The start of the SHA-256 of a recipe with this empty: no bit of it changes unseen.
    check: String,
}

/// What tells an adapter from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeAdapter {
    /// SHA-256 of its adapter_model.safetensors.
    pub weights: String,
    /// SHA-256 of its adapter_config.json.
    pub config: String,
    /// What it was multiplied by.
    pub scale: String,
}

impl From<&AdapterIdentity> for RecipeAdapter {
    fn from(identity: &AdapterIdentity) -> RecipeAdapter {
        let AdapterIdentity { weights, config, scale } = identity.clone();
        RecipeAdapter { weights, config, scale: scale.to_string() }
    }
}

impl fmt::Display for RecipeAdapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RecipeAdapter { weights, config, scale } = self;
        write!(f, "adapter_model.safetensors {weights}, adapter_config.json {config}, scale {scale}")
    }
}

impl Recipe {
    /// What a GGUF of this target carries, if it needs any.
    pub fn of_gguf(
        target: &Target<Gguf>,
        rounding: &Rounding,
        adapters: &[AdapterIdentity],
    ) -> Option<Recipe> {
        let mut arguments = Arguments::default();
        // Where they come from, how they are arranged and what may be overwritten decides nothing, or is in the files.
        let Target { format: Gguf { types, layout, tokenizer_pre, .. }, passes, made_by, .. } = target;
        let plain = match types {
            Types::Preset(policy) => {
                arguments.push(["quantize", policy.file_type.name()]);
                arguments.push_exceptions(policy)
            }
            Types::Budget { policy, file_type, limit } => {
                arguments.push(["quantize", file_type.map_or("auto", FileType::name)]);
                arguments.push_exceptions(policy);
                arguments.push_limit(*limit);
                false
            }
            Types::Source => {
                arguments.push(["convert", "--to", "gguf", "--dtype", "auto"]);
                true
            }
            // Those of a file that carries no recipe.
            Types::Stored(_) => return None,
        };
        let is_of_checkpoint = passes.is_empty() && adapters.is_empty();
        if plain && rounding.statistics().is_none() && is_of_checkpoint && tokenizer_pre.is_none() {
            return None;
        }
        if *layout == Layout::Latent {
            arguments.push(["--layout", "latent"]);
        }
        if let Some(name) = tokenizer_pre {
            arguments.push(["--tokenizer-pre", name]);
        }
        arguments.push_rounding(rounding);
        arguments.push_passes(passes);
        Some(Recipe::new(made_by, arguments, rounding, adapters))
    }

    /// What an ONNX export of this target carries.
    pub fn of_onnx(target: &Target<Onnx>, rounding: &Rounding, adapters: &[AdapterIdentity]) -> Recipe {
        let mut arguments = Arguments::default();
        let Target { format: target, passes, made_by, .. } = target;
        let float = target.float.name().to_ascii_lowercase();
        let type_name = |weights: WeightType| weights.name(target.float);
        match target.weights {
            OnnxWeights::Preset(WeightType::Float) => {
                arguments.push(["convert", "--to", "onnx", "--dtype", &float]);
            }
            OnnxWeights::Preset(weights) => arguments.push(["quantize", &type_name(weights), "--to", "onnx"]),
            OnnxWeights::Budget { name, limit } => {
                let name = name.map_or_else(|| "auto".into(), type_name);
                arguments.push(["quantize", &name, "--to", "onnx"]);
                arguments.push_limit(limit);
            }
        }
        if target.weights != OnnxWeights::Preset(WeightType::Float) {
            arguments.push_blocks(target, &float);
        }
        arguments.push(["--profile", target.profile.name()]);
        arguments.push(["--opset", &target.opset.version().to_string()]);
        arguments.push(target.num_logits_to_keep.then_some("--num-logits-to-keep"));
        if let Some(embedding) = target.token_embedding {
            arguments.push(["--token-embedding-type", &type_name(embedding)]);
        }
        for (pattern, weights) in &target.overrides {
            arguments.push(["--tensor-type", &format!("{pattern}={}", type_name(*weights))]);
        }
        arguments.push_rounding(rounding);
        arguments.push_passes(passes);
        Recipe::new(made_by, arguments, rounding, adapters)
    }

    fn new(
        version: &str,
        Arguments(arguments): Arguments,
        rounding: &Rounding,
        adapters: &[AdapterIdentity],
    ) -> Recipe {
        let adapters = adapters.iter().map(RecipeAdapter::from).collect();
        let digest = rounding.digest().map(str::to_string);
        let (statistics, imatrix) = match rounding.statistics() {
            Some(_) => (digest, None),
            None => (None, digest),
        };
        let recipe = Recipe {
            version: version.into(),
            arguments,
            statistics,
            imatrix,
            adapters,
            check: String::new(),
        };
        Recipe { check: recipe.digits(), ..recipe }
    }

    /// Reads what [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Recipe> {
        let recipe: Recipe = serde_json::from_str(text)?;
        ensure!(recipe.check == recipe.digits(), "its check is {}, not {}", recipe.check, recipe.digits());
        // JSON leaves spaces and escapes free; a recipe does not.
        let spelled = recipe.to_string();
        ensure!(spelled == text, "it is spelled in another way than {spelled}");
        Ok(recipe)
    }

    fn digits(&self) -> String {
        let unchecked = Recipe { check: String::new(), ..self.clone() };
        let mut hash = Sha256::new();
        hash.update(unchecked.to_string());
        let mut digits = hex(hash.finalize());
        digits.truncate(CHECK_DIGITS);
        digits
    }

    /// Whether this version of plmconv wrote it.
    pub fn is_of_this_version(&self) -> bool {
        self.version == env!("CARGO_PKG_VERSION")
    }

    /// The command that it records, without the files.
    pub fn command(&self) -> String {
        self.arguments.join(" ")
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).expect("strings and lists of strings"))
    }
}

/// Reads a recipe of `file`, if it has one.
///
/// # Errors
/// One that is damaged.
pub fn read(file: &std::path::Path, text: Option<&str>) -> Result<Option<Recipe>> {
    let Some(text) = text else { return Ok(None) };
    let recipe = Recipe::parse(text).with_context(|| format!("{}: `{KEY}` is damaged", file.display()))?;
    Ok(Some(recipe))
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn push<'a>(&mut self, words: impl IntoIterator<Item = &'a str>) {
        self.0.extend(words.into_iter().map(str::to_string));
    }

    /// True if there are none.
    fn push_exceptions(&mut self, policy: &Policy) -> bool {
        let before = self.0.len();
        self.push(policy.pure.then_some("--pure"));
        if policy.mixtures != Mixtures::default() {
            self.push(["--mixture", policy.mixtures.name()]);
        }
        if let Some(dtype) = policy.token_embedding_type {
            self.push(["--token-embedding-type", &dtype.name().to_ascii_lowercase()]);
        }
        for (pattern, dtype) in &policy.overrides {
            self.push(["--tensor-type", &format!("{pattern}={}", dtype.name().to_ascii_lowercase())]);
        }
        for (pattern, dtype) in policy.by_name.iter().flat_map(by_pattern) {
            self.push(["--tensor-type", &format!("{pattern}={}", dtype.name().to_ascii_lowercase())]);
        }
        self.0.len() == before
    }

    fn push_limit(&mut self, limit: Limit) {
        match limit {
            Limit::FileBytes(bytes) => self.push(["--target-size", &bytes.to_string()]),
            Limit::BitsPerWeight(bits) => self.push(["--target-bpw", &bits.to_string()]),
        }
    }

    fn push_blocks(&mut self, target: &Onnx, float: &str) {
        self.push(["--float-type", float]);
        let quant_format = match target.quant_format {
            QuantFormat::NBits => "nbits",
            QuantFormat::Qdq => "qdq",
        };
        self.push(["--quant-format", quant_format]);
        // A budget chooses it, unless it was said.
        if target.limit().is_none() || target.block_size.is_some() {
            self.push(["--block-size", &target.block_format(4).block_size.to_string()]);
        }
        self.push(["--accuracy-level", &target.accuracy_level.to_string()]);
        self.push((!target.symmetric).then_some("--asymmetric"));
    }

    fn push_rounding(&mut self, rounding: &Rounding) {
        if let Some(effort) = rounding.effort_name() {
            self.push(["--effort", effort]);
        }
        for part in rounding.left_out() {
            self.push(["--without", part]);
        }
    }

    fn push_passes(&mut self, passes: &[Pass]) {
        let names: Vec<&str> = passes.iter().map(|pass| pass.name()).collect();
        if !names.is_empty() {
            self.push(["--passes", &names.join(",")]);
        }
    }
}

/// Types by name as patterns: one for all layers of a matrix that share a type.
fn by_pattern(types: &BTreeMap<String, DType>) -> Vec<(String, DType)> {
    let mut layers: BTreeMap<(&str, DType), Vec<&str>> = BTreeMap::new();
    let mut patterns = Vec::new();
    for (name, &dtype) in types {
        match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => layers.entry((part, dtype)).or_default().push(layer),
            None => patterns.push((format!("^{}$", regex::escape(name)), dtype)),
        }
    }
    patterns.extend(layers.into_iter().map(|((part, dtype), layers)| {
        (format!(r"^blk\.({})\.{}$", layers.join("|"), regex::escape(part)), dtype)
    }));
    patterns
}

#[cfg(test)]
mod tests {
    use plmconv_quant::policy::parse_override;

    use super::*;

    fn target(types: Types) -> Target<Gguf> {
        Target::new(Gguf::new(types))
    }

    fn recipe_of(target: &Target<Gguf>) -> Option<Recipe> {
        Recipe::of_gguf(target, &Rounding::default(), &[])
    }

    fn recipe() -> Recipe {
        let overrides = vec![parse_override(r"blk\.0\.ffn_(up|down)=Q6_K").expect("an override")];
        let policy = Policy { overrides, ..Policy::preset(FileType::Q4KM) };
        recipe_of(&target(Types::Preset(policy))).expect("it is not the plain preset")
    }

    #[test]
    fn what_a_file_tells_itself_needs_no_recipe() {
        let preset = |file_type| Types::Preset(Policy::preset(file_type));
        assert_eq!(recipe_of(&target(preset(FileType::Q4KM))), None);
        assert_eq!(recipe_of(&target(Types::Source)), None);
        let mut latent = target(preset(FileType::Q4KM));
        latent.format.layout = Layout::Latent;
        assert_eq!(recipe_of(&latent), None);
        let rotated = Target { passes: vec![Pass::TurnValues, Pass::SortNeurons], ..latent };
        let recipe = recipe_of(&rotated).expect("nothing else records passes");
        assert_eq!(recipe.command(), "quantize q4_k_m --layout latent --passes turn-values,sort-neurons");
        let embedding = Policy { token_embedding_type: Some(DType::Q8_0), ..Policy::preset(FileType::F16) };
        let recipe = recipe_of(&target(Types::Preset(embedding))).expect("an exception");
        assert_eq!(recipe.command(), "quantize f16 --token-embedding-type q8_0");
    }

    #[test]
    fn types_by_name_become_patterns_of_like_layers() {
        let types = [
            ("token_embd.weight", DType::Q6K),
            ("blk.0.ffn_up.weight", DType::Q4K),
            ("blk.1.ffn_up.weight", DType::Q5K),
            ("blk.10.ffn_up.weight", DType::Q4K),
        ];
        let types = types.map(|(name, dtype)| (name.to_string(), dtype)).into();
        let policy = Policy { by_name: Some(types), ..Policy::preset(FileType::Q4KM) };
        let recipe = recipe_of(&target(Types::Preset(policy))).expect("exceptions");
        let expected = [
            r"quantize q4_k_m --tensor-type ^token_embd\.weight$=q6_k",
            r"--tensor-type ^blk\.(0|10)\.ffn_up\.weight$=q4_k",
            r"--tensor-type ^blk\.(1)\.ffn_up\.weight$=q5_k",
        ];
        assert_eq!(recipe.command(), expected.join(" "));
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let recipe = recipe();
        assert_eq!(Recipe::parse(&recipe.to_string()).expect("its own text"), recipe);
        assert_eq!(recipe.command(), r"quantize q4_k_m --tensor-type blk\.0\.ffn_(up|down)=q6_k");
        assert!(recipe.is_of_this_version());
    }

    #[test]
    fn no_bit_changes_unseen() {
        let text = recipe().to_string();
        for bit in 0..text.len() * 8 {
            let mut bytes = text.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let Ok(changed) = String::from_utf8(bytes) else { continue };
            assert!(Recipe::parse(&changed).is_err(), "{changed}");
        }
        assert!(Recipe::parse(&text.replace("\",\"", "\", \"")).is_err(), "spaces");
    }
}
