//! The two sides of a comparison: models that run, and outputs that were stored.

use std::path::Path;

use anyhow::Result;
use plmconv_formats::model::Origin;
use plmconv_formats::{DType, Model, TextTokenizer};
use plmconv_validate::reference::{Reference, Stored};
use plmconv_validate::{Arithmetic, Evaluator, Options};

use crate::error::{At, Place, UsageError};
use crate::input::{ModelInput, open_model};
use crate::onnx::find_graph;
use crate::progress::Console;

/// A model in memory with its tokenizer.
pub struct Loaded {
    pub model: Model,
    pub tokenizer: TextTokenizer,
    pub evaluator: Evaluator,
}

/// What a candidate is judged by.
pub enum ReferenceSide {
    Model(Box<Loaded>),
    Stored(Box<Reference>),
}

/// A model that is open, but not in memory yet: reading all of it takes a while.
pub struct OpenModel {
    model: Model,
    pub tokenizer: TextTokenizer,
}

/// The same of a reference.
pub enum OpenReference {
    Model(Box<OpenModel>),
    Stored(Box<Reference>),
}

impl OpenReference {
    /// Opens a folder, a GGUF, or a `.safetensors` file of stored outputs.
    ///
    /// # Errors
    /// As [`OpenModel::open`], or a file that holds no stored outputs.
    pub fn open(model: &ModelInput, console: Console) -> Result<OpenReference> {
        if is_stored(&model.path) {
            return Ok(OpenReference::Stored(Box::new(Reference::open(&model.path).at(Place::Reference)?)));
        }
        Ok(OpenReference::Model(Box::new(OpenModel::open(model, console)?)))
    }

    /// Reads it.
    ///
    /// # Errors
    /// As [`OpenModel::load`].
    pub fn load(self, options: Options) -> Result<ReferenceSide> {
        Ok(match self {
            OpenReference::Model(model) => ReferenceSide::Model(Box::new(model.load(options)?)),
            OpenReference::Stored(stored) => ReferenceSide::Stored(stored),
        })
    }
}

/// Whether the path names a file of stored outputs.
pub fn is_stored(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("safetensors")) && !path.is_dir()
}

impl ReferenceSide {
    /// Whether it stores its most likely tokens instead of whole distributions.
    pub fn knows_only_likely_tokens(&self) -> bool {
        matches!(self, ReferenceSide::Stored(stored) if stored.stored() == Stored::TopK)
    }
}

impl OpenModel {
    /// Opens a folder or a GGUF.
    ///
    /// # Errors
    /// Whatever may be wrong with it or its tokenizer; an ONNX export where a model is needed.
    pub fn open(model: &ModelInput, console: Console) -> Result<OpenModel> {
        if let Some(graph) = find_graph(&model.path)? {
            return Err(UsageError::with_hint(
                format!("{}: an ONNX export, which plmconv's own evaluator does not read", graph.display()),
                "`validate` (as the candidate), `perplexity` and `generate` run ONNX; elsewhere name the model it was made from",
            )
            .into());
        }
        let model = open_model(model, console)?;
        let tokenizer = TextTokenizer::from_model(&model).at(Place::Model)?;
        Ok(OpenModel { model, tokenizer })
    }

    /// Reads it.
    ///
    /// # Errors
    /// Weights that cannot be read or run.
    pub fn load(self, options: Options) -> Result<Loaded> {
        let OpenModel { model, tokenizer } = self;
        let evaluator = Evaluator::load(&model, options).at(Place::Model)?;
        Ok(Loaded { model, tokenizer, evaluator })
    }
}

impl Loaded {
    /// The arithmetic of the runtime that the file is for.
    fn native_arithmetic(&self) -> Arithmetic {
        match self.model.origin {
            Origin::HuggingFace(_) => Arithmetic::Exact,
            Origin::Gguf(_) => Arithmetic::Llama,
        }
    }

    /// The same model in the arithmetic that was asked for, or in its runtime's.
    pub fn in_arithmetic(mut self, asked: Option<Arithmetic>) -> Loaded {
        let arithmetic = asked.unwrap_or_else(|| self.native_arithmetic());
        self.evaluator = self.evaluator.in_arithmetic(arithmetic);
        self
    }

    /// `Hugging Face folder` or `GGUF`.
    pub fn format(&self) -> &'static str {
        match self.model.origin {
            Origin::HuggingFace(_) => "Hugging Face folder",
            Origin::Gguf(_) => "GGUF",
        }
    }

    /// What reports call it: the coarsest type that at least a quarter of the layers' weights have.
    pub fn prevailing_type(&self) -> DType {
        let mut sums: Vec<(DType, usize)> = Vec::new();
        for tensor in self.model.tensors.iter().filter(|t| t.key.layer.is_some() && !t.key.role.is_norm()) {
            let dtype = tensor.source.dtype();
            match sums.iter_mut().find(|(d, _)| *d == dtype) {
                Some((_, sum)) => *sum += tensor.values(),
                None => sums.push((dtype, tensor.values())),
            }
        }
        let all: usize = sums.iter().map(|(_, sum)| sum).sum();
        let bits = |dtype: &DType| dtype.bits_per_weight();
        let share = sums.into_iter().filter(|(_, sum)| 4 * sum >= all).map(|(dtype, _)| dtype);
        share.min_by(|a, b| bits(a).total_cmp(&bits(b))).unwrap_or(DType::F32)
    }

    /// Bytes of all tensors.
    pub fn tensor_bytes(&self) -> u64 {
        self.model.tensors.iter().map(|t| t.source.stored_bytes()).sum()
    }

    /// Average bits of a weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.tensor_bytes() as f64 * 8.0 / self.model.parameter_count().max(1) as f64
    }
}
