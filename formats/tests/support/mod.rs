//! What several tests need.

use std::path::{Path, PathBuf};

use plmconv_formats::gguf::{Directory, Metadata};
use plmconv_formats::{DType, Model};

pub fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// Writes a GGUF with this metadata and with tensors of the model's shapes, all zero.
pub fn write_gguf(path: &Path, model: &Model, metadata: &Metadata) {
    let tensors = model.tensors.iter().map(|t| (t.key.gguf_name(), DType::F32, t.shape.clone()));
    let directory = Directory::new(metadata, tensors).expect("can be laid out");
    std::fs::write(path, &directory.head).expect("can be written");
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("can be opened");
    file.set_len(directory.file_bytes).expect("can be extended");
}
