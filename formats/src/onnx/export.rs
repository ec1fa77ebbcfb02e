//! The whole graph of a model: interface, shared values, layers, head.

use prost::Message;

use super::attention::attention;
use super::data::{DataItem, Literal};
use super::graph::{Attr, GraphBuilder, element};
use super::layers::{Network, additive_mask, embed, ffn, head, rope_tables};
use super::proto::*;
use super::spec::{BlockFormat, ExportSpec, Profile, QuantFormat, WeightFormat};
use crate::error::{Error, Result};
use crate::model::{Config, Model, Role, TensorKey};

/// What an export's `producer_name` says.
pub(super) const PRODUCER: &str = "plmconv";

/// A finished graph and what belongs into its external data.
#[derive(Debug)]
pub struct Export {
    /// The encoded ModelProto.
    pub model: Vec<u8>,
    /// Weights in external data, in the order of their places.
    pub items: Vec<DataItem>,
    /// Constants in external data.
    pub literals: Vec<Literal>,
    /// Length of each external data file, see [`ExportSpec::data_name`].
    pub data_bytes: Vec<u64>,
}

/// One tensor of the graph's interface.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Interface {
    name: String,
    element: ElementType,
    dims: Vec<Dim>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Dim {
    Fixed(usize),
    Named(&'static str),
}

/// A layer's cache tensors.
struct CachePart {
    suffix: &'static str,
    heads: usize,
    width: usize,
}

/// Builds the graph of `model`.
///
/// # Errors
/// A profile that cannot hold the model's shape.
pub fn build(model: &Model, spec: &ExportSpec) -> Result<Export> {
    let config = &model.config;
    check(model, spec)?;
    let mut graph = GraphBuilder::new(spec);
    let mut net = preamble(&mut graph, model);
    let mut x = embed(&mut graph, &net.network);
    for layer in 0..config.num_hidden_layers {
        x = attention(&mut graph, &net.network, layer, &x);
        x = ffn(&mut graph, &net.network, layer, &x);
    }
    let (batch, sequence) = (std::mem::take(&mut net.batch), std::mem::take(&mut net.sequence));
    head(&mut graph, &net.network, &x, &batch, &sequence);

    let (inputs, outputs) = interface(config, spec);
    let GraphBuilder { nodes, initializers, items, literals, places, .. } = graph;
    let proto = ModelProto {
        ir_version: Some(spec.opset.ir_version()),
        producer_name: Some(PRODUCER.into()),
        producer_version: Some(spec.producer_version.clone()),
        graph: Some(GraphProto {
            node: nodes,
            name: Some("plm".into()),
            initializer: initializers,
            input: inputs.iter().map(Interface::to_proto).collect(),
            output: outputs.iter().map(Interface::to_proto).collect(),
        }),
        opset_import: opsets(spec),
        metadata_props: spec
            .metadata
            .iter()
            .map(|(key, text)| StringStringEntryProto::new(key, text))
            .collect(),
    };
    Ok(Export { model: proto.encode_to_vec(), items, literals, data_bytes: places.file_bytes })
}

fn check(model: &Model, spec: &ExportSpec) -> Result<()> {
    let width = model.config.latent_dim();
    if spec.profile == Profile::Genai && !width.is_multiple_of(2) {
        return Err(Error::Inexpressible {
            path: model.path().to_path_buf(),
            target: "genai",
            what: format!("a latent of {width} values (it is cut into two equal halves)"),
        });
    }
    check_pairs(model, spec)
}

/// Two 4-bit codes of neighbouring rows share a byte of a transposed tensor.
fn check_pairs(model: &Model, spec: &ExportSpec) -> Result<()> {
    if spec.quant_format != QuantFormat::Qdq {
        return Ok(());
    }
    let config = &model.config;
    let is_odd = |key: &TensorKey| match (key.role, spec.profile) {
        // Looked up by row, so it is stored as for MatMulNBits.
        (Role::TokenEmbedding, _) => false,
        (Role::KvB, Profile::Latent | Profile::Genai) => config.kv_lora_rank % 2 + config.v_head_dim % 2 > 0,
        _ => model.tensor(*key).is_some_and(|tensor| !tensor.source.rows().is_multiple_of(2)),
    };
    let four_bits = |key| matches!(spec.weight(key), WeightFormat::Block(BlockFormat { bits: 4, .. }));
    match model.tensors.iter().map(|t| t.key).find(|key| four_bits(*key) && is_odd(key)) {
        Some(key) => Err(Error::Inexpressible {
            path: model.path().to_path_buf(),
            target: "qdq",
            what: format!("`{}` in 4 bits: its number of rows is odd", key.gguf_name()),
        }),
        None => Ok(()),
    }
}

fn opsets(spec: &ExportSpec) -> Vec<OperatorSetIdProto> {
    let entry =
        |domain: &str, version| OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) };
    let mut opsets = vec![entry("", spec.opset.version())];
    if spec.weights.values().any(|w| matches!(w, WeightFormat::Block(_))) {
        opsets.push(entry(super::layers::MICROSOFT, 1));
    }
    opsets
}

