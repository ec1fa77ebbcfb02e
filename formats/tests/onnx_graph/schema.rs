//! The official schema (the crate onnx-protobuf, generated from onnx.proto) as an outside reader: what it makes of an
//! export is compared with what was meant, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use onnx_protobuf as official;
use onnx_protobuf::attribute_proto::AttributeType;
use onnx_protobuf::tensor_proto::{DataLocation, DataType};
use onnx_protobuf::{Message, tensor_shape_proto, type_proto};
use plmconv_formats::onnx::{
    BlockFormat, Content, Export, ExportSpec, OnnxFile, Opset, Place, Profile, build, proto,
};
use plmconv_formats::{Config, DType, Model};
use protobuf::Enum;

use super::variants::{self, tiny_plm};

fn decoded(export: &Export) -> official::ModelProto {
    official::ModelProto::parse_from_bytes(&export.model).expect("the official schema reads it")
}

/// Calls `check` with every variant and what the official schema reads of it.
fn for_all(check: impl Fn(&Model, &ExportSpec, &Export, &official::ModelProto)) {
    let model = tiny_plm();
    for spec in variants::all(&model) {
        let export = build(&model, &spec).expect("builds");
        check(&model, &spec, &export, &decoded(&export));
    }
}

/// Our messages in the official schema's structures.
mod translated {
    use super::*;

    pub fn model(of: proto::ModelProto) -> official::ModelProto {
        official::ModelProto {
            ir_version: of.ir_version.unwrap_or_default(),
            producer_name: of.producer_name.unwrap_or_default(),
            producer_version: of.producer_version.unwrap_or_default(),
            graph: of.graph.map(graph).into(),
            opset_import: of.opset_import.into_iter().map(opset).collect(),
            metadata_props: of.metadata_props.into_iter().map(pair).collect(),
            ..Default::default()
        }
    }

    fn opset(of: proto::OperatorSetIdProto) -> official::OperatorSetIdProto {
        official::OperatorSetIdProto {
            domain: of.domain.unwrap_or_default(),
            version: of.version.unwrap_or_default(),
            ..Default::default()
        }
    }

    fn pair(of: proto::StringStringEntryProto) -> official::StringStringEntryProto {
        official::StringStringEntryProto {
            key: of.key.unwrap_or_default(),
            value: of.value.unwrap_or_default(),
            ..Default::default()
        }
    }

    fn graph(of: proto::GraphProto) -> official::GraphProto {
        official::GraphProto {
            node: of.node.into_iter().map(node).collect(),
            name: of.name.unwrap_or_default(),
            initializer: of.initializer.into_iter().map(tensor).collect(),
            input: of.input.into_iter().map(value).collect(),
            output: of.output.into_iter().map(value).collect(),
            ..Default::default()
        }
    }

    fn node(of: proto::NodeProto) -> official::NodeProto {
        official::NodeProto {
            input: of.input,
            output: of.output,
            name: of.name.unwrap_or_default(),
            op_type: of.op_type.unwrap_or_default(),
            attribute: of.attribute.into_iter().map(attribute).collect(),
            domain: of.domain.unwrap_or_default(),
            ..Default::default()
        }
    }

    /// The kind follows from the value that is there, not from the number that was written.
    fn attribute(of: proto::AttributeProto) -> official::AttributeProto {
        let type_ = match (of.f, of.i, &of.s) {
            (Some(_), None, None) => AttributeType::FLOAT,
            (None, Some(_), None) => AttributeType::INT,
            (None, None, Some(_)) => AttributeType::STRING,
            _ => AttributeType::INTS,
        };
        official::AttributeProto {
            name: of.name.unwrap_or_default(),
            f: of.f.unwrap_or_default(),
            i: of.i.unwrap_or_default(),
            s: of.s.unwrap_or_default(),
            ints: of.ints,
            type_: type_.into(),
            ..Default::default()
        }
    }

    /// Where the data lies follows from the pairs that are there.
    fn tensor(of: proto::TensorProto) -> official::TensorProto {
        let data_location =
            if of.external_data.is_empty() { DataLocation::DEFAULT } else { DataLocation::EXTERNAL };
        official::TensorProto {
            dims: of.dims,
            data_type: of.data_type.unwrap_or_default(),
            name: of.name.unwrap_or_default(),
            raw_data: of.raw_data.unwrap_or_default(),
            external_data: of.external_data.into_iter().map(pair).collect(),
            data_location: data_location.into(),
            ..Default::default()
        }
    }

