//! The type each tensor of a model gets: presets, overrides, and what happens when a shape does not fit.
//!
//! For the same choices the types equal llama-quantize's (`llama_tensor_get_type` in llama-quant.cpp). Where
//! llama-quantize ignores a choice or aborts, this differs on purpose: overrides also apply to the presets f32, f16
//! and bf16, the type chosen for the token embedding falls back when its rows do not fit, and a pattern that
//! matches nothing is an error. A model in the latent layout has mixtures of its own (`latent`).

mod file_type;
mod latent;
mod mixture;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use plmconv_formats::DType;
use regex::{Regex, RegexBuilder};

use crate::{Error, can_encode};
pub use file_type::FileType;
pub use mixture::Mixtures;
use mixture::{Category, Mixture};

/// A tensor to find a type for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDesc {
    /// GGUF name, e.g. `blk.0.ffn_down.weight`.
    pub name: String,
    /// Row-major: the last dimension is a row's length.
    pub shape: Vec<usize>,
    /// How the source stores it.
    pub source: DType,
}

/// What the mixtures need to know of the model besides its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// `block_count`.
    pub layers: usize,
    /// `head_count / head_count_kv`: 1 for `plm`; more where query heads share a key (a latent cache has one).
    pub query_heads_per_kv_head: usize,
}

/// How to choose types.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The mixture that exceptions are made from.
    pub file_type: FileType,
    /// Which mixture that name means.
    pub mixtures: Mixtures,
    /// Every tensor the preset's base type: no mixture.
    pub pure: bool,
    /// The token embedding's type, before everything else.
    pub token_embedding_type: Option<DType>,
    /// The first pattern found anywhere in a tensor's name decides; made by [`parse_override`].
    pub overrides: Vec<(Regex, DType)>,
    /// In place of the mixture: the type of every matrix, by name.
    pub by_name: Option<BTreeMap<String, DType>>,
    /// Whether an importance matrix is given: some mixtures depend on it.
    pub has_importance: bool,
}

/// Why a tensor got its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// One-dimensional, or a norm: too small to be worth a loss.
    NotQuantized,
    /// The preset's base type.
    Preset,
    /// Singled out by the preset's mixture.
    Mixture,
    /// `token_embedding_type`.
    TokenEmbedding,
    /// An override with this pattern.
    Override(String),
    /// `by_name`.
    Named,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::NotQuantized => f.write_str("not quantized"),
            Reason::Preset => f.write_str("preset"),
            Reason::Mixture => f.write_str("mixture"),
            Reason::TokenEmbedding => f.write_str("token embedding"),
            Reason::Override(pattern) => write!(f, "pattern {pattern}"),
            Reason::Named => f.write_str("by name"),
        }
    }
}

/// The type of one tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    /// How it is stored.
    pub dtype: DType,
    /// The type first chosen, where the row length is not whole blocks of it.
    pub fallback_from: Option<DType>,
    /// Why it got that type.
    pub reason: Reason,
    /// The result is useless without an importance for this very tensor.
    pub needs_importance: bool,
}

impl Assigned {
    /// A type that nothing chose.
    pub fn kept(dtype: DType) -> Assigned {
        Assigned { dtype, fallback_from: None, reason: Reason::NotQuantized, needs_importance: false }
    }
}

impl Policy {
    /// A preset without further choices.
    pub fn preset(file_type: FileType) -> Policy {
        Policy {
            file_type,
            mixtures: Mixtures::default(),
            pure: false,
            token_embedding_type: None,
            overrides: Vec::new(),
            by_name: None,
            has_importance: false,
        }
    }

    /// Types for all tensors of a model, in the order given (which does not influence them).
    ///
    /// # Errors
    /// When a pattern matches no quantizable tensor, when `by_name` lacks one, when a type cannot be encoded, or when a
    /// type needs an importance matrix and none is given.
    pub fn assign(&self, tensors: &[TensorDesc], shape: ModelShape) -> Result<Vec<Assigned>, Error> {
        self.check_overrides(tensors)?;
        let categories: Vec<Category> =
            tensors.iter().map(|tensor| Category::of(&tensor.name, self.mixtures)).collect();
        let count = |category| categories.iter().filter(|&&found| found == category).count();
        let mut mixture = Mixture {
            file_type: self.file_type,
            shape,
            has_importance: self.has_importance,
            tied: count(Category::Output) == 0,
            attention_values: count(Category::AttentionValue),
            attention_values_seen: 0,
            ffn_downs_seen: 0,
            ffn_ups_seen: 0,
            ffn_gates_seen: 0,
            latent: tensors.iter().any(|tensor| latent::is_latent(&tensor.name)),
        };

        let mut order: Vec<usize> = (0..tensors.len()).collect();
        order.sort_by(|&a, &b| quantizing_order(&tensors[a].name, &tensors[b].name));
        let mut assigned: Vec<Option<Assigned>> = vec![None; tensors.len()];
        for index in order {
            assigned[index] = Some(self.assign_one(&tensors[index], categories[index], &mut mixture)?);
        }
        Ok(assigned.into_iter().flatten().collect())
    }

