//! LoRA adapters as peft saves them: small matrices whose products are added to a checkpoint's weights, and weights
//! that take the place of others.
//!
//! What is read here are the parts; adding them up is arithmetic, which this crate leaves to its caller.

mod config;
mod gguf;
mod names;
mod tensors;
mod transposed;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use config::AdapterConfig;
pub(crate) use gguf::without_effect;
pub use gguf::{AdapterTensor, gguf_tensors};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::model::TensorKey;
use crate::safetensors::SafetensorsFile;
use crate::source::RowSource;
use crate::{sha256, small_file};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// An adapter in a folder, checked as far as it can be without its base model.
#[derive(Debug)]
pub struct Adapter {
    folder: PathBuf,
    config: AdapterConfig,
    /// In the order in which they are applied: weights that are replaced come before those that are added to.
    pub changes: Vec<Change>,
    /// What tells it from others.
    pub identity: AdapterIdentity,
    /// What its files were when it was opened.
    pub inputs: Vec<Fingerprint>,
}

/// What an adapter contributes to a merged model, whatever its folder is called.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterIdentity {
    /// SHA-256 of adapter_model.safetensors.
    pub weights: String,
    /// SHA-256 of adapter_config.json.
    pub config: String,
    /// What the user multiplies it by.
    pub scale: f64,
}

/// The weight that a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// A tensor of the model.
    Tensor(TensorKey),
    /// `lm_head.weight`, which a PLM ties to its embedding.
    Head,
}

/// One weight's change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which weight.
    pub target: Target,
    /// The module's name as peft sees it, e.g. `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// What happens to it.
    pub kind: ChangeKind,
}

/// What happens to a weight.
#[derive(Clone, Debug)]
pub enum ChangeKind {
    /// Another one takes its place in the base model, and in all that shares it.
    Base(Saved),
    /// Another one takes its place in this module alone (`modules_to_save`).
    Saved(Saved),
    /// A product is added.
    LowRank(LowRank),
}

/// A whole weight in an adapter.
#[derive(Clone, Debug)]
pub struct Saved {
    /// Its name in the file.
    pub name: String,
    /// Row-major.
    pub shape: Vec<usize>,
    /// Its values.
    pub source: Arc<dyn RowSource>,
}

/// `factor · left · right`, which is added to a weight `[rows, cols]`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// `[rows, rank]`, of a float type.
    pub left: Arc<dyn RowSource>,
    /// `[rank, cols]`, of a float type.
    pub right: Arc<dyn RowSource>,
    /// `lora_alpha / rank`, with rsLoRA `lora_alpha / √rank`, times the user's scale.
    pub factor: f64,
}

impl Adapter {
    /// Opens a folder with `adapter_config.json` and `adapter_model.safetensors`. `scale` multiplies what is added.
    ///
    /// # Errors
    /// No adapter; one that is not LoRA, or of a kind that no sum of weights expresses (DoRA, biases, …); tensors that
    /// are unknown, incomplete, or of another rank than the config says.
    pub fn open(folder: impl AsRef<Path>, scale: f64) -> Result<Adapter> {
        let folder = folder.as_ref();
        let (config_path, weights_path) = (folder.join(CONFIG), folder.join(WEIGHTS));
        if !config_path.exists() {
            std::fs::metadata(folder).map_err(Error::io(folder))?;
            return Err(Error::NotAnAdapter { path: folder.into(), missing: CONFIG });
        }
        if !weights_path.exists() {
            return Err(Error::NotAnAdapter { path: folder.into(), missing: WEIGHTS });
        }
        let inputs =
            [&config_path, &weights_path].into_iter().filter_map(|path| Fingerprint::of(path)).collect();
        let config_bytes = small_file::read(&config_path)?;
        let identity = AdapterIdentity {
            weights: sha256::of_file(&weights_path)?,
            config: sha256::of_bytes(&config_bytes),
            scale,
        };
        let config = AdapterConfig::parse(&config_path, config_bytes)?;
        let file = SafetensorsFile::open(&weights_path)?;
        let changes = tensors::changes(&config, &file, scale)?;
        Ok(Adapter { folder: folder.into(), config, changes, identity, inputs })
    }

    /// The folder it was opened by.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Its `lora_alpha`.
    pub fn alpha(&self) -> f64 {
        self.config.alpha()
    }

    /// Whether peft was told to keep the head equal to the embedding.
    pub fn ties_head(&self) -> bool {
        self.config.ensure_weight_tying
    }
}

impl Target {
    /// The name of the weight in a checkpoint.
    pub fn name(self) -> String {
        match self {
            Target::Head => "lm_head.weight".into(),
            Target::Tensor(key) => key.hugging_face_name().unwrap_or_else(|| key.gguf_name()),
        }
    }
}
