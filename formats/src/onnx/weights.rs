//! What a written graph says of its weights.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::Path;

use prost::Message;

use super::proto::{ElementType, GraphProto, ModelProto, NodeProto, TensorProto};
use crate::DType;
use crate::error::{Error, Result};

/// How a weight is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    Float(DType),
    Blocks { bits: usize, block_size: usize },
}

impl Stored {
    fn bits(self) -> f64 {
        match self {
            Stored::Float(dtype) => dtype.bits_per_weight(),
            Stored::Blocks { bits, .. } => bits as f64,
        }
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stored::Float(dtype) => f.write_str(dtype.name()),
            Stored::Blocks { bits, block_size } => write!(f, "Q{bits} x{block_size}"),
        }
    }
}

/// All weights of a graph.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GraphWeights {
    /// The coarsest way that at least a quarter of the layers' matrices are stored.
    pub prevailing: Stored,
    /// Numbers that the weights stand for.
    pub values: usize,
    /// Bytes they take, scales and zero points included.
    pub bytes: u64,
}

impl GraphWeights {
    /// Reads the graph of an export; its external data is not looked at.
    ///
    /// # Errors
    /// An unreadable file, or one that is no ONNX model.
    pub fn read(path: &Path) -> Result<GraphWeights> {
        let bytes = std::fs::read(path).map_err(Error::io(path))?;
        let malformed = |detail: String| Error::Malformed { path: path.into(), offset: 0, detail };
        let model =
            ModelProto::decode(bytes.as_slice()).map_err(|e| malformed(format!("not an ONNX model: {e}")))?;
        let graph = model.graph.ok_or_else(|| malformed("an ONNX model without a graph".into()))?;
        Ok(GraphWeights::of(&graph))
    }

    fn of(graph: &GraphProto) -> GraphWeights {
        let tensors: HashMap<&str, &TensorProto> =
            graph.initializer.iter().filter_map(|t| Some((t.name.as_deref()?, t))).collect();
        let mut found = Vec::new();
        let mut seen = HashSet::new();
        for node in &graph.node {
            let Some((codes, stored, values)) = matrix_of(node, &tensors) else { continue };
            if seen.insert(codes) {
                found.push((codes, stored, values));
            }
        }
        let bytes = tensors.iter().filter(|(name, _)| name.contains(".weight")).map(|(_, t)| bytes_of(t));
        let in_layers = found.iter().filter(|(name, ..)| name.contains(".layers."));
        let in_layers: Vec<_> = in_layers.map(|(_, stored, values)| (*stored, *values)).collect();
        GraphWeights {
            prevailing: prevailing(&in_layers),
            values: found.iter().map(|(.., values)| values).sum(),
            bytes: bytes.sum(),
        }
    }
}

/// The weight that a node multiplies by or looks up: its name, how it is stored, how many values it has.
fn matrix_of<'a>(
    node: &'a NodeProto,
    tensors: &HashMap<&str, &TensorProto>,
) -> Option<(&'a str, Stored, usize)> {
    let attribute = |name: &str| {
        let found = node.attribute.iter().find(|a| a.name.as_deref() == Some(name))?;
        usize::try_from(found.i?).ok()
    };
    let input = |at: usize| {
        let name = node.input.get(at)?.as_str();
        Some((name, *tensors.get(name)?))
    };
    match node.op_type.as_deref()? {
        "MatMulNBits" => {
            let stored = Stored::Blocks { bits: attribute("bits")?, block_size: attribute("block_size")? };
            Some((input(1)?.0, stored, attribute("N")?.checked_mul(attribute("K")?)?))
        }
        "DequantizeLinear" => {
            let (name, codes) = input(0)?;
            let narrow = [ElementType::Uint4 as i32, ElementType::Int4 as i32];
            let bits = if narrow.contains(&codes.data_type?) { 4 } else { 8 };
            Some((name, Stored::Blocks { bits, block_size: attribute("block_size")? }, count(codes)))
        }
        // A product with a weight or with what another node made of one; an embedding that is looked up.
        "Gemm" | "MatMul" => float_matrix(input(1)?),
        "Gather" => float_matrix(input(0)?),
        _ => None,
    }
}

