//! The parts every profile shares: norms, linear layers, RoPE, the mask, the FFN, embedding and head.

use std::sync::Arc;

use super::graph::{Attr, BlockPart, GraphBuilder, Value};
use super::proto::ElementType;
use super::spec::{BlockFormat, Opset, QuantFormat, WeightFormat};
use crate::DType;
use crate::model::{Config, Model, Role, Tensor, TensorKey, rotations};
use crate::source::RowSource;

pub(super) const MICROSOFT: &str = "com.microsoft";

/// What the layers read: the model, and the values that are computed once for all of them.
#[derive(Debug)]
pub(super) struct Network<'m> {
    pub model: &'m Model,
    /// Additive mask, `[batch, 1, sequence, total]`.
    pub mask: Value,
    pub rope: Rope,
    /// `[batch, sequence, heads, -1]`
    pub head_shape: Value,
    /// `[batch, 1, sequence, -1]`
    pub shared_key_shape: Value,
}

/// Tables or angles that rotate queries and keys.
#[derive(Debug)]
pub(super) enum Rope {
    /// cos and signed sin per position, `[batch, 1, sequence, rope]`, and the index that swaps neighbours.
    Elementary { cos: Value, sin: Value, swap: Value },
    /// Caches `[max_position_embeddings, rope / 2]` and the positions, for the operator.
    Operator { cos: Value, sin: Value, positions: Value },
}

impl Network<'_> {
    pub(super) fn config(&self) -> &Config {
        &self.model.config
    }

    pub(super) fn tensor(&self, key: TensorKey) -> &Tensor {
        self.model.tensor(key).expect("an opened model has every tensor its config expects")
    }
}

/// The initializer name of a weight: the checkpoint's.
pub(super) fn weight_name(key: TensorKey) -> String {
    key.hugging_face_name().unwrap_or_else(|| key.gguf_name())
}

/// `model.layers.3.self_attn.q_proj.weight` → `/model/layers.3/self_attn/q_proj`.
pub(super) fn scope_of(key: TensorKey) -> String {
    let name = weight_name(key);
    let path = name.trim_end_matches(".weight");
    match key.layer {
        Some(layer) => {
            let prefix = format!("model.layers.{layer}.");
            let rest = path.strip_prefix(&prefix).unwrap_or(path).replace('.', "/");
            format!("/model/layers.{layer}/{rest}")
        }
        None => format!("/{}", path.replace('.', "/")),
    }
}

/// RMSNorm over the last axis, accumulated in f32.
pub(super) fn rms_norm(g: &mut GraphBuilder<'_>, net: &Network<'_>, key: TensorKey, x: &str) -> Value {
    let scope = scope_of(key);
    let tensor = net.tensor(key);
    let weight = g.float_weight(&weight_name(key), key, Arc::clone(&tensor.source), &[tensor.values()], 0);
    let eps = net.config().rms_norm_eps;
    if g.spec.opset == Opset::V23 {
        let attrs = [
            ("axis", Attr::Int(-1)),
            ("epsilon", Attr::Float(eps)),
            ("stash_type", Attr::Int(ElementType::Float as i64)),
        ];
        return g.op(&scope, "RMSNormalization", &[x, &weight], &attrs);
    }
    // ONNX Runtime recognizes exactly this pattern and runs it as one kernel.
    let half = g.spec.float == DType::F16;
    let wide = if half { cast(g, &scope, x, ElementType::Float) } else { x.to_string() };
    let two = g.scalar(DType::F32, 2.0);
    let square = g.op(&scope, "Pow", &[&wide, &two], &[]);
    let axes = g.ints(&[-1]);
    let mean = g.op(&scope, "ReduceMean", &[&square, &axes], &[("keepdims", Attr::Int(1))]);
    let eps = g.scalar(DType::F32, eps);
    let shifted = g.op(&scope, "Add", &[&mean, &eps], &[]);
    let root = g.op(&scope, "Sqrt", &[&shifted], &[]);
    let mut normed = g.op(&scope, "Div", &[&wide, &root], &[]);
    if half {
        normed = cast(g, &scope, &normed, ElementType::Float16);
    }
    g.op(&scope, "Mul", &[&normed, &weight], &[])
}

pub(super) fn cast(g: &mut GraphBuilder<'_>, scope: &str, x: &str, to: ElementType) -> Value {
    g.op(scope, "Cast", &[x], &[("to", Attr::Int(to as i64))])
}

