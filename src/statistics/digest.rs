//! Which model statistics belong to.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use plmconv_formats::source::RowSource;
use plmconv_formats::{Error, Model};
use plmconv_quant::codec;
use sha2::{Digest, Sha256};

/// A digest of the model's hyperparameters, and of the first, middle and last row of every tensor in f32: equal for
/// a checkpoint and its float GGUFs, and found without reading gigabytes.
pub fn model_digest(model: &Model) -> Result<String> {
    let mut hash = Sha256::new();
    let mut tensors: Vec<_> = model.tensors.iter().collect();
    tensors.sort_by_key(|t| t.key);
    for tensor in tensors {
        add_rows(&mut hash, &tensor.key.gguf_name(), &*tensor.source)?;
    }
    Ok(hex(hash))
}

/// Adds a matrix's name, its size, and its first, middle and last row in f32.
pub fn add_rows(hash: &mut Sha256, name: &str, source: &dyn RowSource) -> Result<()> {
    let (rows, cols) = (source.rows(), source.cols());
    hash.update(format!("{name} {rows} {cols}\n"));
    let (mut bytes, mut values) = (Vec::new(), vec![0.0; cols]);
    for row in [0, rows / 2, rows - 1] {
        source.read_rows(row..row + 1, &mut bytes)?;
        codec::decode(source.dtype(), &bytes, &mut values)?;
        values.iter().for_each(|x| hash.update(x.to_le_bytes()));
    }
    Ok(())
}

/// SHA-256 of a whole file, as sha256sum prints it.
pub fn file_digest(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = vec![0; 1 << 20];
    loop {
        let count = file.read(&mut bytes).map_err(Error::io(path))?;
        if count == 0 {
            return Ok(hex(hash));
        }
        hash.update(&bytes[..count]);
    }
}

/// A digest as text.
pub fn hex(hash: Sha256) -> String {
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}