fn float_matrix<'a>((name, tensor): (&'a str, &TensorProto)) -> Option<(&'a str, Stored, usize)> {
    let dtype = match tensor.data_type? {
        t if t == ElementType::Float as i32 => DType::F32,
        t if t == ElementType::Float16 as i32 => DType::F16,
        _ => return None,
    };
    name.ends_with(".weight").then(|| (name, Stored::Float(dtype), count(tensor)))
}

fn count(tensor: &TensorProto) -> usize {
    tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).fold(1, usize::saturating_mul)
}

fn bytes_of(tensor: &TensorProto) -> u64 {
    let length = tensor.external_data.iter().find(|entry| entry.key.as_deref() == Some("length"));
    let length = length.and_then(|entry| entry.value.as_deref()?.parse().ok());
    length.unwrap_or_else(|| tensor.raw_data.as_ref().map_or(0, |data| data.len() as u64))
}

fn prevailing(matrices: &[(Stored, usize)]) -> Stored {
    let mut sums: Vec<(Stored, usize)> = Vec::new();
    for &(stored, values) in matrices {
        match sums.iter_mut().find(|(s, _)| *s == stored) {
            Some((_, sum)) => *sum += values,
            None => sums.push((stored, values)),
        }
    }
    let all: usize = sums.iter().map(|(_, sum)| sum).sum();
    let common = sums.into_iter().filter(|(_, sum)| 4 * sum >= all).map(|(stored, _)| stored);
    common.min_by(|a, b| a.bits().total_cmp(&b.bits())).unwrap_or(Stored::Float(DType::F32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::proto::{AttributeProto, StringStringEntryProto};

    fn tensor(name: &str, element: ElementType, dims: &[i64], bytes: u64) -> TensorProto {
        TensorProto {
            name: Some(name.into()),
            data_type: Some(element as i32),
            dims: dims.to_vec(),
            external_data: vec![StringStringEntryProto::new("length", bytes)],
            ..TensorProto::default()
        }
    }

    fn node(op: &str, input: &[&str], attributes: &[(&str, i64)]) -> NodeProto {
        let attribute = |&(name, i): &(&str, i64)| AttributeProto {
            name: Some(name.into()),
            i: Some(i),
            ..Default::default()
        };
        NodeProto {
            op_type: Some(op.into()),
            input: input.iter().map(|name| name.to_string()).collect(),
            attribute: attributes.iter().map(attribute).collect(),
            ..NodeProto::default()
        }
    }

    #[test]
    fn the_coarsest_common_type_of_the_layers_prevails() {
        let graph = GraphProto {
            initializer: vec![
                tensor("model.embed_tokens.weight_Q8", ElementType::Uint8, &[100, 1, 32], 3200),
                tensor("model.embed_tokens.weight_scales", ElementType::Float, &[100, 1], 400),
                tensor("model.layers.0.mlp.up_proj.weight_Q4", ElementType::Uint4, &[32, 64], 1024),
                tensor("model.layers.0.mlp.down_proj.weight", ElementType::Float16, &[32, 64], 4096),
                tensor("model.layers.0.self_attn.q_proj.weight_Q4", ElementType::Uint8, &[4, 1, 16], 64),
            ],
            node: vec![
                node("DequantizeLinear", &["model.layers.0.mlp.up_proj.weight_Q4"], &[("block_size", 32)]),
                node("Gemm", &["x", "model.layers.0.mlp.down_proj.weight"], &[]),
                node(
                    "MatMulNBits",
                    &["x", "model.layers.0.self_attn.q_proj.weight_Q4"],
                    &[("bits", 4), ("block_size", 16), ("N", 4), ("K", 16)],
                ),
                node(
                    "MatMulNBits",
                    &["x", "model.embed_tokens.weight_Q8"],
                    &[("bits", 8), ("block_size", 32), ("N", 100), ("K", 32)],
                ),
            ],
            ..GraphProto::default()
        };
        let found = GraphWeights::of(&graph);
        // q_proj's blocks of 16 are too few to count.
        assert_eq!(found.prevailing, Stored::Blocks { bits: 4, block_size: 32 });
        assert_eq!(found.values, 2 * 32 * 64 + 4 * 16 + 3200);
        assert_eq!(found.bytes, 3200 + 400 + 1024 + 4096 + 64);
    }

    #[test]
    fn another_file_is_refused() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), b"GGUF and more").expect("writable");
        assert!(matches!(GraphWeights::read(file.path()), Err(Error::Malformed { .. })));
    }
}
