//! Building a graph: nodes with readable names, shared constants, weights in external data.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use half::f16;

use super::data::{Content, DataItem, Literal, Places, external_tensor, place_blocks};
use super::proto::*;
use super::spec::{BlockFormat, ExportSpec, QuantFormat};
use crate::DType;
use crate::model::TensorKey;
use crate::source::RowSource;

/// The name of a value in the graph.
pub(super) type Value = String;

/// Constants up to this many bytes are in the graph itself, where shape inference sees them.
const INLINE_BYTES: usize = 1024;

/// A value for an attribute.
#[derive(Clone, Debug)]
pub(super) enum Attr {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
}

/// A graph under construction.
#[derive(Debug)]
pub(super) struct GraphBuilder<'a> {
    pub spec: &'a ExportSpec,
    pub nodes: Vec<NodeProto>,
    pub initializers: Vec<TensorProto>,
    pub items: Vec<DataItem>,
    pub literals: Vec<Literal>,
    pub places: Places,
    names: HashMap<String, usize>,
    constants: HashSet<String>,
}

/// One block-quantized matrix of a layer: all of a checkpoint tensor or a head of it.
pub(super) struct BlockPart<'s> {
    pub scope: &'s str,
    pub name: &'s str,
    pub key: TensorKey,
    pub source: Arc<dyn RowSource>,
    pub exponent: i32,
    /// The source's rows are the tensor's columns.
    pub transposed: bool,
}

/// The initializers of a block-quantized weight.
#[derive(Clone, Debug)]
pub(super) struct BlockWeight {
    pub codes: Value,
    pub scales: Value,
    /// Empty for symmetric grids.
    pub zero_points: Value,
}

