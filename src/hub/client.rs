//! The hub's interface over HTTP, as far as it is needed.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::Response;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::name::is_word;
use super::settings::Settings;
use super::{HubError, HubName};

/// How long the hub may take to connect, and to begin an answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a repository's description.
const MAX_DESCRIPTION: u64 = 16 << 20;
/// Redirects that are followed.
const MAX_REDIRECTS: u32 = 10;

/// A connection to the hub about one model.
pub struct Client<'a> {
    settings: &'a Settings,
    name: &'a HubName,
    /// Follows redirects.
    agent: Agent,
    /// Shows them.
    direct: Agent,
}

/// A state of a repository.
pub struct Repository {
    /// Which one.
    pub commit: String,
    /// Names of its files.
    pub files: Vec<String>,
}

/// What the hub says of a file before it is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// The name of its data in the cache: of large files the SHA-256.
    pub etag: String,
    pub size: u64,
}

impl<'a> Client<'a> {
    /// # Errors
    /// A file of certificates that cannot be read.
    pub fn new(settings: &'a Settings, name: &'a HubName) -> Result<Client<'a>, HubError> {
        let tls = tls(settings)?;
        let config = |redirects: u32| {
            Agent::config_builder()
                .http_status_as_error(false)
                .max_redirects(redirects)
                .max_redirects_will_error(redirects > 0)
                // A file may lie with another host, which the token is not for.
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .timeout_connect(Some(PATIENCE))
                .timeout_recv_response(Some(PATIENCE))
                .tls_config(tls.clone())
                .user_agent(concat!("plmconv/", env!("CARGO_PKG_VERSION")))
                .build()
        };
        Ok(Client { settings, name, agent: config(MAX_REDIRECTS).into(), direct: config(0).into() })
    }

    /// Which files there are at the revision, and which commit that is.
    pub fn repository(&self) -> Result<Repository, HubError> {
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        #[derive(Deserialize)]
        struct Model {
            sha: String,
            siblings: Vec<Sibling>,
        }
        let HubName { id, revision } = self.name;
        let revision = revision.replace('/', "%2F");
        let url = format!("{}/api/models/{id}/revision/{revision}", self.settings.endpoint);
        let mut response = self.get(&self.agent, &url, None)?;
        let limited = response.body_mut().with_config().limit(MAX_DESCRIPTION).read_to_vec();
        let bytes = limited.map_err(|error| self.unreachable(&error))?;
        let model: Model =
            serde_json::from_slice(&bytes).map_err(|error| self.not_understood(error.to_string()))?;
        if !is_word(&model.sha) {
            return Err(self.not_understood(format!("`{}` is not a commit", model.sha)));
        }
        let files = model.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        Ok(Repository { commit: model.sha, files })
    }

    /// A file's size and etag.
    pub fn info(&self, commit: &str, file: &str) -> Result<FileInfo, HubError> {
        let mut url = self.url(commit, file);
        for _ in 0..MAX_REDIRECTS {
            let request = self.authorized(self.direct.head(&url)).header("accept-encoding", "identity");
            let response = request.call().map_err(|error| self.unreachable(&error))?;
            // Where a repository was renamed, it leads to another page of the hub; elsewhere it leads to the data.
            let location = header(&response, "location").filter(|_| response.status().is_redirection());
            if let Some(path) = location.filter(|location| location.starts_with('/')) {
                url = format!("{}{path}", self.settings.endpoint);
                continue;
            }
            self.check(&response, &url)?;
            if header(&response, "x-repo-commit").is_some_and(|found| found != commit) {
                return Err(HubError::Changed { name: self.name.to_string(), file: file.into() });
            }
            // Of an answer that leads elsewhere, what it says of itself is not about the file.
            let leads_elsewhere = response.status().is_redirection();
            let own = |key: &str| header(&response, key).filter(|_| !leads_elsewhere);
            let linked = |key: &str, other: &str| header(&response, key).or_else(|| own(other));
            let etag =
                linked("x-linked-etag", "etag").map(|etag| etag.trim_start_matches("W/").trim_matches('"'));
            let size = linked("x-linked-size", "content-length").and_then(|size| size.parse().ok());
            return match (etag.filter(|etag| is_word(etag)), size) {
                (Some(etag), Some(size)) => Ok(FileInfo { etag: etag.into(), size }),
                _ => Err(self.not_understood(format!("{file} has no etag or no size"))),
            };
        }
        Err(self.not_understood(format!("too many redirects from {url}")))
    }

    /// A file's data from byte `start` on. Where the hub begins elsewhere, so does the second value.
    pub fn data(&self, commit: &str, file: &str, start: u64) -> Result<(impl Read + use<>, u64), HubError> {
        let response = self.get(&self.agent, &self.url(commit, file), Some(start))?;
        let from = if response.status().as_u16() == 206 { start } else { 0 };
        Ok((response.into_body().into_reader(), from))
    }

    fn url(&self, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.settings.endpoint, self.name.id)
    }

    fn get(&self, agent: &Agent, url: &str, start: Option<u64>) -> Result<Response<Body>, HubError> {
        let mut request = self.authorized(agent.get(url)).header("accept-encoding", "identity");
        if let Some(start) = start.filter(|start| *start > 0) {
            request = request.header("range", format!("bytes={start}-"));
        }
        let response = request.call().map_err(|error| self.unreachable(&error))?;
        self.check(&response, url)?;
        Ok(response)
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.settings.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// What an answer that is none means.
    fn check(&self, response: &Response<Body>, url: &str) -> Result<(), HubError> {
        let name = self.name.to_string();
        let code = header(response, "x-error-code").unwrap_or_default();
        let has_token = self.settings.token.is_some();
        Err(match (response.status().as_u16(), code) {
            (200..=399, _) => return Ok(()),
            (_, "GatedRepo") => HubError::Gated { name },
            (404, "RevisionNotFound") => HubError::NoRevision { name },
            (404, "RepoNotFound" | "") if url.contains("/api/models/") => HubError::NoModel { name },
            // Also of what is not there, so that nobody learns what is private.
            (401, _) if !has_token => HubError::Unauthorized { name },
            (401 | 403, _) => HubError::Forbidden { name },
            (status, _) => HubError::Status { name, status, url: url.into() },
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> HubError {
        HubError::Unreachable { name: self.name.to_string(), detail: error.to_string() }
    }

    fn not_understood(&self, detail: String) -> HubError {
        HubError::Answer { name: self.name.to_string(), detail }
    }
}

/// Whom to trust.
fn tls(settings: &Settings) -> Result<TlsConfig, HubError> {
    let Some(path) = &settings.certificates else { return Ok(TlsConfig::default()) };
    let unusable = |detail: String| HubError::Certificates { path: path.clone(), detail };
    let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(unusable("no certificates in PEM".into()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

fn header<'r>(response: &'r Response<Body>, key: &str) -> Option<&'r str> {
    response.headers().get(key)?.to_str().ok()
}
