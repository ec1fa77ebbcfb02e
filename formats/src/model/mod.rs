//! A PLM model: hyperparameters and tensors, wherever they lie.

mod config;
mod foreign;
mod import;
mod layout;
mod merging;
mod roles;
mod rope;
mod shape;
mod spelling;
mod weight_files;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use config::Config;
pub use foreign::Foreign;
pub use layout::{Layout, latent_metadata, norm_scale, sharpness};
pub use merging::{Merge, Merging};
pub use roles::{Role, TensorKey};
pub use rope::rotations;
pub(crate) use spelling::Spelling;
pub use weight_files::{INDEX, SINGLE, has_weights, may_be_weights};

use crate::adapter::AdapterIdentity;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::gguf::GgufFile;
use crate::hub;
use crate::source::RowSource;
use crate::warning::Warning;

/// A tensor of a model: who it is, its row-major shape, and where its rows come from.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// Which tensor of the network it is.
    pub key: TensorKey,
    /// Row-major: the slowest axis first.
    pub shape: Vec<usize>,
    /// Its values, as encoded rows.
    pub source: Arc<dyn RowSource>,
}

impl Tensor {
    /// Number of values.
    pub fn values(&self) -> usize {
        self.source.rows() * self.source.cols()
    }
}

/// What a model was read from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A Hugging Face folder.
    HuggingFace(PathBuf),
    /// A GGUF file; its metadata is kept to be written again.
    Gguf(GgufFile),
}

/// A model: a config, and tensors in file order that are read when they are needed.
#[derive(Clone, Debug)]
pub struct Model {
    /// The hyperparameters.
    pub config: Config,
    /// In file order, as [`Config::expected_tensors`] lists them.
    pub tensors: Vec<Tensor>,
    /// Where they are read from.
    pub origin: Origin,
    /// What its user should know of.
    pub warnings: Vec<Warning>,
    /// What the files it is read from were when it was opened.
    pub inputs: Vec<Fingerprint>,
    /// The adapters that are merged into it, in their order.
    pub adapters: Vec<AdapterIdentity>,
}

impl Model {
    /// Opens a Hugging Face folder, as it is or in the hub's cache, or a PLM GGUF and checks every tensor's shape
    /// against the config.
    ///
    /// # Errors
    /// Anything that makes the input not a whole PLM; see [`Error`].
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        Model::open_merged(path, Merging { adapters: &[], merge: &|_, base, _| base })
    }

    /// The same with adapters merged into it. Their products are added by `merging`.
    ///
    /// # Errors
    /// As [`open`](Self::open); adapters that do not fit, and a base model that is not a Hugging Face folder.
    pub fn open_merged(path: impl AsRef<Path>, merging: Merging<'_>) -> Result<Model> {
        let path = path.as_ref();
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        if !metadata.is_dir() {
            if !merging.adapters.is_empty() {
                return Err(Error::BaseNotAFolder { path: path.into() });
            }
            let file = GgufFile::open(path).map_err(|error| foreign::explain_file(path, error))?;
            return Model::from_gguf(file);
        }
        match hub::snapshot(path)? {
            Some(snapshot) => import::from_folder(&snapshot, merging),
            None => import::from_folder(path, merging),
        }
    }

    /// The PLM in an opened GGUF.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_gguf(file: GgufFile) -> Result<Model> {
        import::from_gguf(file)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        match &self.origin {
            Origin::HuggingFace(folder) => folder,
            Origin::Gguf(file) => file.path(),
        }
    }

    /// The tensor with this identity.
    pub fn tensor(&self, key: TensorKey) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.key == key)
    }

    /// # Errors
    /// One of its files is not any longer what it was when the model was opened, so that what was read before and what
    /// was read after may not belong together.
    pub fn check_unchanged(&self) -> Result<()> {
        self.inputs.iter().try_for_each(Fingerprint::check)
    }

    /// Number of weights, each tensor counted once.
    pub fn parameter_count(&self) -> usize {
        self.tensors.iter().map(Tensor::values).sum()
    }
}
