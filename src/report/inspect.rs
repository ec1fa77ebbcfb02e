//! What a file holds.

use std::borrow::Cow;
use std::collections::BTreeMap;

use anyhow::Result;
use plmconv_formats::Config;
use plmconv_formats::gguf::{self, Value};
use plmconv_formats::model::TensorKey;
use plmconv_formats::onnx::OnnxFile;
use serde::{Serialize, Serializer};

use super::graph::{self, GraphJson};
use super::layers::{Group, grouped};
use super::{Table, human_bytes, human_shape, print_columns, print_document, print_json};
use crate::layouts::{self, LayoutSizes};
use crate::terminal::one_line;

/// Characters of a metadata value that are shown without `--verbose`.
const SHORT_VALUE: usize = 72;

/// A model file or folder, as far as its headers tell.
#[derive(Debug)]
pub struct Inspection {
    pub path: String,
    pub format: &'static str,
    pub architecture: Option<String>,
    pub file_bytes: u64,
    pub tensors: Vec<TensorLine>,
    pub metadata: Metadata,
    pub config: Option<Config>,
    pub onnx: Option<OnnxFile>,
}

/// What a file says besides its tensors, as it was read: a vocabulary is not copied to be counted.
#[derive(Debug)]
pub enum Metadata {
    Gguf(gguf::Metadata),
    Texts(Vec<(String, String)>),
}

/// One value of a file's metadata.
#[derive(Clone, Copy)]
pub(super) enum MetadataValue<'a> {
    Gguf(&'a Value),
    Text(&'a str),
}

impl Metadata {
    fn iter(&self) -> Box<dyn Iterator<Item = (&str, MetadataValue<'_>)> + '_> {
        match self {
            Metadata::Gguf(pairs) => Box::new(pairs.iter().map(|(k, v)| (k, MetadataValue::Gguf(v)))),
            Metadata::Texts(pairs) => {
                Box::new(pairs.iter().map(|(k, v)| (k.as_str(), MetadataValue::Text(v))))
            }
        }
    }
}

impl Serialize for Metadata {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}

impl Serialize for MetadataValue<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = match *self {
            MetadataValue::Text(text) => return text.serialize(serializer),
            MetadataValue::Gguf(value) => value,
        };
        match value {
            Value::U8(v) => v.serialize(serializer),
            Value::I8(v) => v.serialize(serializer),
            Value::U16(v) => v.serialize(serializer),
            Value::I16(v) => v.serialize(serializer),
            Value::U32(v) => v.serialize(serializer),
            Value::I32(v) => v.serialize(serializer),
            Value::U64(v) => v.serialize(serializer),
            Value::I64(v) => v.serialize(serializer),
            Value::F32(v) => f64::from(*v).serialize(serializer),
            Value::F64(v) => v.serialize(serializer),
            Value::Bool(v) => v.serialize(serializer),
            Value::String(v) => v.serialize(serializer),
            Value::Array(array) => serializer.collect_seq(array.values.iter().map(MetadataValue::Gguf)),
        }
    }
}

/// One tensor.
#[derive(Clone, Debug)]
pub struct TensorLine {
    pub name: String,
    /// What it is in a PLM, if its name is one of a PLM's.
    pub role: Option<TensorKey>,
    pub shape: Vec<usize>,
    pub dtype: Cow<'static, str>,
    pub bytes: u64,
}

#[derive(Serialize)]
struct InspectionJson<'a> {
    path: &'a str,
    format: &'a str,
    architecture: Option<&'a str>,
    file_bytes: u64,
    tensor_bytes: u64,
    parameters: u64,
    bits_per_weight: Option<f64>,
    tensors: TensorsJson<'a>,
    metadata: &'a Metadata,
    /// What `quantize q4` would give in each layout; empty for what is no PLM.
    layouts: Vec<LayoutSizes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    graph: Option<GraphJson<'a>>,
}

struct TensorsJson<'a>(&'a [TensorLine]);

impl Serialize for TensorsJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|t| TensorJson {
            name: &t.name,
            role: role_name(t),
            shape: &t.shape,
            dtype: &t.dtype,
            bytes: t.bytes,
        }))
    }
}

#[derive(Serialize)]
struct TensorJson<'a> {
    name: &'a str,
    role: Option<String>,
    shape: &'a [usize],
    #[serde(rename = "type")]
    dtype: &'a str,
    bytes: u64,
}

impl Inspection {
    /// What the model learned: of an ONNX export the tensors with a role, as its tables are computed.
    fn learned(&self) -> impl Iterator<Item = &TensorLine> {
        let only_roles = self.onnx.is_some() && self.tensors.iter().any(|t| t.role.is_some());
        self.tensors.iter().filter(move |t| !only_roles || t.role.is_some())
    }

    fn parameters(&self) -> u64 {
        // An ONNX graph's shapes are what the file says, not what its bytes hold.
        let values = |t: &TensorLine| t.shape.iter().fold(1u64, |all, &n| all.saturating_mul(n as u64));
        self.learned().map(values).fold(0, u64::saturating_add)
    }

    fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    fn bits_per_weight(&self) -> Option<f64> {
        let parameters = self.parameters();
        let bytes: u64 = self.learned().map(|t| t.bytes).sum();
        (parameters > 0).then(|| bytes as f64 * 8.0 / parameters as f64)
    }
}

/// Prints an inspection.
pub fn print(inspection: &Inspection, json: bool, verbose: bool) -> Result<()> {
    if json { print_document("inspection", &to_json(inspection)) } else { print_text(inspection, verbose) }
}