    fn value(of: proto::ValueInfoProto) -> official::ValueInfoProto {
        let tensor = of.r#type.and_then(|t| t.tensor_type).expect("every port is a tensor");
        let shape = tensor.shape.map(|shape| official::TensorShapeProto {
            dim: shape.dim.into_iter().map(dimension).collect(),
            ..Default::default()
        });
        let tensor = type_proto::Tensor {
            elem_type: tensor.elem_type.unwrap_or_default(),
            shape: shape.into(),
            ..Default::default()
        };
        let type_ =
            official::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        official::ValueInfoProto {
            name: of.name.unwrap_or_default(),
            type_: Some(type_).into(),
            ..Default::default()
        }
    }

    fn dimension(of: proto::DimensionProto) -> tensor_shape_proto::Dimension {
        let mut dimension = tensor_shape_proto::Dimension::new();
        match (of.dim_value, of.dim_param) {
            (Some(n), None) => dimension.set_dim_value(n),
            (None, Some(name)) => dimension.set_dim_param(name),
            other => panic!("a dimension of {other:?}"),
        }
        dimension
    }
}

/// Fields that the official schema does not know would be seen here, too: they are part of its messages.
#[test]
fn every_message_reads_as_it_was_meant() {
    for_all(|_, _, export, official| {
        let meant = <proto::ModelProto as prost::Message>::decode(export.model.as_slice()).expect("decodes");
        assert!(*official == translated::model(meant));
    });
}

#[test]
fn the_model_says_what_it_is() {
    for_all(|model, spec, _, official| {
        let (opset, ir_version) = match spec.opset {
            Opset::V21 => (21, 10),
            Opset::V23 => (23, 11),
        };
        assert_eq!(official.ir_version, ir_version);
        assert_eq!(
            (&*official.producer_name, &*official.producer_version),
            ("plmconv", &*spec.producer_version)
        );
        let mut opsets = vec![("", opset)];
        if !spec.weights.is_empty() {
            opsets.push(("com.microsoft", 1));
        }
        let found: Vec<_> = official.opset_import.iter().map(|o| (o.domain.as_str(), o.version)).collect();
        assert_eq!(found, opsets);
        let metadata: Vec<_> = official.metadata_props.iter().map(|p| (&*p.key, &*p.value)).collect();
        assert_eq!(metadata, [("made_of", "tiny")]);
        assert_eq!(ports(&official.graph.input), inputs(&model.config, spec));
        assert_eq!(ports(&official.graph.output), outputs(&model.config, spec));
    });
}

/// A name, an element type, and dimensions as text.
type PortFacts = (String, DataType, Vec<String>);

fn ports(of: &[official::ValueInfoProto]) -> Vec<PortFacts> {
    let facts = |port: &official::ValueInfoProto| {
        let tensor = port.type_.tensor_type();
        let dims = tensor.shape.dim.iter().map(|dim| match dim.dim_param() {
            "" => dim.dim_value().to_string(),
            name => name.to_string(),
        });
        (port.name.clone(), data_type(tensor.elem_type), dims.collect())
    };
    of.iter().map(facts).collect()
}

fn port(name: &str, element: DataType, dims: &[&str]) -> PortFacts {
    (name.into(), element, dims.iter().map(|dim| dim.to_string()).collect())
}

fn inputs(config: &Config, spec: &ExportSpec) -> Vec<PortFacts> {
    let mut ports = vec![
        port("input_ids", DataType::INT64, &["batch_size", "sequence_length"]),
        port("attention_mask", DataType::INT64, &["batch_size", "total_sequence_length"]),
        port("position_ids", DataType::INT64, &["batch_size", "sequence_length"]),
    ];
    if spec.num_logits_to_keep {
        ports.push(port("num_logits_to_keep", DataType::INT64, &[]));
    }
    ports.extend(cache(config, spec, "past_key_values", "past_sequence_length"));
    ports
}

