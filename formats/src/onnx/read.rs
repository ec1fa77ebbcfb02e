//! What an ONNX file holds, without its weights: interface, operators, initializers and where their bytes lie.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use prost::Message;

use super::layers::MICROSOFT;
use super::node::Node;
use super::proto::{DimensionProto, OperatorSetIdProto, StringStringEntryProto, ValueInfoProto};
use super::spec::Profile;
use super::wire::{Field, Payload, Wire};
use crate::error::{Error, Result};
use crate::limits::{self, MAX_AXES, MAX_TENSORS};
use crate::source::InputFile;

/// The longest name or string that is read.
const MAX_STRING: u64 = 64 << 10;
/// The longest interface entry, opset or pair that is read whole.
const MAX_MESSAGE: u64 = 64 << 10;
/// Inputs or outputs of the graph: some per layer.
const MAX_PORTS: usize = 1 << 15;
/// Kinds of operators, and of sets of them. The standard and ONNX Runtime have some hundred.
const MAX_OPERATORS: usize = 1 << 12;

/// An ONNX model.
#[derive(Debug, Default)]
pub struct OnnxFile {
    /// The path it was opened by.
    pub path: PathBuf,
    /// Version of the format itself, apart from the operators'.
    pub ir_version: u64,
    /// Name and version of what wrote it.
    pub producer: String,
    /// `metadata_props`, in file order.
    pub metadata: Vec<(String, String)>,
    /// Version per domain; the default domain is called `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// Of the graph, in file order.
    pub inputs: Vec<Port>,
    /// Of the graph, in file order.
    pub outputs: Vec<Port>,
    /// How many nodes there are of each operator, with its domain if that is not the default.
    pub operators: BTreeMap<String, usize>,
    /// Stored tensors, in file order.
    pub initializers: Vec<Initializer>,
    /// Weights in blocks, as nodes read them; in node order, each once.
    pub blocks: Vec<Blocks>,
    /// Bytes of the graph and of all files it refers to.
    pub file_bytes: u64,
}

/// An input or output of the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name clients use.
    pub name: String,
    /// The element type as this project calls it: `F32`, `I64`.
    pub element: &'static str,
    /// Numbers, or names of open dimensions.
    pub shape: Vec<String>,
}

/// A stored tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Initializer {
    /// The name nodes use.
    pub name: String,
    /// The element type as this project calls it: `F32`, `U4`.
    pub element: &'static str,
    /// Row-major: the slowest axis first.
    pub shape: Vec<usize>,
    /// Bytes of its values as they are stored.
    pub bytes: u64,
    /// Where its bytes lie, if not in the graph itself.
    pub external: Option<External>,
}

/// A place in a file beside the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// Relative to the graph's folder.
    pub file: String,
    /// Bytes from the start of the file.
    pub offset: u64,
}

impl Initializer {
    /// A shape, an index, a factor: too small to be a weight.
    pub fn is_constant(&self) -> bool {
        self.external.is_none()
            && self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim)).is_some_and(|n| n <= 64)
    }
}

/// A weight in blocks: `rows x cols` values in codes, scales and, if asymmetric, zero points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    pub codes: String,
    pub scales: String,
    pub zero_points: Option<String>,
    pub rows: usize,
    pub cols: usize,
    pub bits: usize,
    pub block_size: usize,
}

impl OnnxFile {
    /// Reads everything but the weights and checks that external data is there.
    ///
    /// # Errors
    /// What is not an ONNX model, and external data that is missing, too short or outside the model's folder.
    pub fn open(path: &Path) -> Result<OnnxFile> {
        let file = InputFile::open(path)?;
        let len = file.len();
        let mut reader = Reader {
            wire: Wire::new(Arc::clone(&file)),
            model: OnnxFile { path: path.into(), file_bytes: len, ..OnnxFile::default() },
            external: HashMap::new(),
            block_codes: BTreeSet::new(),
            has_graph: false,
        };
        reader.model(len)?;
        if !reader.has_graph {
            return Err(Error::Header { path: path.into(), detail: "no graph: not an ONNX model".into() });
        }
        let Reader { mut model, external, .. } = reader;
        model.file_bytes += external.values().sum::<u64>();
        Ok(model)
    }

    /// The profile whose inputs it has.
    pub fn profile(&self) -> Option<Profile> {
        let cache = |suffix: &str| {
            let name = format!("past_key_values.0.{suffix}");
            self.inputs.iter().find(|port| port.name == name)
        };
        if cache("latent").is_some() {
            return Some(Profile::Latent);
        }
        let (key, value) = (cache("key")?, cache("value")?);
        let one_head = key.shape.get(1).is_some_and(|heads| heads == "1");
        Some(if one_head && key.shape == value.shape { Profile::Genai } else { Profile::Hf })
    }
}

/// Reads one file.
struct Reader {
    wire: Wire,
    model: OnnxFile,
    /// Lengths of the files that the graph refers to.
    external: HashMap<String, u64>,
    block_codes: BTreeSet<String>,
    has_graph: bool,
}