/// A linear layer without bias: `x [n, cols] → [n, rows]`, with the weight stored as the spec says.
pub(super) fn linear(g: &mut GraphBuilder<'_>, net: &Network<'_>, key: TensorKey, x: &str) -> Value {
    scaled_linear(g, net, key, x, 0)
}

/// A linear layer whose weight is stored times two to `exponent`.
pub(super) fn scaled_linear(
    g: &mut GraphBuilder<'_>,
    net: &Network<'_>,
    key: TensorKey,
    x: &str,
    exponent: i32,
) -> Value {
    let source = Arc::clone(&net.tensor(key).source);
    let (scope, name) = (scope_of(key), weight_name(key));
    match g.spec.weight(key) {
        WeightFormat::Float => {
            let dims = [source.rows(), source.cols()];
            let weight = g.float_weight(&name, key, source, &dims, exponent);
            g.op(&scope, "Gemm", &[x, &weight], &[("transB", Attr::Int(1))])
        }
        WeightFormat::Block(format) => {
            let part = BlockPart { scope: &scope, name: &name, key, source, exponent, transposed: false };
            block_linear(g, part, format, g.spec.quant_format, x)
        }
    }
}

/// `x [.., cols] → [.., rows]` with a block-quantized weight.
pub(super) fn block_linear(
    g: &mut GraphBuilder<'_>,
    part: BlockPart<'_>,
    format: BlockFormat,
    quant_format: QuantFormat,
    x: &str,
) -> Value {
    let (rows, cols, scope) = (part.source.rows(), part.source.cols(), part.scope);
    let weight = g.block_weight(part, format, quant_format);
    let mut inputs = vec![weight.codes.as_str(), &weight.scales];
    if !weight.zero_points.is_empty() {
        inputs.push(&weight.zero_points);
    }
    if quant_format == QuantFormat::Qdq {
        let attrs = [("axis", Attr::Int(0)), ("block_size", Attr::Int(format.block_size as i64))];
        let dense = g.op(scope, "DequantizeLinear", &inputs, &attrs);
        return g.op(scope, "MatMul", &[x, &dense], &[]);
    }
    inputs.insert(0, x);
    let attrs = [
        ("K", Attr::Int(cols as i64)),
        ("N", Attr::Int(rows as i64)),
        ("bits", Attr::Int(format.bits as i64)),
        ("block_size", Attr::Int(format.block_size as i64)),
        ("accuracy_level", Attr::Int(g.spec.accuracy_level)),
    ];
    g.node(scope, MICROSOFT, "MatMulNBits", &inputs, &attrs, 1).remove(0)
}

/// cos and sin for every position, and how they are applied.
pub(super) fn rope_tables(g: &mut GraphBuilder<'_>, config: &Config) -> Rope {
    let half = config.qk_rope_head_dim / 2;
    let positions = config.max_position_embeddings;
    let rotations = rotations(config.qk_rope_head_dim, config.rope_theta, positions);
    let scope = "/model/rotary_emb";
    if g.spec.opset == Opset::V23 {
        let (cos, sin): (Vec<f32>, Vec<f32>) = rotations.into_iter().unzip();
        let cos = g.table("model.rotary_emb.cos_cache", &[positions, half], &cos);
        let sin = g.table("model.rotary_emb.sin_cache", &[positions, half], &sin);
        return Rope::Operator { cos, sin, positions: "position_ids".into() };
    }
    // Pairs (a, b) become (a cos - b sin, b cos + a sin): x * cos + swapped(x) * (-sin, sin, -sin, …).
    let cos: Vec<f32> = rotations.iter().flat_map(|&(cos, _)| [cos, cos]).collect();
    let sin: Vec<f32> = rotations.iter().flat_map(|&(_, sin)| [-sin, sin]).collect();
    let dims = [positions, half * 2];
    let swap: Vec<i64> = (0..2 * half as i64).map(|i| i ^ 1).collect();
    let swap = g.ints(&swap);
    let one = g.ints(&[1]);
    let mut at_positions = |name: &str, values: &[f32]| {
        let table = g.table(name, &dims, values);
        let rows = g.op(scope, "Gather", &[&table, "position_ids"], &[("axis", Attr::Int(0))]);
        g.op(scope, "Unsqueeze", &[&rows, &one], &[])
    };
    let cos = at_positions("model.rotary_emb.cos_table", &cos);
    let sin = at_positions("model.rotary_emb.signed_sin_table", &sin);
    Rope::Elementary { cos, sin, swap }
}