fn outputs(config: &Config, spec: &ExportSpec) -> Vec<PortFacts> {
    let kept = if spec.num_logits_to_keep { "num_logits" } else { "sequence_length" };
    let vocab_size = config.vocab_size.to_string();
    let mut ports = vec![port("logits", DataType::FLOAT, &["batch_size", kept, &vocab_size])];
    ports.extend(cache(config, spec, "present", "total_sequence_length"));
    ports
}

/// What clients feed back, layer by layer.
fn cache(config: &Config, spec: &ExportSpec, name: &str, length: &str) -> Vec<PortFacts> {
    let latent = config.kv_lora_rank + config.qk_rope_head_dim;
    let heads = config.num_attention_heads;
    let parts = match spec.profile {
        Profile::Latent => vec![("latent", 1, latent)],
        Profile::Genai => vec![("key", 1, latent / 2), ("value", 1, latent / 2)],
        Profile::Hf => vec![
            ("key", heads, config.qk_nope_head_dim + config.qk_rope_head_dim),
            ("value", heads, config.v_head_dim),
        ],
    };
    let of_layer = |layer: usize| {
        let parts = parts.clone();
        parts.into_iter().map(move |(part, heads, width)| {
            let dims = ["batch_size", &heads.to_string(), length, &width.to_string()];
            port(&format!("{name}.{layer}.{part}"), float_type(spec), &dims)
        })
    };
    (0..config.num_hidden_layers).flat_map(of_layer).collect()
}

fn data_type(number: i32) -> DataType {
    DataType::from_i32(number).expect("a type of the schema")
}

fn float_type(spec: &ExportSpec) -> DataType {
    if spec.float == DType::F16 { DataType::FLOAT16 } else { DataType::FLOAT }
}

/// Name, type, shape and place of a stored tensor.
#[derive(Debug, PartialEq)]
struct Stored {
    element: DataType,
    dims: Vec<i64>,
    location: String,
    offset: u64,
    length: u64,
}

impl Stored {
    fn new(spec: &ExportSpec, element: DataType, dims: &[usize], place: Place) -> Stored {
        let bits = match element {
            DataType::FLOAT => 32,
            DataType::FLOAT16 => 16,
            DataType::INT8 | DataType::UINT8 => 8,
            DataType::INT4 | DataType::UINT4 => 4,
            other => panic!("weights of {other:?}"),
        };
        Stored {
            element,
            dims: dims.iter().map(|&n| n as i64).collect(),
            location: spec.data_name(place.file),
            offset: place.offset,
            // What the shape says, not what the place does.
            length: (dims.iter().product::<usize>() as u64 * bits).div_ceil(8),
        }
    }

    fn of(tensor: &official::TensorProto) -> Stored {
        let value = |key: &str| {
            tensor
                .external_data
                .iter()
                .find(|pair| pair.key == key)
                .expect("every key is there")
                .value
                .as_str()
        };
        assert_eq!(tensor.data_location.enum_value(), Ok(DataLocation::EXTERNAL));
        assert!(tensor.raw_data.is_empty(), "{} has its data twice", tensor.name);
        Stored {
            element: data_type(tensor.data_type),
            dims: tensor.dims.clone(),
            location: value("location").into(),
            offset: value("offset").parse().expect("a number"),
            length: value("length").parse().expect("a number"),
        }
    }
}