struct Preamble<'m> {
    network: Network<'m>,
    batch: String,
    sequence: String,
}

/// Values that every layer uses: shapes, mask, RoPE.
fn preamble<'m>(g: &mut GraphBuilder<'_>, model: &'m Model) -> Preamble<'m> {
    let scope = "/model/shape";
    let dimension = |axis| [("start", Attr::Int(axis)), ("end", Attr::Int(axis + 1))];
    let batch = g.op(scope, "Shape", &["input_ids"], &dimension(0));
    let sequence = g.op(scope, "Shape", &["input_ids"], &dimension(1));
    let along = [("axis", Attr::Int(0))];
    let rest = g.ints(&[model.config.num_attention_heads as i64, -1]);
    let head_shape = g.op(scope, "Concat", &[&batch, &sequence, &rest], &along);
    let (one, open) = (g.ints(&[1]), g.ints(&[-1]));
    let shared_key_shape = g.op(scope, "Concat", &[&batch, &one, &sequence, &open], &along);
    let mask = additive_mask(g, &sequence);
    let rope = rope_tables(g, &model.config);
    Preamble { network: Network { model, mask, rope, head_shape, shared_key_shape }, batch, sequence }
}

fn cache_parts(config: &Config, profile: Profile) -> Vec<CachePart> {
    let latent = config.latent_dim();
    let part = |suffix, heads, width| CachePart { suffix, heads, width };
    match profile {
        Profile::Latent => vec![part("latent", 1, latent)],
        Profile::Genai => vec![part("key", 1, latent / 2), part("value", 1, latent / 2)],
        Profile::Hf => {
            let heads = config.num_attention_heads;
            vec![part("key", heads, config.qk_head_dim()), part("value", heads, config.v_head_dim)]
        }
    }
}

/// Inputs and outputs, in the order clients list them.
fn interface(config: &Config, spec: &ExportSpec) -> (Vec<Interface>, Vec<Interface>) {
    use Dim::{Fixed, Named};
    let tensor =
        |name: &str, element, dims: &[Dim]| Interface { name: name.into(), element, dims: dims.to_vec() };
    let int = ElementType::Int64;
    let (batch, sequence) = (Named("batch_size"), Named("sequence_length"));
    let total = Named("total_sequence_length");
    let mut inputs = vec![
        tensor("input_ids", int, &[batch.clone(), sequence.clone()]),
        tensor("attention_mask", int, &[batch.clone(), total.clone()]),
        tensor("position_ids", int, &[batch.clone(), sequence.clone()]),
    ];
    if spec.num_logits_to_keep {
        inputs.push(tensor("num_logits_to_keep", int, &[]));
    }
    let kept = if spec.num_logits_to_keep { Named("num_logits") } else { sequence };
    let logits = [batch.clone(), kept, Fixed(config.vocab_size)];
    let mut outputs = vec![tensor("logits", ElementType::Float, &logits)];
    let cache = element(spec.float);
    for layer in 0..config.num_hidden_layers {
        for part in cache_parts(config, spec.profile) {
            let dims = |length: Dim| [batch.clone(), Fixed(part.heads), length, Fixed(part.width)];
            let past = format!("past_key_values.{layer}.{}", part.suffix);
            inputs.push(tensor(&past, cache, &dims(Named("past_sequence_length"))));
            let present = format!("present.{layer}.{}", part.suffix);
            outputs.push(tensor(&present, cache, &dims(total.clone())));
        }
    }
    (inputs, outputs)
}

impl Interface {
    fn to_proto(&self) -> ValueInfoProto {
        let dim = self
            .dims
            .iter()
            .map(|dim| match dim {
                Dim::Fixed(n) => DimensionProto { dim_value: Some(*n as i64), dim_param: None },
                Dim::Named(name) => DimensionProto { dim_value: None, dim_param: Some(name.to_string()) },
            })
            .collect();
        ValueInfoProto {
            name: Some(self.name.clone()),
            r#type: Some(TypeProto {
                tensor_type: Some(TensorTypeProto {
                    elem_type: Some(self.element as i32),
                    shape: Some(TensorShapeProto { dim }),
                }),
            }),
        }
    }
}

impl Export {
    /// Bytes of the graph and all external data.
    pub fn total_bytes(&self) -> u64 {
        self.model.len() as u64 + self.data_bytes.iter().sum::<u64>()
    }
}
