//! Models that are named as on the Hugging Face hub.
#![cfg(unix)]

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use common::hub_server::{Behaviour, COMMIT, HubServer, ID};
use common::{fixtures, names, plmconv, tiny_plm};
use plmconv_formats::sha256;
use predicates::prelude::*;
use predicates::str::contains;
use tempfile::TempDir;

/// A user with a home of their own, who sees this hub.
struct User {
    dir: TempDir,
    endpoint: String,
}

impl User {
    fn of(server: &HubServer) -> User {
        User { dir: tempfile::tempdir().expect("tempdir"), endpoint: server.endpoint() }
    }

    fn command(&self) -> assert_cmd::Command {
        let mut command = plmconv();
        for key in
            ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN"]
        {
            command.env_remove(key);
        }
        for key in
            ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"]
        {
            command.env_remove(key);
        }
        for key in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"] {
            command.env_remove(key);
        }
        command.current_dir(self.dir.path()).env("HF_HOME", self.dir.path().join("hf"));
        command.env("HF_ENDPOINT", &self.endpoint);
        command
    }

    fn inspect(&self, name: &str) -> Assert {
        self.command().args(["inspect", name]).assert()
    }

    fn cached(&self) -> PathBuf {
        self.dir.path().join("hf/hub/models--PLM-Team--tiny-plm")
    }

    /// The weights, as far as they have come.
    fn incomplete(&self) -> PathBuf {
        self.cached().join("blobs").join(format!("{}.incomplete", digest()))
    }
}

fn digest() -> String {
    sha256::of_file(&tiny_plm().join("model.safetensors")).expect("a fixture")
}