    fn assign_one(
        &self,
        tensor: &TensorDesc,
        category: Category,
        mixture: &mut Mixture,
    ) -> Result<Assigned, Error> {
        if !is_quantizable(tensor) {
            return Ok(Assigned::kept(kept_type(tensor)));
        }
        let cols = tensor.shape.last().copied().unwrap_or(1);
        let (chosen, reason) = self.choose(tensor, category, cols, mixture)?;
        if !can_encode(chosen) {
            return Err(Error::CannotEncode { dtype: chosen });
        }
        let dtype = fitting(chosen, cols, self.mixtures);
        let is_table = matches!(category, Category::TokenEmbedding | Category::Output);
        let needs_importance = !is_table && self.is_useless_without_importance(dtype);
        if needs_importance && !self.has_importance {
            return Err(Error::NeedsImportance { tensor: tensor.name.clone(), dtype });
        }
        let fallback_from = (dtype != chosen).then_some(chosen);
        Ok(Assigned { dtype, fallback_from, reason, needs_importance })
    }

    /// Where llama-quantize insists on an importance matrix.
    fn is_useless_without_importance(&self, dtype: DType) -> bool {
        use DType::*;
        match dtype {
            Iq1S | Iq1M | Iq2Xxs | Iq2Xs | Iq2S | Iq3Xxs => true,
            Q2K => self.file_type == FileType::Q2KS,
            Q1_0 | Q2_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8_1 | Iq4Nl | Mxfp4 | Nvfp4 => false,
            Q3K | Q4K | Q5K | Q6K | Q8K | Iq3S | Iq4Xs | Tq1_0 | Tq2_0 => false,
            F32 | F16 | Bf16 | F64 | I8 | I16 | I32 | I64 => false,
        }
    }

    fn choose(
        &self,
        tensor: &TensorDesc,
        category: Category,
        cols: usize,
        mixture: &mut Mixture,
    ) -> Result<(DType, Reason), Error> {
        let base = self.file_type.base();
        if let (Some(dtype), Category::TokenEmbedding) = (self.token_embedding_type, category) {
            return Ok((dtype, Reason::TokenEmbedding));
        }
        if let Some((pattern, dtype)) = self.overrides.iter().find(|(p, _)| p.is_match(&tensor.name)) {
            return Ok((*dtype, Reason::Override(pattern.as_str().to_owned())));
        }
        if let Some(types) = &self.by_name {
            let named = types.get(&tensor.name).copied();
            let missing = || Error::UnnamedTensor { tensor: tensor.name.clone() };
            return Ok((named.ok_or_else(missing)?, Reason::Named));
        }
        if self.pure || !base.is_quantized() {
            return Ok((base, Reason::Preset));
        }
        let is_table = matches!(category, Category::TokenEmbedding | Category::Output);
        let dtype = if mixture.latent && !is_table {
            latent::choose(self.file_type, &tensor.name, mixture.shape.layers)
        } else {
            mixture.choose(category, cols)
        };
        Ok((dtype, if dtype == base { Reason::Preset } else { Reason::Mixture }))
    }

    fn check_overrides(&self, tensors: &[TensorDesc]) -> Result<(), Error> {
        let matches_some = |pattern: &Regex| {
            tensors.iter().any(|tensor| is_quantizable(tensor) && pattern.is_match(&tensor.name))
        };
        match self.overrides.iter().find(|(pattern, _)| !matches_some(pattern)) {
            Some((pattern, _)) => Err(Error::UnmatchedPattern { pattern: pattern.as_str().to_owned() }),
            None => Ok(()),
        }
    }
}

/// Parses `PATTERN=TYPE`: a regular expression that is searched for in tensor names without regard to case, and
/// a ggml type name such as `q6_k`.
///
/// # Errors
/// When there is no `=` with something on both sides, or either side is invalid.
pub fn parse_override(text: &str) -> Result<(Regex, DType), Error> {
    let (regex, name) = split_override(text)?;
    Ok((regex, parse_tensor_type(name)?))
}