impl Reader {
    /// ModelProto.
    fn model(&mut self, end: u64) -> Result<()> {
        let (mut producer, mut version) = (String::new(), String::new());
        while let Some(Field { number, payload }) = self.wire.field(end)? {
            match (number, payload) {
                (1, Payload::Number(n)) => self.model.ir_version = n,
                (2, Payload::Bytes { end }) => producer = self.string(end)?,
                (3, Payload::Bytes { end }) => version = self.string(end)?,
                (7, Payload::Bytes { end }) => {
                    self.has_graph = true;
                    self.graph(end)?;
                }
                (8, Payload::Bytes { end }) => {
                    let opset: OperatorSetIdProto = self.message(end)?;
                    let domain = opset.domain.filter(|d| !d.is_empty()).unwrap_or("ai.onnx".into());
                    self.model.opsets.insert(domain, opset.version.unwrap_or_default());
                    self.check("operator sets", self.model.opsets.len(), MAX_OPERATORS)?;
                }
                (14, Payload::Bytes { end }) => {
                    let entry: StringStringEntryProto = self.message(end)?;
                    self.model
                        .metadata
                        .push((entry.key.unwrap_or_default(), entry.value.unwrap_or_default()));
                }
                (_, payload) => self.skip(payload),
            }
        }
        self.model.producer = format!("{producer} {version}").trim().into();
        Ok(())
    }

    /// GraphProto.
    fn graph(&mut self, end: u64) -> Result<()> {
        while let Some(Field { number, payload }) = self.wire.field(end)? {
            match (number, payload) {
                (1, Payload::Bytes { end }) => {
                    let node = Node::read(&mut self.wire, end)?;
                    self.node(node)?;
                }
                (5, Payload::Bytes { end }) => self.initializer(end)?,
                (11, Payload::Bytes { end }) => {
                    let port = self.port(end)?;
                    self.model.inputs.push(port);
                    self.check("inputs", self.model.inputs.len(), MAX_PORTS)?;
                }
                (12, Payload::Bytes { end }) => {
                    let port = self.port(end)?;
                    self.model.outputs.push(port);
                    self.check("outputs", self.model.outputs.len(), MAX_PORTS)?;
                }
                (_, payload) => self.skip(payload),
            }
        }
        Ok(())
    }

    fn node(&mut self, node: Node) -> Result<()> {
        let full = match node.domain.as_str() {
            "" => node.operator.clone(),
            domain => format!("{domain}.{}", node.operator),
        };
        *self.model.operators.entry(full).or_default() += 1;
        self.check("kinds of operators", self.model.operators.len(), MAX_OPERATORS)?;
        let weight = match (node.domain.as_str(), node.operator.as_str()) {
            (MICROSOFT, "MatMulNBits") => nbits(&node),
            ("", "DequantizeLinear") => qdq(&node),
            _ => None,
        };
        if let Some(weight) = weight
            && self.block_codes.insert(weight.codes.clone())
        {
            self.model.blocks.push(weight);
            self.check("weights in blocks", self.model.blocks.len(), MAX_TENSORS)?;
        }
        Ok(())
    }

    fn port(&mut self, end: u64) -> Result<Port> {
        let port = port(self.message(end)?);
        self.check("axes of a tensor", port.shape.len(), MAX_AXES)?;
        Ok(port)
    }

    fn check(&self, what: &'static str, count: usize, limit: usize) -> Result<()> {
        limits::check(&self.model.path, what, count, limit)
    }

    /// TensorProto: everything but its values.
    fn initializer(&mut self, end: u64) -> Result<()> {
        let (mut name, mut element, mut shape, mut inline) = (String::new(), 0, Vec::new(), 0);
        let mut external: HashMap<String, String> = HashMap::new();
        self.check("tensors", self.model.initializers.len() + 1, MAX_TENSORS)?;
        while let Some(Field { number, payload }) = self.wire.field(end)? {
            match (number, payload) {
                (1, Payload::Number(n)) => shape.push(n),
                (1, Payload::Bytes { end }) => {
                    while self.wire.position() < end && shape.len() <= MAX_AXES {
                        shape.push(self.wire.varint(end)?);
                    }
                    self.wire.skip_to(end);
                }
                (2, Payload::Number(n)) => element = n,
                (8, Payload::Bytes { end }) => name = self.string(end)?,
                (13, Payload::Bytes { end }) => {
                    let entry: StringStringEntryProto = self.message(end)?;
                    let key = entry.key.unwrap_or_default();
                    if ["location", "offset", "length"].contains(&key.as_str()) {
                        external.insert(key, entry.value.unwrap_or_default());
                    }
                }
                (4..=7 | 9..=11, Payload::Bytes { end }) => {
                    inline += end - self.wire.position();
                    self.wire.skip_to(end);
                }
                (_, payload) => self.skip(payload),
            }
            self.check("axes of a tensor", shape.len(), MAX_AXES)?;
        }
        if name.is_empty() {
            return Err(self.wire.malformed("an initializer has no name".into()));
        }
        let shape = shape.iter().map(|&n| usize::try_from(n).ok().filter(|_| n as i64 >= 0));
        let Some(shape) = shape.collect::<Option<Vec<usize>>>() else {
            return Err(self.wire.malformed(format!("`{name}` has a negative dimension")));
        };
        let (bytes, external) = match external.is_empty() {
            true => (inline, None),
            false => {
                let (bytes, place) = self.external(&name, &external)?;
                (bytes, Some(place))
            }
        };
        let element = element_name(element);
        self.model.initializers.push(Initializer { name, element, shape, bytes, external });
        Ok(())
    }

