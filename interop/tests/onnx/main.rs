//! Folders that plmconv writes, in ONNX Runtime and in the clients built on it.
//!
//! Needs a Python with the packages of interop/python/requirements.txt, named by `PLMCONV_PYTHON`; Node, with
//! interop/node installed by `npm ci`; and a plmconv built with `--features ort`. `.ci/run` prepares all of it.
//! ONNX Runtime's library is that of the Python package.

mod batches;
mod checker;
mod clients;
mod command;
mod logits;
mod quantized;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use plmconv_interop::{converter, golden};
use plmconv_validate::Options;
use plmconv_validate::onnx::OnnxModel;

/// Contexts of the tiny PLM.
const CONTEXT: usize = 4096;

/// What an export is made with beside its weights' type.
type Flags<'a> = &'a [&'a str];

/// A folder of files that goes with the test.
struct Workspace {
    folder: tempfile::TempDir,
}

impl Workspace {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("the system's temporary folder is writable") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The tiny PLM in the graph's float type: `f32` or `f16`.
    fn convert(&self, dtype: &str, flags: Flags<'_>) -> PathBuf {
        let output = self.path("export");
        let mut command = plmconv();
        command.arg("convert").arg(tiny_plm()).args(["--to", "onnx", "--dtype", dtype]).args(flags);
        run(command.arg("-o").arg(&output));
        output
    }

    /// The tiny PLM in blocks: `q4` or `q8`.
    fn quantize(&self, file_type: &str, flags: Flags<'_>) -> PathBuf {
        let output = self.path("export");
        let mut command = plmconv();
        command.args(["quantize", file_type]).arg(tiny_plm()).args(["--to", "onnx"]).args(flags);
        run(command.arg("-o").arg(&output));
        output
    }

    /// The checkpoint that an export's weights stand for.
    fn dequantized(&self, export: &Path) -> PathBuf {
        let output = self.path("dequantized");
        let mut command = python("dequantize.py");
        run(command.arg(graph(export)).arg(tiny_plm()).arg(&output));
        output
    }
}

fn tiny_plm() -> PathBuf {
    golden::fixtures().join("tiny-plm")
}

fn own_text() -> PathBuf {
    golden::fixtures().join("text/own.txt")
}

/// The program under test; it and this process use the same library.
fn plmconv() -> Command {
    let mut command = Command::new(converter::plmconv());
    command.env("ORT_DYLIB_PATH", library());
    command
}

/// A script of interop/python.
fn python(script: &str) -> Command {
    let interpreter = std::env::var_os("PLMCONV_PYTHON")
        .expect("PLMCONV_PYTHON names a Python with the packages of interop/python/requirements.txt");
    let mut command = Command::new(interpreter);
    // Local folders only: nothing is looked for elsewhere.
    command.env("HF_HUB_OFFLINE", "1");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("python").join(script));
    command
}

/// interop/node's program.
fn node() -> Command {
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("node/generate.mjs"));
    command
}

/// What a command writes; a failure fails the test.
fn run(command: &mut Command) -> String {
    converter::stdout_of(command).unwrap_or_else(|error| panic!("{error}"))
}

/// ONNX Runtime's library, as the Python package brings it.
fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| PathBuf::from(run(&mut python("onnxruntime_library.py")).trim()))
}

/// The one graph of an export.
fn graph(export: &Path) -> PathBuf {
    let files = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    let all = files(export.into()).chain(files(export.join("onnx"))).map(|entry| entry.path());
    let graphs: Vec<_> = all.filter(|path| path.extension().is_some_and(|e| e == "onnx")).collect();
    assert_eq!(graphs.len(), 1, "{}", export.display());
    graphs.into_iter().next().expect("one")
}

/// An export in this process's ONNX Runtime, on one thread: the tests already run side by side.
fn open(export: &Path) -> OnnxModel {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| {
        // SAFETY: no other thread reads the environment meanwhile: every test that does so waits here first.
        unsafe { std::env::set_var("ORT_DYLIB_PATH", library()) };
    });
    let options = Options { threads: 1, ..Options::default() };
    OnnxModel::open(&graph(export), CONTEXT, options).unwrap_or_else(|error| panic!("{error}"))
}
