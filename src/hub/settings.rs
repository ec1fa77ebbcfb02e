//! What huggingface_hub's environment variables say.

use std::path::PathBuf;

use super::HubError;

const ENDPOINT: &str = "https://huggingface.co";

/// What Python's clients take a file of root certificates from.
const CERTIFICATES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];

/// Where the hub and its cache are.
pub struct Settings {
    /// Without a slash at its end.
    pub endpoint: String,
    /// The folder with a folder for each model.
    pub cache: PathBuf,
    pub token: Option<String>,
    /// Roots to trust instead of Mozilla's, as where a proxy answers for others.
    pub certificates: Option<PathBuf>,
    /// Nothing is fetched.
    pub offline: bool,
}

impl Settings {
    /// HF_ENDPOINT, HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_OFFLINE and their older names;
    /// SSL_CERT_FILE.
    ///
    /// # Errors
    /// No folder for the cache is known.
    pub fn of_environment() -> Result<Settings, HubError> {
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| Some(std::env::home_dir()?.join(".cache")));
            Some(caches?.join("huggingface"))
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or(HubError::NoCache)?;
        let token_file = path("HF_TOKEN_PATH").or_else(|| Some(home?.join("token")));
        let in_file = || std::fs::read_to_string(token_file?).ok();
        let token = text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(in_file);
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        Ok(Settings {
            endpoint: endpoint.trim_end_matches('/').into(),
            cache,
            token: token.map(|token| token.trim().to_string()).filter(|token| !token.is_empty()),
            certificates: CERTIFICATES.iter().find_map(|key| path(key)),
            offline: is_set("HF_HUB_OFFLINE") || is_set("TRANSFORMERS_OFFLINE"),
        })
    }
}

fn text(key: &str) -> Option<String> {
    std::env::var(key).ok().filter(|value| !value.trim().is_empty())
}

fn path(key: &str) -> Option<PathBuf> {
    std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// What huggingface_hub takes for true.
fn is_set(key: &str) -> bool {
    text(key).is_some_and(|value| ["1", "on", "yes", "true"].contains(&value.to_ascii_lowercase().as_str()))
}
