//! Digests that say which model and which text a result belongs to.

use anyhow::Result;
use plmconv_formats::{Model, hex};
use sha2::{Digest, Sha256};

/// Bytes read at a time.
const CHUNK: usize = 8 << 20;

/// SHA-256 over all tensors in the order of their GGUF names: name, type, shape and stored bytes.
///
/// # Errors
/// Unreadable tensors.
pub fn model_digest(model: &Model) -> Result<String> {
    let mut tensors: Vec<_> = model.tensors.iter().map(|t| (t.key.gguf_name(), t)).collect();
    tensors.sort_by(|a, b| a.0.cmp(&b.0));
    let mut hash = Sha256::new();
    let mut bytes = Vec::new();
    for (name, tensor) in tensors {
        let source = &tensor.source;
        hash.update(format!("{name} {} {:?}\n", source.dtype(), tensor.shape));
        let step = (CHUNK / source.row_bytes().max(1)).max(1);
        for start in (0..source.rows()).step_by(step) {
            source.read_rows(start..(start + step).min(source.rows()), &mut bytes)?;
            hash.update(&bytes);
        }
    }
    Ok(hex(hash.finalize()))
}

/// SHA-256 of a text's UTF-8.
pub fn text_digest(text: &str) -> String {
    hex(Sha256::digest(text))
}