/// `PATTERN=TYPE` as a case-insensitive pattern and the type's name.
///
/// # Errors
/// When there is no `=` with something on both sides, or the pattern is invalid.
pub fn split_override(text: &str) -> Result<(Regex, &str), Error> {
    let malformed = || Error::MalformedOverride { text: text.to_owned() };
    let (pattern, name) = text.split_once('=').ok_or_else(malformed)?;
    if pattern.is_empty() || name.is_empty() {
        return Err(malformed());
    }
    let regex = RegexBuilder::new(pattern).case_insensitive(true).build();
    let regex = regex
        .map_err(|source| Error::BadPattern { pattern: pattern.to_owned(), source: Box::new(source) })?;
    Ok((regex, name))
}

/// The encodable type of this name, case-insensitive.
///
/// # Errors
/// [`Error::UnknownTensorType`] with the nearest names.
pub fn parse_tensor_type(name: &str) -> Result<DType, Error> {
    DType::from_name(name).filter(|dtype| can_encode(*dtype)).ok_or_else(|| Error::UnknownTensorType {
        name: name.to_owned(),
        nearest: {
            let names: Vec<String> = encodable().map(|dtype| dtype.name().to_ascii_lowercase()).collect();
            nearest_names(&name.to_ascii_lowercase(), names.iter().map(String::as_str))
        },
    })
}

fn encodable() -> impl Iterator<Item = DType> {
    DType::all().filter(|dtype| can_encode(*dtype))
}

/// The three names most like `name`, best first, comma separated.
pub fn nearest_names<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut scored: Vec<(f64, &str)> =
        known.map(|known| (strsim::normalized_damerau_levenshtein(name, known), known)).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.iter().take(3).map(|(_, known)| *known).collect::<Vec<_>>().join(", ")
}

/// Matrices named `*.weight`, except norms and expert routers. Leading dimensions of one do not count, as in
/// ggml.
fn is_quantizable(tensor: &TensorDesc) -> bool {
    let dimensions = tensor.shape.iter().skip_while(|&&length| length == 1).count();
    let name = &tensor.name;
    dimensions >= 2
        && name.ends_with("weight")
        && !name.contains("_norm.weight")
        && !name.contains("ffn_gate_inp.weight")
}

/// The type of a tensor that is not quantized: f32, which llama.cpp's element-wise operations want.
fn kept_type(tensor: &TensorDesc) -> DType {
    if tensor.source.is_float() { DType::F32 } else { tensor.source }
}

/// `chosen`, or the type llama-quantize takes instead where `cols` is not whole blocks of it.
fn fitting(chosen: DType, cols: usize, mixtures: Mixtures) -> DType {
    let fits = |dtype: DType| cols.is_multiple_of(dtype.block_len());
    if fits(chosen) {
        return chosen;
    }
    use DType::*;
    let smaller = match chosen {
        Iq1S | Iq1M | Iq2Xxs | Iq2Xs | Iq2S | Iq3Xxs | Iq3S | Iq4Xs => Some(Iq4Nl),
        Q2K | Q3K if mixtures == Mixtures::March2025 => Some(Iq4Nl),
        // llama-quantize has no fallback for Q1_0 and NVFP4 and gives up.
        Q1_0 | Q2_0 | Q2K | Q3K | Tq1_0 | Tq2_0 => Some(Q4_0),
        Nvfp4 => Some(Mxfp4),
        Q4K => Some(Q5_0),
        Q5K => Some(Q5_1),
        Q6K => Some(Q8_0),
        // llama-quantize never replaces these by another block type.
        Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8_1 | Q8K | Iq4Nl | Mxfp4 => None,
        F32 | F16 | Bf16 | F64 | I8 | I16 | I32 | I64 => None,
    };
    smaller.filter(|dtype| fits(*dtype)).unwrap_or(F16)
}

/// llama.cpp's order of tensors: what belongs to no layer first, then by layer, then by name.
pub fn quantizing_order(a: &str, b: &str) -> Ordering {
    let layer = |name: &str| {
        let digits = name.strip_prefix("blk.").and_then(|rest| rest.split('.').next());
        digits.and_then(|digits| digits.parse::<u32>().ok())
    };
    // None sorts before every layer.
    layer(a).cmp(&layer(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests;
