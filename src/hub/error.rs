//! What can go wrong between here and the hub.

use std::path::{Path, PathBuf};

/// A model that could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error("{name}: no such file or folder, and not in the cache ({}); HF_HUB_OFFLINE is set", cache.display())]
    Offline { name: String, cache: PathBuf },
    #[error("{name}: no such file or folder, and not in the cache ({})", cache.display())]
    #[cfg(not(feature = "hub"))]
    NotBuilt { name: String, cache: PathBuf },
    #[error("{name}: no such file or folder, and the hub cannot be reached: {detail}")]
    Unreachable { name: String, detail: String },
    #[error("{name}: no such file or folder, and no such model on the hub")]
    NoModel { name: String },
    #[error("{name}: the hub has the model, but no branch, tag or commit of this name")]
    NoRevision { name: String },
    #[error("{name}: its owner has to grant access to it")]
    Gated { name: String },
    #[error("{name}: no such file or folder; on the hub it is private, or not there")]
    Unauthorized { name: String },
    #[error("{name}: the hub does not let this token read it")]
    Forbidden { name: String },
    #[error("{name}: the hub answered {status} to {url}")]
    Status { name: String, status: u16, url: String },
    #[error("{name}: not a model that plmconv reads: {missing} is not there")]
    Incomplete { name: String, missing: &'static str },
    #[error("{name}: the hub's answer is not understood: {detail}")]
    Answer { name: String, detail: String },
    #[error("{name}: {file} was interrupted after {done} of {size} bytes: {detail}")]
    Interrupted { name: String, file: String, done: u64, size: u64, detail: String },
    #[error("interrupted")]
    Stopped,
    #[error("{name}: changed on the hub while it was fetched ({file})")]
    Changed { name: String, file: String },
    #[error("{name}: {file} is not what the hub says it is ({detail})")]
    Damaged { name: String, file: String, detail: String },
    #[error("{}: {detail}", path.display())]
    Certificates { path: PathBuf, detail: String },
    #[error("no folder for the hub's cache: neither HF_HOME nor a home folder is set")]
    NoCache,
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
}

impl HubError {
    /// Wraps an I/O error with its path.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
        let path = path.to_path_buf();
        move |source| HubError::Io { path, source }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            HubError::Offline { .. } | HubError::NoModel { .. } => {
                "check the spelling; a model is a local folder or file, or ORGANIZATION/NAME on the hub"
            }
            HubError::Unreachable { .. } => {
                "check the spelling, or the connection; a model that is in the cache needs none, and HF_ENDPOINT names \
                 a mirror"
            }
            #[cfg(not(feature = "hub"))]
            HubError::NotBuilt { .. } => {
                "this plmconv was built without the feature `hub`; fetch it with `hf download`"
            }
            HubError::NoRevision { .. } => "the model's page lists its branches and tags",
            HubError::Gated { .. } => {
                "ask for it on its page, and set HF_TOKEN to a token of yours (or log in with `hf auth login`)"
            }
            HubError::Unauthorized { .. } | HubError::Forbidden { .. } => {
                "check the spelling; for a private or gated model set HF_TOKEN to a token that may read it (or log in \
                 with `hf auth login`)"
            }
            HubError::Status { .. } => "try again later",
            HubError::Incomplete { .. } => {
                "plmconv reads safetensors; a repository of GGUF or ONNX files has to be fetched with `hf download`"
            }
            HubError::Interrupted { .. } | HubError::Stopped => "run it again: it goes on where it stopped",
            HubError::Changed { .. } | HubError::Damaged { .. } => "run it again",
            HubError::Certificates { .. } => {
                "SSL_CERT_FILE (or REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE) names a file of root certificates"
            }
            HubError::NoCache => "set HF_HOME to a folder",
            HubError::Io { .. } => "HF_HUB_CACHE names another folder for the hub's cache",
            HubError::Answer { .. } => return None,
        })
    }
}
