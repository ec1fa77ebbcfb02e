//! A hub on this machine: what of huggingface.co's interface is needed, and what goes wrong there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use plmconv_formats::sha256;
use serde_json::json;

pub const COMMIT: &str = "3f2a9c0d1e4b5a6978877665544332211ffeedcc";
/// The one model it has, at `main` and `v1`.
pub const ID: &str = "PLM-Team/tiny-plm";

/// How it behaves.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// Without this token everything is refused.
    pub token: Option<String>,
    /// Whoever has a token still has to ask for the model.
    pub gated: bool,
    /// Connections that bring weights break after so many bytes; those that go on bring nothing.
    pub cut: Option<usize>,
    /// The same, but those that go on bring the rest.
    pub cut_once: Option<usize>,
    /// Files are those of another commit than the one that was named.
    pub moved: bool,
    /// Weights are not what their digest says.
    pub damaged: bool,
    /// Every answer is this one.
    pub status: Option<u16>,
}

pub struct HubServer {
    port: u16,
    state: Arc<State>,
}

struct State {
    files: BTreeMap<String, Vec<u8>>,
    behaviour: Mutex<Behaviour>,
    /// `METHOD PATH RANGE` of each request, `+token` where one came along.
    log: Mutex<Vec<String>>,
}

struct Request {
    method: String,
    path: String,
    start: usize,
    token: Option<String>,
}

impl HubServer {
    /// With the files of a folder, and some that nobody needs.
    pub fn of(folder: &Path) -> HubServer {
        let mut files = BTreeMap::new();
        for name in super::names(folder) {
            let bytes = std::fs::read(folder.join(&name)).expect("a file");
            files.insert(name, bytes);
        }
        for name in ["pytorch_model.bin", "tiny-q4.gguf", "onnx/model.onnx", ".gitattributes"] {
            files.insert(name.into(), b"not needed".to_vec());
        }
        let state = State { files, behaviour: Mutex::default(), log: Mutex::default() };
        let state = Arc::new(state);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let served = Arc::clone(&state);
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client that hangs up is no failure of the server.
                let _ = served.answer(stream, port);
            }
        });
        HubServer { port, state }
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, behaviour: Behaviour) {
        *self.state.behaviour.lock().expect("no panic") = behaviour;
    }

    /// What was asked since the last time.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.log.lock().expect("no panic"))
    }
}

impl State {
    fn answer(&self, stream: TcpStream, port: u16) -> std::io::Result<()> {
        let Some(request) = Request::read(&stream)? else { return Ok(()) };
        let token = if request.token.is_some() { " +token" } else { "" };
        let line = format!("{} {} {}{token}", request.method, request.path, request.start);
        self.log.lock().expect("no panic").push(line);
        let behaviour = self.behaviour.lock().expect("no panic").clone();
        let head = |status: &str, headers: &[String], length: usize| {
            let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
            format!("HTTP/1.1 {status}\r\n{headers}content-length: {length}\r\nconnection: close\r\n\r\n")
        };
        let mut out = &stream;
        let mut refuse = |status: &str, code: &str| {
            let code = [format!("x-error-code: {code}")];
            out.write_all(head(status, &code, 0).as_bytes())
        };
        if let Some(status) = behaviour.status {
            return refuse(&format!("{status} Error"), "");
        }
        if let Some(name) = request.path.strip_prefix("/cdn/") {
            return self.data(&stream, name, &request, &behaviour);
        }
        if behaviour.token.is_some() && request.token.is_none() {
            return refuse("401 Unauthorized", "RepoNotFound");
        }
        if behaviour.token != request.token {
            return refuse("403 Forbidden", "");
        }
        if behaviour.gated {
            return refuse("403 Forbidden", "GatedRepo");
        }
        if let Some(revision) = request.path.strip_prefix(&format!("/api/models/{ID}/revision/")) {
            if !["main", "v1", COMMIT].contains(&revision) {
                return refuse("404 Not Found", "RevisionNotFound");
            }
            let siblings: Vec<_> = self.files.keys().map(|name| json!({"rfilename": name})).collect();
            let body = json!({"sha": COMMIT, "siblings": siblings}).to_string();
            let answer = head("200 OK", &["content-type: application/json".into()], body.len()) + &body;
            return out.write_all(answer.as_bytes());
        }
        let Some(name) = request.path.strip_prefix(&format!("/{ID}/resolve/{COMMIT}/")) else {
            return refuse("404 Not Found", "RepoNotFound");
        };
        let Some(bytes) = self.files.get(name) else { return refuse("404 Not Found", "EntryNotFound") };
        let commit = if behaviour.moved { COMMIT.replace('3', "4") } else { COMMIT.into() };
        let commit = format!("x-repo-commit: {commit}");
        let digest = sha256::of_bytes(bytes);
        if name.ends_with(".safetensors") {
            // Another host, as it is with the hub.
            let headers = [
                commit,
                format!("location: http://localhost:{port}/cdn/{name}"),
                format!("x-linked-etag: \"{digest}\""),
                format!("x-linked-size: {}", bytes.len()),
            ];
            return out.write_all(head("302 Found", &headers, 0).as_bytes());
        }
        let headers = [commit, format!("etag: W/\"{}\"", &digest[..40])];
        out.write_all(head("200 OK", &headers, bytes.len()).as_bytes())?;
        if request.method == "GET" { out.write_all(bytes) } else { Ok(()) }
    }

    /// Weights, from where they are asked for.
    fn data(
        &self,
        mut out: &TcpStream,
        name: &str,
        request: &Request,
        behaviour: &Behaviour,
    ) -> std::io::Result<()> {
        let mut bytes = self.files[name].clone();
        if behaviour.damaged {
            bytes[0] ^= 1;
        }
        let (start, length) = (request.start, bytes.len());
        let status = match start {
            0 => "200 OK".to_string(),
            _ => format!("206 Partial Content\r\ncontent-range: bytes {start}-{}/{length}", length - 1),
        };
        let rest = &bytes[start..];
        let end = match (behaviour.cut, behaviour.cut_once, start) {
            (Some(_), _, 1..) => 0,
            (Some(cut), ..) | (None, Some(cut), 0) => cut,
            _ => rest.len(),
        };
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", rest.len());
        out.write_all(head.as_bytes())?;
        out.write_all(&rest[..end])
    }
}

impl Request {
    fn read(stream: &TcpStream) -> std::io::Result<Option<Request>> {
        let mut lines = BufReader::new(stream).lines();
        let Some(first) = lines.next().transpose()? else { return Ok(None) };
        let mut words = first.split(' ').map(str::to_string);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut request = Request { method, path, start: 0, token: None };
        for line in lines {
            let line = line?;
            let Some((key, value)) = line.split_once(": ") else { break };
            match key.to_ascii_lowercase().as_str() {
                "range" => {
                    let start = value.trim_start_matches("bytes=").trim_end_matches('-');
                    request.start = start.parse().expect("a range from a byte on");
                }
                "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_string),
                _ => {}
            }
        }
        Ok(Some(request))
    }
}