/// The initializers of one weight in blocks, as the operators that read them define their inputs.
fn block_initializers(
    spec: &ExportSpec,
    name: &str,
    [rows, cols]: [usize; 2],
    content: &Content,
) -> Vec<(String, Stored)> {
    let stored =
        |name: String, element, dims: &[usize], place| (name, Stored::new(spec, element, dims, place));
    let names = |format: &BlockFormat| {
        [format!("{name}_Q{}", format.bits), format!("{name}_scales"), format!("{name}_zero_points")]
    };
    match content {
        Content::Float { .. } => unreachable!("not in blocks"),
        Content::NBits { format, codes, scales, zero_points, .. } => {
            let blocks = cols.div_ceil(format.block_size);
            let [codes_name, scales_name, zero_points_name] = names(format);
            let bytes = format.block_size * format.bits / 8;
            let mut all = vec![
                stored(codes_name, DataType::UINT8, &[rows, blocks, bytes], *codes),
                stored(scales_name, float_type(spec), &[rows, blocks], *scales),
            ];
            let packed = (blocks * format.bits).div_ceil(8);
            all.extend(zero_points.map(|at| stored(zero_points_name, DataType::UINT8, &[rows, packed], at)));
            all
        }
        Content::Qdq { format, codes, scales, zero_points, .. } => {
            let blocks = cols.div_ceil(format.block_size);
            let [codes_name, scales_name, zero_points_name] = names(format);
            let element = match (format.bits, format.symmetric) {
                (4, true) => DataType::INT4,
                (4, false) => DataType::UINT4,
                (8, true) => DataType::INT8,
                _ => DataType::UINT8,
            };
            let mut all = vec![
                stored(codes_name, element, &[cols, rows], *codes),
                stored(scales_name, float_type(spec), &[blocks, rows], *scales),
            ];
            all.extend(zero_points.map(|at| stored(zero_points_name, element, &[blocks, rows], at)));
            all
        }
    }
}

/// Every byte that the writer puts into external data is named by one initializer, with the type and shape that its
/// readers expect; all other initializers are small and are in the graph.
#[test]
fn initializers_say_where_their_data_lies() {
    for_all(|_, spec, export, official| {
        let mut found = BTreeMap::new();
        for tensor in &official.graph.initializer {
            if tensor.external_data.is_empty() {
                let bytes = tensor.dims.iter().product::<i64>() as usize * inline_bytes(tensor);
                assert_eq!(tensor.raw_data.len(), bytes, "{}", tensor.name);
            } else {
                found.insert(tensor.name.clone(), Stored::of(tensor));
            }
        }
        let mut literals: Vec<_> = export.literals.iter().map(|literal| literal.place).collect();
        for item in &export.items {
            let shape = [item.source.rows(), item.source.cols()];
            match &item.content {
                Content::Float { place, .. } => {
                    let stored = found.remove(&item.name).expect("a weight has an initializer");
                    let [rows, cols] = shape;
                    let dims: Vec<usize> = stored.dims.iter().map(|&n| n as usize).collect();
                    assert_eq!(dims.iter().product::<usize>(), rows * cols, "{}", item.name);
                    assert_eq!(stored, Stored::new(spec, float_type(spec), &dims, *place), "{}", item.name);
                }
                blocks => {
                    for (name, meant) in block_initializers(spec, &item.name, shape, blocks) {
                        assert_eq!(found.remove(&name), Some(meant), "{name}");
                    }
                }
            }
        }
        for (name, stored) in found {
            let at = literals.iter().position(|place| {
                (spec.data_name(place.file), place.offset, place.bytes)
                    == (stored.location.clone(), stored.offset, stored.length)
            });
            literals.remove(at.unwrap_or_else(|| panic!("{name} is written by nothing")));
        }
        assert!(literals.is_empty());
    });
}

/// Bytes of a value of a constant in the graph.
fn inline_bytes(tensor: &official::TensorProto) -> usize {
    match data_type(tensor.data_type) {
        DataType::INT64 => 8,
        DataType::FLOAT => 4,
        DataType::FLOAT16 => 2,
        other => panic!("{} is of type {other:?}", tensor.name),
    }
}

/// An operator as its documentation defines it.
struct Operator {
    domain: &'static str,
    name: &'static str,
    /// The first of our two opsets that has it.
    since: i64,
    inputs: RangeInclusive<usize>,
    /// Names and kinds.
    attributes: &'static [(&'static str, AttributeType)],
    /// The first attributes that have no default.
    required: usize,
}

const fn operator(name: &'static str, inputs: RangeInclusive<usize>) -> Operator {
    Operator { domain: "", name, since: 21, inputs, attributes: &[], required: 0 }
}

const INT: AttributeType = AttributeType::INT;
const INTS: AttributeType = AttributeType::INTS;
const FLOAT: AttributeType = AttributeType::FLOAT;

