//! Which model statistics belong to.

use anyhow::Result;
use plmconv_formats::Model;
use plmconv_quant::codec;
use sha2::{Digest, Sha256};

/// A digest of the model's hyperparameters, and of the first, middle and last row of every tensor in f32: equal for
/// a checkpoint and its float GGUFs, and found without reading gigabytes.
pub fn model_digest(model: &Model) -> Result<String> {
    let mut hash = Sha256::new();
    let mut tensors: Vec<_> = model.tensors.iter().collect();
    tensors.sort_by_key(|t| t.key);
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let (rows, cols) = (tensor.source.rows(), tensor.source.cols());
        hash.update(format!("{} {rows} {cols}\n", tensor.key.gguf_name()));
        for row in [0, rows / 2, rows - 1] {
            tensor.source.read_rows(row..row + 1, &mut bytes)?;
            values.resize(cols, 0.0);
            codec::decode(tensor.source.dtype(), &bytes, &mut values)?;
            values.iter().for_each(|x| hash.update(x.to_le_bytes()));
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