/// Rotates `x [batch, heads, sequence, rope]` by its positions, in interleaved pairs.
pub(super) fn rotate(g: &mut GraphBuilder<'_>, rope: &Rope, scope: &str, x: &str) -> Value {
    match rope {
        Rope::Operator { cos, sin, positions } => {
            let attrs = [("interleaved", Attr::Int(1))];
            g.op(scope, "RotaryEmbedding", &[x, cos, sin, positions], &attrs)
        }
        Rope::Elementary { cos, sin, swap } => {
            let straight = g.op(scope, "Mul", &[x, cos], &[]);
            let swapped = g.op(scope, "Gather", &[x, swap], &[("axis", Attr::Int(-1))]);
            let crossed = g.op(scope, "Mul", &[&swapped, sin], &[]);
            g.op(scope, "Add", &[&straight, &crossed], &[])
        }
    }
}

/// The additive mask `[batch, 1, sequence, total]` from `attention_mask [batch, total]`: 0 where a key is
/// neither padding nor later than the query, else a number low enough to vanish in softmax.
///
/// Not -inf: a padding query sees no key at all, and softmax over nothing but -inf is NaN, which would
/// reach real tokens through the cache (0 · NaN). In f16 a score plus the number must stay in range.
pub(super) fn additive_mask(g: &mut GraphBuilder<'_>, sequence: &str) -> Value {
    let scope = "/model/mask";
    let zero = g.int(0);
    let one = g.int(1);
    let from_end = [("start", Attr::Int(1)), ("end", Attr::Int(2))];
    let total = g.op(scope, "Shape", &["attention_mask"], &from_end);
    let past = g.op(scope, "Sub", &[&total, sequence], &[]);
    let scalar = g.ints(&[]);
    let past = g.op(scope, "Reshape", &[&past, &scalar], &[]);
    let total = g.op(scope, "Reshape", &[&total, &scalar], &[]);
    let queries = g.op(scope, "Range", &[&past, &total, &one], &[]);
    let last = g.ints(&[1]);
    let queries = g.op(scope, "Unsqueeze", &[&queries, &last], &[]);
    let keys = g.op(scope, "Range", &[&zero, &total, &one], &[]);
    let causal = g.op(scope, "LessOrEqual", &[&keys, &queries], &[]);
    let present = cast(g, scope, "attention_mask", ElementType::Bool);
    let axes = g.ints(&[1, 2]);
    let present = g.op(scope, "Unsqueeze", &[&present, &axes], &[]);
    let visible = g.op(scope, "And", &[&causal, &present], &[]);
    let dtype = g.spec.float;
    let hidden = g.scalar(dtype, if dtype == DType::F16 { -32768.0 } else { -1e30 });
    let shown = g.scalar(dtype, 0.0);
    g.op(scope, "Where", &[&visible, &shown, &hidden], &[])
}

/// `x + down(relu(up(norm(x)))²)`.
pub(super) fn ffn(g: &mut GraphBuilder<'_>, net: &Network<'_>, layer: usize, x: &str) -> Value {
    let shift = g.spec.ffn_shift.get(layer).copied().unwrap_or(0) as i32;
    let normed = rms_norm(g, net, TensorKey::in_layer(layer, Role::FfnNorm), x);
    let up = scaled_linear(g, net, TensorKey::in_layer(layer, Role::FfnUp), &normed, -shift);
    let scope = format!("/model/layers.{layer}/mlp");
    let active = g.op(&scope, "Relu", &[&up], &[]);
    let squared = g.op(&scope, "Mul", &[&active, &active], &[]);
    let down = scaled_linear(g, net, TensorKey::in_layer(layer, Role::FfnDown), &squared, 2 * shift);
    g.op(&scope, "Add", &[x, &down], &[])
}

/// `input_ids [batch, sequence]` → `[batch * sequence, hidden]`.
pub(super) fn embed(g: &mut GraphBuilder<'_>, net: &Network<'_>) -> Value {
    let key = TensorKey::global(Role::TokenEmbedding);
    let scope = "/model/embed_tokens";
    let name = weight_name(key);
    let source = Arc::clone(&net.tensor(key).source);
    let (vocab, hidden) = (source.rows(), source.cols());
    let flat = g.ints(&[-1, hidden as i64]);
    let rows = match g.spec.weight(key) {
        WeightFormat::Float => {
            let weight = g.float_weight(&name, key, source, &[vocab, hidden], 0);
            g.op(scope, "Gather", &[&weight, "input_ids"], &[("axis", Attr::Int(0))])
        }
        WeightFormat::Block(format) => gather_blocks(g, &name, key, source, format),
    };
    let padded = match g.spec.weight(key) {
        WeightFormat::Block(format) => format.blocks(hidden) * format.block_size,
        WeightFormat::Float => hidden,
    };
    if padded == hidden {
        return g.op(scope, "Reshape", &[&rows, &flat], &[]);
    }
    let wide = g.ints(&[-1, padded as i64]);
    let rows = g.op(scope, "Reshape", &[&rows, &wide], &[]);
    let (start, end, axis) = (g.ints(&[0]), g.ints(&[hidden as i64]), g.ints(&[1]));
    g.op(scope, "Slice", &[&rows, &start, &end, &axis], &[])
}