impl<'a> GraphBuilder<'a> {
    pub(super) fn new(spec: &'a ExportSpec) -> GraphBuilder<'a> {
        GraphBuilder {
            spec,
            nodes: Vec::new(),
            initializers: Vec::new(),
            items: Vec::new(),
            literals: Vec::new(),
            places: Places::default(),
            names: HashMap::new(),
            constants: HashSet::new(),
        }
    }

    /// Adds a node of the default domain with one output.
    pub(super) fn op(&mut self, scope: &str, op: &str, inputs: &[&str], attrs: &[(&str, Attr)]) -> Value {
        self.node(scope, "", op, inputs, attrs, 1).remove(0)
    }

    /// Adds a node with `outputs` outputs; its name is `scope/op`, numbered if taken.
    pub(super) fn node(
        &mut self,
        scope: &str,
        domain: &str,
        op: &str,
        inputs: &[&str],
        attrs: &[(&str, Attr)],
        outputs: usize,
    ) -> Vec<Value> {
        let base = format!("{scope}/{op}");
        let count = self.names.entry(base.clone()).or_insert(0);
        let name = if *count == 0 { base } else { format!("{base}_{count}") };
        *count += 1;
        let outputs: Vec<Value> = (0..outputs).map(|i| format!("{name}/output_{i}")).collect();
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: outputs.clone(),
            name: Some(name),
            op_type: Some(op.into()),
            attribute: attrs.iter().map(|(name, value)| attribute(name, value)).collect(),
            domain: (!domain.is_empty()).then(|| domain.to_string()),
        });
        outputs
    }

    /// Gives an output, which no node reads yet, a name of the graph's interface.
    pub(super) fn rename_output(&mut self, output: &str, name: &str) -> Value {
        let outputs = self.nodes.iter_mut().rev().flat_map(|node| &mut node.output);
        *outputs.into_iter().find(|found| *found == output).expect("an output of the graph") =
            name.to_string();
        debug_assert!(!self.nodes.iter().any(|node| node.input.iter().any(|input| input == output)));
        name.to_string()
    }

    /// A constant vector of i64, shared by all its users.
    pub(super) fn ints(&mut self, values: &[i64]) -> Value {
        let list: Vec<String> = values.iter().map(i64::to_string).collect();
        let name = format!("/constants/int64/[{}]", list.join(","));
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, ElementType::Int64, &[values.len()], bytes)
    }

    /// A constant scalar of i64.
    pub(super) fn int(&mut self, value: i64) -> Value {
        let name = format!("/constants/int64/{value}");
        self.constant(name, ElementType::Int64, &[], value.to_le_bytes().to_vec())
    }

    /// A constant scalar of float type `dtype`.
    pub(super) fn scalar(&mut self, dtype: DType, value: f32) -> Value {
        let name = format!("/constants/{}/{value}", if dtype == DType::F16 { "float16" } else { "float32" });
        self.constant(name, element(dtype), &[], encode(dtype, &[value]))
    }

    /// A constant table of the graph's float type.
    pub(super) fn table(&mut self, name: &str, dims: &[usize], values: &[f32]) -> Value {
        let dtype = self.spec.float;
        self.constant(name.to_string(), element(dtype), dims, encode(dtype, values))
    }

    fn constant(&mut self, name: String, element: ElementType, dims: &[usize], bytes: Vec<u8>) -> Value {
        if !self.constants.insert(name.clone()) {
            return name;
        }
        if bytes.len() > INLINE_BYTES {
            let place = self.places.next(bytes.len() as u64, self.spec.max_data_bytes);
            self.initializers.push(external_tensor(self.spec, &name, element, dims, place));
            self.literals.push(Literal { bytes, place });
        } else {
            self.initializers.push(TensorProto {
                dims: dims.iter().map(|&n| n as i64).collect(),
                data_type: Some(element as i32),
                name: Some(name.clone()),
                raw_data: Some(bytes),
                ..TensorProto::default()
            });
        }
        name
    }

    /// A weight of the graph's float type with these dimensions, whose values are `source`'s.
    pub(super) fn float_weight(
        &mut self,
        name: &str,
        key: TensorKey,
        source: Arc<dyn RowSource>,
        dims: &[usize],
        exponent: i32,
    ) -> Value {
        if !self.constants.insert(name.to_string()) {
            return name.to_string();
        }
        let dtype = self.spec.float;
        let bytes = (source.rows() * source.cols() * dtype.block_bytes()) as u64;
        let place = self.places.next(bytes, self.spec.max_data_bytes);
        self.initializers.push(external_tensor(self.spec, name, element(dtype), dims, place));
        let content = Content::Float { dtype, place };
        let name = name.to_string();
        self.items.push(DataItem { name: name.clone(), key, source, exponent, transposed: false, content });
        name
    }

    /// A block-quantized weight of `[rows, cols]`; the same name again gives the same initializers.
    pub(super) fn block_weight(
        &mut self,
        part: BlockPart<'_>,
        format: BlockFormat,
        quant_format: QuantFormat,
    ) -> BlockWeight {
        let BlockPart { name, key, source, exponent, transposed, .. } = part;
        let codes_name = format!("{name}_Q{}", format.bits);
        let weight = BlockWeight {
            codes: codes_name.clone(),
            scales: format!("{name}_scales"),
            zero_points: if format.symmetric { String::new() } else { format!("{name}_zero_points") },
        };
        if !self.constants.insert(codes_name) {
            return weight;
        }
        let (rows, cols) = (source.rows(), source.cols());
        let blocks = format.blocks(cols);
        let float = self.spec.float;
        let max = self.spec.max_data_bytes;
        let content = place_blocks(&mut self.places, max, quant_format, format, float, [rows, cols]);
        let mut add = |name: &str, element, dims: &[usize], place| {
            self.initializers.push(external_tensor(self.spec, name, element, dims, place));
        };
        match &content {
            Content::NBits { codes, scales, zero_points, .. } => {
                add(&weight.codes, ElementType::Uint8, &[rows, blocks, format.block_bytes()], *codes);
                add(&weight.scales, element(float), &[rows, blocks], *scales);
                if let Some(place) = zero_points {
                    let dims = [rows, format.zero_point_bytes(cols)];
                    add(&weight.zero_points, ElementType::Uint8, &dims, *place);
                }
            }
            Content::Qdq { codes, scales, zero_points, .. } => {
                let code_type = qdq_element(format);
                add(&weight.codes, code_type, &[cols, rows], *codes);
                add(&weight.scales, element(float), &[blocks, rows], *scales);
                if let Some(place) = zero_points {
                    add(&weight.zero_points, code_type, &[blocks, rows], *place);
                }
            }
            Content::Float { .. } => unreachable!("place_blocks makes block contents"),
        }
        self.items.push(DataItem { name: name.into(), key, source, exponent, transposed, content });
        weight
    }
}

/// Signed codes where the zero point is implied: DequantizeLinear's default zero point is 0.
fn qdq_element(format: BlockFormat) -> ElementType {
    match (format.bits, format.symmetric) {
        (4, true) => ElementType::Int4,
        (4, false) => ElementType::Uint4,
        (_, true) => ElementType::Int8,
        (_, false) => ElementType::Uint8,
    }
}

/// The element type of a float type of ours.
pub(super) fn element(dtype: DType) -> ElementType {
    match dtype {
        DType::F16 => ElementType::Float16,
        _ => ElementType::Float,
    }
}

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

fn attribute(name: &str, value: &Attr) -> AttributeProto {
    let mut proto = AttributeProto { name: Some(name.into()), ..AttributeProto::default() };
    let kind = match value {
        Attr::Float(f) => {
            proto.f = Some(*f);
            1
        }
        Attr::Int(i) => {
            proto.i = Some(*i);
            2
        }
        Attr::Ints(ints) => {
            proto.ints = ints.clone();
            7
        }
    };
    proto.r#type = Some(kind);
    proto
}