/// The operators that exports use, from onnx's Operators.md and ONNX Runtime's ContribOperators.md.
const OPERATORS: [Operator; 32] = [
    operator("Add", 2..=2),
    operator("And", 2..=2),
    Operator {
        since: 23,
        attributes: &[
            ("is_causal", INT),
            ("kv_num_heads", INT),
            ("q_num_heads", INT),
            ("qk_matmul_output_mode", INT),
            ("scale", FLOAT),
            ("softcap", FLOAT),
            ("softmax_precision", INT),
        ],
        ..operator("Attention", 3..=6)
    },
    Operator { attributes: &[("to", INT), ("saturate", INT)], required: 1, ..operator("Cast", 1..=1) },
    Operator { attributes: &[("axis", INT)], required: 1, ..operator("Concat", 1..=usize::MAX) },
    Operator { attributes: &[("axis", INT), ("block_size", INT)], ..operator("DequantizeLinear", 2..=3) },
    operator("Div", 2..=2),
    operator("Expand", 2..=2),
    Operator { attributes: &[("axis", INT)], ..operator("Gather", 2..=2) },
    Operator {
        domain: "com.microsoft",
        attributes: &[("bits", INT), ("block_size", INT), ("gather_axis", INT), ("quantize_axis", INT)],
        ..operator("GatherBlockQuantized", 3..=4)
    },
    Operator {
        attributes: &[("alpha", FLOAT), ("beta", FLOAT), ("transA", INT), ("transB", INT)],
        ..operator("Gemm", 2..=3)
    },
    operator("LessOrEqual", 2..=2),
    operator("MatMul", 2..=2),
    Operator {
        domain: "com.microsoft",
        attributes: &[("K", INT), ("N", INT), ("block_size", INT), ("bits", INT), ("accuracy_level", INT)],
        required: 3,
        ..operator("MatMulNBits", 3..=6)
    },
    operator("Mul", 2..=2),
    operator("Neg", 1..=1),
    operator("Pow", 2..=2),
    Operator {
        since: 23,
        attributes: &[("axis", INT), ("epsilon", FLOAT), ("stash_type", INT)],
        ..operator("RMSNormalization", 2..=2)
    },
    operator("Range", 3..=3),
    Operator {
        attributes: &[("keepdims", INT), ("noop_with_empty_axes", INT)],
        ..operator("ReduceMean", 1..=2)
    },
    operator("Relu", 1..=1),
    Operator { attributes: &[("allowzero", INT)], ..operator("Reshape", 2..=2) },
    Operator {
        since: 23,
        attributes: &[("interleaved", INT), ("num_heads", INT), ("rotary_embedding_dim", INT)],
        ..operator("RotaryEmbedding", 3..=4)
    },
    Operator { attributes: &[("start", INT), ("end", INT)], ..operator("Shape", 1..=1) },
    operator("Slice", 3..=5),
    Operator { attributes: &[("axis", INT)], ..operator("Softmax", 1..=1) },
    Operator { attributes: &[("axis", INT), ("num_outputs", INT)], ..operator("Split", 1..=2) },
    operator("Sqrt", 1..=1),
    operator("Sub", 2..=2),
    Operator { attributes: &[("perm", INTS)], ..operator("Transpose", 1..=1) },
    operator("Unsqueeze", 2..=2),
    operator("Where", 3..=3),
];

#[test]
fn nodes_are_what_their_operators_define() {
    let mut seen = BTreeSet::new();
    let model = tiny_plm();
    for spec in variants::all(&model) {
        let official = decoded(&build(&model, &spec).expect("builds"));
        for node in &official.graph.node {
            let is_it = |o: &&Operator| (o.domain, o.name) == (&node.domain, &node.op_type);
            let operator = OPERATORS.iter().find(is_it);
            let operator = operator.unwrap_or_else(|| panic!("{}: an operator {}", node.name, node.op_type));
            assert!(operator.since <= spec.opset.version(), "{} in opset {:?}", node.op_type, spec.opset);
            assert!(operator.inputs.contains(&node.input.len()), "{}: {:?}", node.name, node.input);
            for attribute in &node.attribute {
                let kind = operator.attributes.iter().find(|(name, _)| *name == attribute.name);
                let meant = kind.map(|(_, kind)| Ok(*kind));
                assert_eq!(Some(attribute.type_.enum_value()), meant, "{}: {}", node.name, attribute.name);
            }
            for (name, _) in &operator.attributes[..operator.required] {
                assert!(node.attribute.iter().any(|a| a.name == *name), "{}: no {name}", node.name);
            }
            seen.insert(operator.name);
        }
    }
    let unused: Vec<_> = OPERATORS.iter().map(|o| o.name).filter(|name| !seen.contains(name)).collect();
    assert!(unused.is_empty(), "the table has operators that no export uses: {unused:?}");
}

