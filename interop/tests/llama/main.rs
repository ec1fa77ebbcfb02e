//! Files that plmconv writes, in llama.cpp.
//!
//! Every test runs the built program on the tiny PLM, loads what it wrote and compares with values from outside.
//! Each computes on one thread: the tests already run side by side, and llama.cpp's threads wait for each other by
//! spinning.

mod adapter;
mod checkpoint;
mod divergence;
mod generation;
mod latent;
mod logits;
mod perplexity;
mod same_bytes;
mod split;
mod tokenization;

use std::path::PathBuf;

use plmconv_interop::llama::{Context, ContextOptions, LoadOptions, Model};
use plmconv_interop::{converter, golden};

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

    /// Lets plmconv write the tiny PLM as `file_type`.
    fn tiny_plm(&self, file_type: &str, more: &[&str]) -> PathBuf {
        let output = self.path(&format!("{file_type}.gguf"));
        converter::quantize(file_type, &golden::fixtures().join("tiny-plm"), &output, more)
            .unwrap_or_else(|error| panic!("{error}"));
        output
    }

    /// The same, loaded.
    fn load_tiny_plm(&self, file_type: &str) -> Model {
        load(&self.tiny_plm(file_type, &[]))
    }
}

fn load(path: &std::path::Path) -> Model {
    Model::load(path, LoadOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// A context for texts of up to 256 tokens; flash attention off, without which `plm` aborts.
fn context(model: &Model) -> Context<'_> {
    let options = ContextOptions { n_ctx: 256, n_batch: 256, threads: 1, ..ContextOptions::default() };
    Context::new(model, options).unwrap_or_else(|error| panic!("{error}"))
}