/// Looks rows up in the head's own codes.
fn gather_blocks(
    g: &mut GraphBuilder<'_>,
    name: &str,
    key: TensorKey,
    source: Arc<dyn RowSource>,
    format: BlockFormat,
) -> Value {
    let scope = "/model/embed_tokens";
    let (vocab, hidden) = (source.rows(), source.cols());
    let part = BlockPart { scope, name, key, source, exponent: 0, transposed: false };
    let weight = g.block_weight(part, format, QuantFormat::NBits);
    let row_bytes = (format.blocks(hidden) * format.block_bytes()) as i64;
    let shape = g.ints(&[vocab as i64, row_bytes]);
    let codes = g.op(scope, "Reshape", &[&weight.codes, &shape], &[]);
    let mut inputs = vec![codes.as_str(), "input_ids", &weight.scales];
    if !weight.zero_points.is_empty() {
        inputs.push(&weight.zero_points);
    }
    let attrs = [
        ("bits", Attr::Int(format.bits as i64)),
        ("block_size", Attr::Int(format.block_size as i64)),
        ("gather_axis", Attr::Int(0)),
        ("quantize_axis", Attr::Int(1)),
    ];
    g.node(scope, MICROSOFT, "GatherBlockQuantized", &inputs, &attrs, 1).remove(0)
}

/// Final norm and the tied head: `x [batch * sequence, hidden]` → `logits [batch, sequence, vocab]`, f32.
pub(super) fn head(g: &mut GraphBuilder<'_>, net: &Network<'_>, x: &str, batch: &str, sequence: &str) {
    let scope = "/lm_head";
    let hidden = net.config().hidden_size as i64;
    let key = TensorKey::global(Role::TokenEmbedding);
    let mut x = x.to_string();
    let mut sequence = sequence.to_string();
    if g.spec.num_logits_to_keep {
        let last_axis = g.ints(&[hidden]);
        let shape = g.op(scope, "Concat", &[batch, &sequence, &last_axis], &[("axis", Attr::Int(0))]);
        let deep = g.op(scope, "Reshape", &[&x, &shape], &[]);
        let one = g.ints(&[1]);
        let count = g.op(scope, "Reshape", &["num_logits_to_keep", &one], &[]);
        let start = g.op(scope, "Neg", &[&count], &[]);
        let end = g.ints(&[i64::MAX]);
        let kept = g.op(scope, "Slice", &[&deep, &start, &end, &one], &[]);
        let only_sequence = [("start", Attr::Int(1)), ("end", Attr::Int(2))];
        sequence = g.op(scope, "Shape", &[&kept], &only_sequence);
        let flat = g.ints(&[-1, hidden]);
        x = g.op(scope, "Reshape", &[&kept, &flat], &[]);
    }
    let normed = rms_norm(g, net, TensorKey::global(Role::OutputNorm), &x);
    let source = Arc::clone(&net.tensor(key).source);
    let (vocab, name) = (source.rows(), weight_name(key));
    let flat = match g.spec.weight(key) {
        WeightFormat::Float => {
            let weight = g.float_weight(&name, key, source, &[vocab, hidden as usize], 0);
            g.op(scope, "Gemm", &[&normed, &weight], &[("transB", Attr::Int(1))])
        }
        WeightFormat::Block(format) => {
            // The lookup and the head share their codes, so the head stays MatMulNBits in either format.
            let part = BlockPart { scope, name: &name, key, source, exponent: 0, transposed: false };
            block_linear(g, part, format, QuantFormat::NBits, &normed)
        }
    };
    let vocab = g.ints(&[vocab as i64]);
    let shape = g.op(scope, "Concat", &[batch, &sequence, &vocab], &[("axis", Attr::Int(0))]);
    let logits = g.op(scope, "Reshape", &[&flat, &shape], &[]);
    let logits =
        if g.spec.float == DType::F16 { cast(g, scope, &logits, ElementType::Float) } else { logits };
    g.rename_output(&logits, "logits");
}