#[test]
fn a_model_is_fetched_into_the_cache_once() {
    let server = HubServer::of(&tiny_plm());
    let user = User::of(&server);
    let folder = user.dir.path();
    user.command().args(["quantize", "q8_0", ID]).assert().success();
    let file = folder.join("tiny-plm-q8_0.gguf");
    assert!(file.exists(), "{:?}", names(folder));

    let cached = user.cached();
    assert_eq!(std::fs::read_to_string(cached.join("refs/main")).expect("written"), COMMIT);
    let snapshot = cached.join("snapshots").join(COMMIT);
    assert_eq!(names(&snapshot), names(&tiny_plm()));
    let target = std::fs::read_link(snapshot.join("model.safetensors")).expect("a link");
    assert_eq!(target, Path::new("../../blobs").join(digest()));
    for name in names(&tiny_plm()) {
        let same = std::fs::read(snapshot.join(&name)).expect("there")
            == std::fs::read(tiny_plm().join(&name)).expect("there");
        assert!(same, "{name}");
    }
    let asked = server.requests();
    assert!(asked.iter().any(|line| line == "GET /cdn/model.safetensors 0"), "{asked:?}");
    assert!(!asked.iter().any(|line| line.contains("pytorch") || line.contains("gguf")), "{asked:?}");

    // From here on nobody is asked.
    let lines = "taken from the cache";
    user.command().args(["verify"]).arg(&file).arg(ID).assert().success().stderr(contains(lines));
    user.inspect(&format!("hf://{ID}")).success();
    user.command().args(["inspect", ID]).env("HF_HUB_OFFLINE", "1").assert().success();
    assert_eq!(server.requests(), [""; 0]);
    // Another name of the same commit costs no data.
    user.inspect(&format!("{ID}@v1")).success();
    let asked = server.requests();
    assert!(asked.iter().all(|line| !line.starts_with("GET") || line.contains("/api/")), "{asked:?}");
    assert_eq!(std::fs::read_to_string(cached.join("refs/v1")).expect("written"), COMMIT);
    user.inspect(&format!("{ID}@{COMMIT}")).success();
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn an_interrupted_download_goes_on() {
    let server = HubServer::of(&tiny_plm());
    let user = User::of(&server);
    server.set(Behaviour { cut: Some(1_000_000), ..Behaviour::default() });
    let ended = user.inspect(ID).code(1);
    ended.stderr(
        contains("model.safetensors was interrupted after 1000000 of")
            .and(contains("goes on where it stopped")),
    );
    let incomplete = user.incomplete();
    assert_eq!(std::fs::metadata(&incomplete).expect("kept").len(), 1_000_000);
    assert!(!user.cached().join("refs/main").exists());
    server.requests();
    server.set(Behaviour::default());
    user.inspect(ID).success();
    let asked = server.requests();
    assert!(asked.contains(&"GET /cdn/model.safetensors 1000000".into()), "{asked:?}");
    assert!(!asked.iter().any(|line| line.starts_with("GET") && line.contains("tokenizer")), "{asked:?}");
    assert!(!incomplete.exists() && user.cached().join("blobs").join(digest()).exists());
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let server = HubServer::of(&tiny_plm());
    let user = User::of(&server);
    server.set(Behaviour { cut_once: Some(5_000_000), ..Behaviour::default() });
    user.inspect(ID).success();
    assert!(server.requests().contains(&"GET /cdn/model.safetensors 5000000".into()));
}

#[test]
fn a_token_is_for_the_hub_alone() {
    let server = HubServer::of(&tiny_plm());
    let user = User::of(&server);
    server.set(Behaviour { token: Some("secret".into()), ..Behaviour::default() });
    user.inspect(ID).code(1).stderr(contains("private, or not there").and(contains("HF_TOKEN")));
    let with = |token: &str| user.command().args(["inspect", ID]).env("HF_TOKEN", token).assert();
    with("wrong").code(1).stderr(contains("the hub does not let this token read it"));
    // As `hf auth login` leaves it.
    std::fs::create_dir_all(user.dir.path().join("hf")).expect("create");
    std::fs::write(user.dir.path().join("hf/token"), "secret\n").expect("write");
    server.requests();
    user.inspect(ID).success();
    let asked = server.requests();
    assert!(asked.iter().all(|line| line.ends_with("+token") != line.contains("/cdn/")), "{asked:?}");
    server.set(Behaviour { token: Some("secret".into()), gated: true, ..Behaviour::default() });
    let other = User::of(&server);
    let gated = other.command().args(["inspect", ID]).env("HF_TOKEN", "secret").assert();
    gated.code(1).stderr(contains("its owner has to grant access to it").and(contains("HF_TOKEN")));
}

#[test]
fn what_is_not_there_is_said() {
    let server = HubServer::of(&tiny_plm());
    let user = User::of(&server);
    let refused =
        |name: &str, said: &str| user.inspect(name).code(1).stderr(contains(said).and(contains("hint: ")));
    refused("PLM-Team/other", "no such model on the hub");
    refused(&format!("{ID}@v9"), "no branch, tag or commit of this name");
    server.set(Behaviour { status: Some(503), ..Behaviour::default() });
    refused(ID, "the hub answered 503 to");
    let offline = user.command().args(["inspect", ID]).env("HF_HUB_OFFLINE", "1").assert();
    offline.code(1).stderr(contains("not in the cache").and(contains("HF_HUB_OFFLINE is set")));
    let nobody = user.command().args(["inspect", ID]).env("HF_ENDPOINT", "http://127.0.0.1:9").assert();
    nobody.code(1).stderr(contains("the hub cannot be reached"));
    let roots =
        user.command().args(["inspect", ID]).env("SSL_CERT_FILE", tiny_plm().join("config.json")).assert();
    roots.code(1).stderr(contains("no certificates in PEM").and(contains("root certificates")));
    // A path that exists is never a name.
    std::fs::create_dir_all(user.dir.path().join(ID)).expect("create");
    server.requests();
    user.inspect(ID).code(1).stderr(contains("an empty folder"));
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn what_changes_meanwhile_is_not_taken() {
    let server = HubServer::of(&tiny_plm());
    let user = User::of(&server);
    server.set(Behaviour { moved: true, ..Behaviour::default() });
    user.inspect(ID)
        .code(1)
        .stderr(contains("changed on the hub while it was fetched").and(contains("run it again")));
    server.set(Behaviour { damaged: true, ..Behaviour::default() });
    user.inspect(ID).code(1).stderr(contains("is not what the hub says it is (SHA-256"));
    assert!(!user.incomplete().exists());
    server.set(Behaviour::default());
    user.inspect(ID).success();
}

#[test]
fn an_adapter_has_a_name_too() {
    let server = HubServer::of(&fixtures().join("tiny-lora"));
    let user = User::of(&server);
    user.command().arg("inspect").arg(tiny_plm()).args(["--lora", &format!("{ID}=0.5")]).assert().success();
    assert_eq!(names(&user.cached().join("snapshots").join(COMMIT)), names(&fixtures().join("tiny-lora")));
    // As a model it is not one.
    user.inspect(&format!("{ID}@v1")).code(1).stderr(contains("config.json is not there"));
    // Of a base model only the hyperparameters are needed.
    let base = HubServer::of(&tiny_plm());
    let user = User::of(&base);
    let mut command = user.command();
    command
        .arg("convert")
        .arg(fixtures().join("tiny-lora"))
        .args(["--to", "gguf-lora", "--base", ID])
        .assert()
        .success();
    assert!(user.dir.path().join("tiny-lora-lora-f32.gguf").exists());
    let asked = base.requests();
    assert!(asked.iter().all(|line| line.contains("/api/") || line.contains("config.json")), "{asked:?}");
}