/// Prints one metadata value: a text as it is, all else as JSON.
pub fn print_value(value: &Value, json: bool) -> Result<()> {
    match value {
        Value::String(text) if !json => {
            say!("{text}");
            Ok(())
        }
        value => print_json(&MetadataValue::Gguf(value)),
    }
}

fn to_json(i: &Inspection) -> InspectionJson<'_> {
    InspectionJson {
        path: &i.path,
        format: i.format,
        architecture: i.architecture.as_deref(),
        file_bytes: i.file_bytes,
        tensor_bytes: i.tensor_bytes(),
        parameters: i.parameters(),
        bits_per_weight: i.bits_per_weight(),
        tensors: TensorsJson(&i.tensors),
        metadata: &i.metadata,
        layouts: i.config.as_ref().map(layouts::sizes).unwrap_or_default(),
        graph: i.onnx.as_ref().map(GraphJson::new),
    }
}

fn role_name(tensor: &TensorLine) -> Option<String> {
    let key = tensor.role?;
    Some(match key.layer {
        Some(layer) => format!("layer {layer} {}", key.role),
        None => key.role.to_string(),
    })
}

fn print_text(i: &Inspection, verbose: bool) -> Result<()> {
    say!("{}", one_line(&i.path));
    let architecture =
        i.architecture.as_deref().map(|a| format!(", architecture {}", one_line(a))).unwrap_or_default();
    say!("{}{architecture}", i.format);
    let bits = i.bits_per_weight().map(|b| format!(", {b:.2} bits per weight")).unwrap_or_default();
    say!("{} in {} tensors, {} parameters{bits}", human_bytes(i.file_bytes), i.tensors.len(), i.parameters());
    if let Some(config) = &i.config {
        print_config(config);
    }
    let mut metadata = i.metadata.iter().peekable();
    if metadata.peek().is_some() {
        say!("\nmetadata");
    }
    for (key, value) in metadata {
        say!("  {} = {}", one_line(key), shown(value, verbose)?);
    }
    if let Some(onnx) = &i.onnx {
        graph::print(onnx);
    }
    say!();
    print_tensors(&i.tensors, verbose);
    say!("\n{}", by_type(i));
    if let Some(config) = &i.config {
        print_layouts(&layouts::sizes(config));
    }
    Ok(())
}

/// Without `verbose`, those that differ in their layer alone on one line.
fn print_tensors(tensors: &[TensorLine], verbose: bool) {
    if verbose {
        return print_columns(["tensor", "role", "shape", "type", "bytes"], &[4], || {
            tensors.iter().map(|t| {
                let role = role_name(t).unwrap_or_default();
                [t.name.clone(), role, human_shape(&t.shape), t.dtype.to_string(), t.bytes.to_string()]
            })
        });
    }
    let groups = grouped(tensors);
    print_columns(["tensor", "role", "shape", "type", "tensors", "bytes"], &[4, 5], || {
        groups.iter().map(Group::row)
    });
}

/// What to expect of `quantize q4` in each layout.
fn print_layouts(sizes: &[LayoutSizes]) {
    say!("\nas q4: tensors, and with an f16 cache in llama.cpp");
    let mut rows =
        Table::new(&["layout", "tensors", "cache/token", "1k", "4k", "32k", "runs in"], &[1, 2, 3, 4, 5]);
    for s in sizes {
        let with_cache = |tokens| human_bytes(s.with_cache(tokens));
        rows.add_row([
            s.layout,
            &human_bytes(s.tensor_bytes),
            &human_bytes(s.cache_bytes_per_token),
            &with_cache(1 << 10),
            &with_cache(4 << 10),
            &with_cache(32 << 10),
            s.runs_in(),
        ]);
    }
    rows.print();
}

fn print_config(c: &Config) {
    say!(
        "{} layers, hidden {}, FFN {}, {} heads, kv_lora_rank {}, q_lora_rank {}, \
         qk_nope {} + qk_rope {}, v {}, vocabulary {}, context {}",
        c.num_hidden_layers,
        c.hidden_size,
        c.intermediate_size,
        c.num_attention_heads,
        c.kv_lora_rank,
        c.q_lora_rank.map_or("none".into(), |n| n.to_string()),
        c.qk_nope_head_dim,
        c.qk_rope_head_dim,
        c.v_head_dim,
        c.vocab_size,
        c.max_position_embeddings
    );
}

/// A metadata value on one line; long ones are cut unless `verbose`.
pub(super) fn shown(value: MetadataValue<'_>, verbose: bool) -> Result<String> {
    if verbose {
        return Ok(serde_json::to_string(&value)?);
    }
    let text = match value {
        MetadataValue::Gguf(Value::Array(array)) => return Ok(format!("[{} values]", array.values.len())),
        MetadataValue::Gguf(Value::String(text)) => text.as_str(),
        MetadataValue::Text(text) => text,
        MetadataValue::Gguf(other) => return Ok(serde_json::to_string(&MetadataValue::Gguf(other))?),
    };
    // Cut before it is quoted: it may be a whole chat template.
    let start: String = text.chars().take(SHORT_VALUE).collect();
    let text = serde_json::to_string(&start)?;
    if text.chars().count() <= SHORT_VALUE {
        return Ok(text);
    }
    Ok(text.chars().take(SHORT_VALUE - 1).chain(['…']).collect())
}

fn by_type(i: &Inspection) -> String {
    let mut sums: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for t in &i.tensors {
        let sum = sums.entry(&t.dtype).or_default();
        sum.0 += 1;
        sum.1 += t.bytes;
    }
    let parts: Vec<_> =
        sums.iter().map(|(name, (n, bytes))| format!("{n} {name} ({})", human_bytes(*bytes))).collect();
    format!("by type: {}", parts.join(", "))
}