    /// How many bytes of a tensor lie where in another file, which has to hold them.
    fn external(&mut self, tensor: &str, entries: &HashMap<String, String>) -> Result<(u64, External)> {
        let location = entries.get("location").map(String::as_str).unwrap_or_default();
        let inside = Path::new(location).components().all(|c| matches!(c, Component::Normal(_)));
        if location.is_empty() || !inside {
            let detail = format!("`{tensor}` lies in `{location}`, which is not a file beside the graph");
            return Err(self.wire.malformed(detail));
        }
        let path = crate::atomic::parent(&self.model.path).join(location);
        let len = match self.external.get(location) {
            Some(&len) => len,
            None => {
                let len = InputFile::open(&path)?.len();
                self.external.insert(location.into(), len);
                len
            }
        };
        let number = |key: &str, default: u64| match entries.get(key) {
            Some(text) => text.parse().ok(),
            None => Some(default),
        };
        let offset = number("offset", 0);
        let length = offset.and_then(|offset| number("length", len.saturating_sub(offset)));
        let (Some(offset), Some(length)) = (offset, length) else {
            return Err(self.wire.malformed(format!("`{tensor}`: offset or length is not a number")));
        };
        match offset.checked_add(length) {
            Some(end) if end <= len => Ok((length, External { file: location.into(), offset })),
            end => {
                let what = format!("tensor `{tensor}`");
                Err(Error::Truncated { path, what, end: end.unwrap_or(u64::MAX), len })
            }
        }
    }

    fn skip(&mut self, payload: Payload) {
        if let Payload::Bytes { end } = payload {
            self.wire.skip_to(end);
        }
    }

    fn string(&mut self, end: u64) -> Result<String> {
        self.wire.string(end, MAX_STRING)
    }

    fn message<M: Message + Default>(&mut self, end: u64) -> Result<M> {
        let bytes = self.wire.bytes(end, MAX_MESSAGE)?;
        M::decode(bytes.as_slice()).map_err(|e| self.wire.malformed(e.to_string()))
    }
}

/// `MatMulNBits(x, codes, scales, zero points)`.
fn nbits(node: &Node) -> Option<Blocks> {
    Some(Blocks {
        codes: node.input(1)?.into(),
        scales: node.input(2)?.into(),
        zero_points: node.input(3).map(str::to_string),
        rows: node.attribute("N")?,
        cols: node.attribute("K")?,
        bits: node.attribute("bits").unwrap_or(4),
        block_size: node.attribute("block_size")?,
    })
}

/// `DequantizeLinear(codes, scales, zero points)`; rows and columns follow from the codes' shape.
fn qdq(node: &Node) -> Option<Blocks> {
    Some(Blocks {
        codes: node.input(0)?.into(),
        scales: node.input(1)?.into(),
        zero_points: node.input(2).map(str::to_string),
        rows: 0,
        cols: 0,
        bits: 0,
        block_size: node.attribute("block_size").filter(|&size| size > 0)?,
    })
}

fn port(proto: ValueInfoProto) -> Port {
    let tensor = proto.r#type.and_then(|t| t.tensor_type);
    let element = tensor.as_ref().and_then(|t| t.elem_type).unwrap_or_default();
    let dims = tensor.and_then(|t| t.shape).map(|s| s.dim).unwrap_or_default();
    let shape =
        dims.into_iter().map(|DimensionProto { dim_value, dim_param }| match (dim_value, dim_param) {
            (Some(n), _) => n.to_string(),
            (None, Some(name)) => name,
            (None, None) => "?".into(),
        });
    Port {
        name: proto.name.unwrap_or_default(),
        element: element_name(u64::try_from(element).unwrap_or_default()),
        shape: shape.collect(),
    }
}

/// The name of a `TensorProto.DataType`, as this project calls types.
fn element_name(element: u64) -> &'static str {
    match element {
        1 => "F32",
        2 => "U8",
        3 => "I8",
        4 => "U16",
        5 => "I16",
        6 => "I32",
        7 => "I64",
        8 => "string",
        9 => "bool",
        10 => "F16",
        11 => "F64",
        12 => "U32",
        13 => "U64",
        16 => "BF16",
        21 => "U4",
        22 => "I4",
        _ => "another type",
    }
}
