//! A model that can be run, by whatever runs it.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::TextTokenizer;
use plmconv_validate::generate::meaningful_ids;
use plmconv_validate::{Arithmetic, Evaluator, Options, Runner};

#[cfg(feature = "ort")]
use super::onnx::OnnxSession;
use super::side::{Loaded, OpenModel};
use crate::error::{At, Place};
use crate::input::ModelInput;
use crate::onnx::find_graph;
use crate::progress::Console;

/// A model with its tokenizer.
pub enum Runnable {
    /// In plmconv's own evaluator.
    Loaded(Box<Loaded>),
    /// In ONNX Runtime.
    #[cfg(feature = "ort")]
    Onnx(Box<OnnxSession>),
}

/// What a report says about a model.
pub struct Description {
    pub path: PathBuf,
    /// `Hugging Face folder`, `GGUF` or `ONNX`
    pub format: &'static str,
    /// The prevailing type as its format calls it.
    pub dtype: String,
    pub bits_per_weight: f64,
    pub tensor_bytes: u64,
}

/// A model that is open, but not in memory yet.
pub enum OpenRunnable {
    Model(Box<OpenModel>),
    /// An ONNX export, which ONNX Runtime opens and reads at once.
    Graph(PathBuf),
}

impl OpenRunnable {
    /// Opens a Hugging Face folder, a GGUF, or an ONNX export: its folder or its graph.
    ///
    /// # Errors
    /// Whatever may be wrong with it.
    pub fn open(model: &ModelInput, console: Console) -> Result<OpenRunnable> {
        Ok(match find_graph(&model.path)? {
            Some(graph) => OpenRunnable::Graph(graph),
            None => OpenRunnable::Model(Box::new(OpenModel::open(model, console)?)),
        })
    }

    /// Reads it. Without `arithmetic` the model computes as the runtime that its file is for.
    ///
    /// # Errors
    /// Weights that cannot be read or run; an ONNX export where this program was built without ONNX Runtime.
    pub fn load(self, options: Options, arithmetic: Option<Arithmetic>) -> Result<Runnable> {
        match self {
            OpenRunnable::Graph(graph) => open_graph(graph, options).at(Place::Model),
            OpenRunnable::Model(model) => {
                let loaded = model.load(options)?.in_arithmetic(arithmetic);
                Ok(Runnable::Loaded(Box::new(loaded)))
            }
        }
    }
}

/// Opens a model and reads it.
///
/// # Errors
/// As [`OpenRunnable::open`] and [`OpenRunnable::load`].
pub fn open_runnable(
    model: &ModelInput,
    options: Options,
    arithmetic: Option<Arithmetic>,
    console: Console,
) -> Result<Runnable> {
    OpenRunnable::open(model, console)?.load(options, arithmetic)
}

#[cfg(feature = "ort")]
fn open_graph(graph: PathBuf, options: Options) -> Result<Runnable> {
    Ok(Runnable::Onnx(Box::new(OnnxSession::open(graph, options)?)))
}

#[cfg(not(feature = "ort"))]
fn open_graph(graph: PathBuf, _: Options) -> Result<Runnable> {
    Err(crate::error::UsageError::with_hint(
        format!("{}: an ONNX export, and this plmconv was built without ONNX Runtime", graph.display()),
        "build it with `cargo build --release --features ort`; docs/onnx.md says what it needs to run",
    )
    .into())
}

impl Runnable {
    /// What runs it.
    pub fn runner(&self) -> Runner<'_> {
        match self {
            Runnable::Loaded(loaded) => Runner::Evaluator(&loaded.evaluator),
            #[cfg(feature = "ort")]
            Runnable::Onnx(session) => Runner::Runtime(&session.model),
        }
    }

    /// The evaluator's model, if that is what runs it.
    pub fn loaded(&self) -> Option<&Loaded> {
        match self {
            Runnable::Loaded(loaded) => Some(loaded),
            #[cfg(feature = "ort")]
            Runnable::Onnx(_) => None,
        }
    }

    /// Whose arithmetic it computes; a runtime's is its own.
    pub fn arithmetic(&self) -> Option<Arithmetic> {
        self.loaded().map(|loaded| loaded.evaluator.options().arithmetic)
    }

    /// The same model without a runtime's rounding of activations, if it has any.
    pub fn weights_alone(&self) -> Option<Evaluator> {
        let evaluator = &self.loaded()?.evaluator;
        let rounds = evaluator.options().arithmetic != Arithmetic::Exact;
        rounds.then(|| evaluator.in_arithmetic(Arithmetic::Exact))
    }

    pub fn tokenizer(&self) -> &TextTokenizer {
        match self {
            Runnable::Loaded(loaded) => &loaded.tokenizer,
            #[cfg(feature = "ort")]
            Runnable::Onnx(session) => &session.tokenizer,
        }
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        match self {
            Runnable::Loaded(loaded) => loaded.model.path(),
            #[cfg(feature = "ort")]
            Runnable::Onnx(session) => &session.graph,
        }
    }

    /// Average bits of a weight.
    pub fn bits_per_weight(&self) -> f64 {
        match self {
            Runnable::Loaded(loaded) => loaded.bits_per_weight(),
            #[cfg(feature = "ort")]
            Runnable::Onnx(session) => session.bits_per_weight(),
        }
    }

    /// Ids that mean some text, see [`meaningful_ids`].
    pub fn meaningful_ids(&self) -> usize {
        meaningful_ids(self.tokenizer())
    }

    pub fn describe(&self) -> Description {
        match self {
            Runnable::Loaded(loaded) => loaded.describe(),
            #[cfg(feature = "ort")]
            Runnable::Onnx(session) => session.describe(),
        }
    }
}

impl Loaded {
    pub fn describe(&self) -> Description {
        Description {
            path: self.model.path().into(),
            format: self.format(),
            dtype: self.prevailing_type().name().into(),
            bits_per_weight: self.bits_per_weight(),
            tensor_bytes: self.tensor_bytes(),
        }
    }
}