/// The other direction: [`OnnxFile`] reads what the official schema writes, with fields that no export of ours has.
#[test]
fn what_the_official_schema_writes_is_read() {
    let tensor = |name: &str, element: DataType| official::TensorProto {
        name: name.into(),
        data_type: element as i32,
        dims: vec![2, 3],
        doc_string: "a tensor".into(),
        ..Default::default()
    };
    let graph = official::GraphProto {
        name: "another".into(),
        doc_string: "a graph".into(),
        node: vec![official::NodeProto {
            op_type: "Constant".into(),
            domain: "example.org".into(),
            attribute: vec![official::AttributeProto {
                name: "value".into(),
                type_: AttributeType::TENSOR.into(),
                t: Some(official::TensorProto { float_data: vec![0.5; 6], ..tensor("c", DataType::FLOAT) })
                    .into(),
                ..Default::default()
            }],
            ..Default::default()
        }],
        initializer: vec![
            official::TensorProto { float_data: vec![1.0; 6], ..tensor("floats", DataType::FLOAT) },
            official::TensorProto { int32_data: vec![1; 6], ..tensor("bytes", DataType::UINT8) },
            official::TensorProto { raw_data: vec![0; 3], ..tensor("nibbles", DataType::INT4) },
        ],
        ..Default::default()
    };
    let model = official::ModelProto {
        ir_version: 10,
        producer_name: "another".into(),
        domain: "org.example".into(),
        model_version: 7,
        graph: Some(graph).into(),
        functions: vec![official::FunctionProto { name: "f".into(), ..Default::default() }],
        opset_import: vec![official::OperatorSetIdProto { version: 21, ..Default::default() }],
        ..Default::default()
    };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, model.write_to_bytes().expect("encodes")).expect("write");

    let file = OnnxFile::open(&path).expect("opens");
    assert_eq!((file.ir_version, file.producer.as_str()), (10, "another"));
    assert_eq!(file.opsets, BTreeMap::from([("ai.onnx".to_string(), 21)]));
    assert_eq!(file.operators, BTreeMap::from([("example.org.Constant".to_string(), 1)]));
    let found: Vec<_> =
        file.initializers.iter().map(|i| (i.name.as_str(), i.element, i.shape.as_slice(), i.bytes)).collect();
    let shape = [2, 3].as_slice();
    // Numbers in int32_data are varints.
    assert_eq!(found, [("floats", "F32", shape, 24), ("bytes", "U8", shape, 6), ("nibbles", "I4", shape, 3)]);
}

/// Element types by the official numbers.
#[test]
fn element_types_have_their_names() {
    let named = [
        (DataType::FLOAT, "F32"),
        (DataType::UINT8, "U8"),
        (DataType::INT8, "I8"),
        (DataType::UINT16, "U16"),
        (DataType::INT16, "I16"),
        (DataType::INT32, "I32"),
        (DataType::INT64, "I64"),
        (DataType::STRING, "string"),
        (DataType::BOOL, "bool"),
        (DataType::FLOAT16, "F16"),
        (DataType::DOUBLE, "F64"),
        (DataType::UINT32, "U32"),
        (DataType::UINT64, "U64"),
        (DataType::BFLOAT16, "BF16"),
        (DataType::UINT4, "U4"),
        (DataType::INT4, "I4"),
        (DataType::COMPLEX64, "another type"),
    ];
    let initializers = named.iter().map(|(element, name)| official::TensorProto {
        name: name.to_string(),
        data_type: *element as i32,
        ..Default::default()
    });
    let graph = official::GraphProto { initializer: initializers.collect(), ..Default::default() };
    let model = official::ModelProto { graph: Some(graph).into(), ..Default::default() };
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("model.onnx");
    std::fs::write(&path, model.write_to_bytes().expect("encodes")).expect("write");
    for initializer in OnnxFile::open(&path).expect("opens").initializers {
        assert_eq!(initializer.element, initializer.name);
    }
}
