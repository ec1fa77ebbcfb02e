//! An ONNX model's weights as a reader of the model thinks of them: codes, scales and zero points are one weight, and
//! so are the heads of a matrix that are stored as weights of their own.

use std::collections::{HashMap, HashSet};

use crate::model::{Role, TensorKey};

use super::read::{Blocks, Initializer, OnnxFile};

/// One weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weight {
    /// The checkpoint's name where the export is ours.
    pub name: String,
    /// Row-major: the slowest axis first.
    pub shape: Vec<usize>,
    /// A float or integer type, or e.g. `Q4 x32` for 4-bit codes in blocks of 32.
    pub stored_as: String,
    /// Of all its parts.
    pub bytes: u64,
}

/// The name of a weight in blocks of codes of `bits`: `Q4 x32`, `Q8 x64 asymmetric`.
pub fn blocks_name(bits: usize, block_size: usize, symmetric: bool) -> String {
    format!("Q{bits} x{block_size}{}", if symmetric { "" } else { " asymmetric" })
}

impl Weight {
    /// What it is in a PLM, if its name is one that an export of ours has.
    pub fn key(&self) -> Option<TensorKey> {
        let part = [("k_b_proj", Role::KeyB), ("v_b_proj", Role::ValueB)];
        let part =
            part.into_iter().find(|(label, _)| self.name.ends_with(&format!("self_attn.{label}.weight")));
        let Some((label, role)) = part else { return TensorKey::from_hugging_face(&self.name) };
        let whole = TensorKey::from_hugging_face(&self.name.replace(label, "kv_b_proj"))?;
        Some(TensorKey { role, ..whole })
    }
}

impl OnnxFile {
    /// Its weights in the order of its initializers; small constants, which are in the graph itself, are left out.
    pub fn weights(&self) -> Vec<Weight> {
        let sizes: HashMap<&str, u64> =
            self.initializers.iter().map(|i| (i.name.as_str(), i.bytes)).collect();
        let by_codes: HashMap<&str, &Blocks> = self.blocks.iter().map(|b| (b.codes.as_str(), b)).collect();
        let known = self.blocks.iter().filter(|b| sizes.contains_key(b.codes.as_str()));
        let parts: HashSet<&str> =
            known.flat_map(|b| std::iter::once(b.scales.as_str()).chain(b.zero_points.as_deref())).collect();
        let mut weights: Vec<Weight> = Vec::new();
        for initializer in &self.initializers {
            match by_codes.get(initializer.name.as_str()) {
                Some(blocks) => push(&mut weights, in_blocks(initializer, blocks, &sizes)),
                None if parts.contains(initializer.name.as_str()) || initializer.is_constant() => {}
                None => weights.push(plain(initializer)),
            }
        }
        weights
    }
}

fn plain(initializer: &Initializer) -> Weight {
    Weight {
        name: initializer.name.clone(),
        shape: initializer.shape.clone(),
        stored_as: initializer.element.into(),
        bytes: initializer.bytes,
    }
}

fn in_blocks(codes: &Initializer, blocks: &Blocks, sizes: &HashMap<&str, u64>) -> Weight {
    // DequantizeLinear's codes are `[cols, rows]` and say their bits themselves.
    let (rows, cols, bits) = match (blocks.bits, codes.shape.as_slice()) {
        (0, &[cols, rows]) => (rows, cols, if codes.element.ends_with('4') { 4 } else { 8 }),
        (bits, _) => (blocks.rows, blocks.cols, bits),
    };
    let size = |name: &String| sizes.get(name.as_str()).copied().unwrap_or_default();
    let extra = size(&blocks.scales) + blocks.zero_points.as_ref().map_or(0, size);
    Weight {
        name: codes.name.trim_end_matches(&format!("_Q{bits}")).into(),
        shape: vec![rows, cols],
        stored_as: blocks_name(bits, blocks.block_size, blocks.zero_points.is_none()),
        bytes: codes.bytes + extra,
    }
}

/// Adds a weight, or makes it one more head of the last: `k_b_proj.0.weight`, `k_b_proj.1.weight`, … are one.
fn push(weights: &mut Vec<Weight>, weight: Weight) {
    let Some(name) = without_head(&weight.name) else { return weights.push(weight) };
    if let Some(last) = weights.last_mut()
        && last.name == name
        && last.stored_as == weight.stored_as
        && let [heads, rows, cols] = &mut last.shape[..]
        && weight.shape == [*rows, *cols]
    {
        *heads += 1;
        last.bytes += weight.bytes;
        return;
    }
    let shape = std::iter::once(1).chain(weight.shape).collect();
    weights.push(Weight { name, shape, ..weight });
}

/// `….k_b_proj.3.weight` → `….k_b_proj.weight`
fn without_head(name: &str) -> Option<String> {
    let (stem, head) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let is_number = !head.is_empty() && head.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| format!("{stem}.weight"))
}
