//! Multi-head latent attention in its two forms: absorbed (the cache holds the latent) and expanded.

use std::sync::Arc;

use super::data::HeadBlocks;
use super::graph::{Attr, BlockPart, GraphBuilder, Value};
use super::layers::{Network, block_linear, linear, rms_norm, rotate, scope_of, weight_name};
use super::spec::{BlockFormat, Opset, Profile, WeightFormat};
use crate::model::{Role, TensorKey};
use crate::source::RowSource;

/// Queries and the new token's latent, per layer.
struct Projected {
    /// `[batch, heads, sequence, qk_nope]`
    query_nope: Value,
    /// `[batch, heads, sequence, rope]`, rotated
    query_rope: Value,
    /// Normed latent, `[batch * sequence, kv_lora_rank]`
    latent: Value,
    /// `[batch, 1, sequence, rope]`, rotated
    key_rope: Value,
}

/// `x + attention(norm(x))`.
pub(super) fn attention(g: &mut GraphBuilder<'_>, net: &Network<'_>, layer: usize, x: &str) -> Value {
    let scope = format!("/model/layers.{layer}/self_attn");
    let projected = project(g, net, layer, &scope, x);
    let values = match g.spec.profile {
        Profile::Hf => expanded(g, net, layer, &scope, &projected),
        Profile::Latent | Profile::Genai => absorbed(g, net, layer, &scope, &projected),
    };
    let config = net.config();
    // [batch, heads, sequence, v] → [batch * sequence, heads * v]
    let by_token = transpose(g, &scope, &values, &[0, 2, 1, 3]);
    let flat = g.ints(&[-1, (config.num_attention_heads * config.v_head_dim) as i64]);
    let flat = g.op(&scope, "Reshape", &[&by_token, &flat], &[]);
    let out = linear(g, net, TensorKey::in_layer(layer, Role::AttentionOutput), &flat);
    g.op(&scope, "Add", &[x, &out], &[])
}

fn project(g: &mut GraphBuilder<'_>, net: &Network<'_>, layer: usize, scope: &str, x: &str) -> Projected {
    let config = net.config();
    let key = |role| TensorKey::in_layer(layer, role);
    let normed = rms_norm(g, net, key(Role::AttentionNorm), x);
    let query = if config.q_lora_rank.is_some() {
        let low = linear(g, net, key(Role::QueryA), &normed);
        let low = rms_norm(g, net, key(Role::QueryANorm), &low);
        linear(g, net, key(Role::QueryB), &low)
    } else {
        linear(g, net, key(Role::Query), &normed)
    };
    let query = g.op(scope, "Reshape", &[&query, &net.head_shape], &[]);
    let query = transpose(g, scope, &query, &[0, 2, 1, 3]);
    let [query_nope, query_rope] =
        split(g, scope, &query, [config.qk_nope_head_dim, config.qk_rope_head_dim]);
    let query_rope = rotate(g, &net.rope, &format!("{scope}/q_rope"), &query_rope);

    let kv = linear(g, net, key(Role::KvA), &normed);
    let [latent, key_rope] = split(g, scope, &kv, [config.kv_lora_rank, config.qk_rope_head_dim]);
    let latent = rms_norm(g, net, key(Role::KvANorm), &latent);
    let key_rope = g.op(scope, "Reshape", &[&key_rope, &net.shared_key_shape], &[]);
    let key_rope = rotate(g, &net.rope, &format!("{scope}/k_rope"), &key_rope);
    Projected { query_nope, query_rope, latent, key_rope }
}

/// Keys and values for every head, cached as such: `key [batch, heads, total, qk]`, `value [.., v]`.
fn expanded(g: &mut GraphBuilder<'_>, net: &Network<'_>, layer: usize, scope: &str, p: &Projected) -> Value {
    let config = net.config();
    let heads = config.num_attention_heads as i64;
    let kv = linear(g, net, TensorKey::in_layer(layer, Role::KvB), &p.latent);
    let kv = g.op(scope, "Reshape", &[&kv, &net.head_shape], &[]);
    let kv = transpose(g, scope, &kv, &[0, 2, 1, 3]);
    let [key_nope, value] = split(g, scope, &kv, [config.qk_nope_head_dim, config.v_head_dim]);
    let per_head = g.ints(&[1, heads, 1, 1]);
    let key_rope = g.op(scope, "Expand", &[&p.key_rope, &per_head], &[]);
    let key = concat(g, scope, &[&key_nope, &key_rope], -1);
    let query = concat(g, scope, &[&p.query_nope, &p.query_rope], -1);
    let past = [format!("past_key_values.{layer}.key"), format!("past_key_values.{layer}.value")];
    let present = [format!("present.{layer}.key"), format!("present.{layer}.value")];
    if g.spec.opset == Opset::V23 {
        let inputs = [query.as_str(), &key, &value, &net.mask, &past[0], &past[1]];
        let attrs = [("scale", Attr::Float(scale(net)))];
        let mut outputs = g.node(scope, "", "Attention", &inputs, &attrs, 3);
        g.rename_output(&outputs[1], &present[0]);
        g.rename_output(&outputs[2], &present[1]);
        return outputs.remove(0);
    }
    let key = concat(g, scope, &[&past[0], &key], 2);
    let key = g.rename_output(&key, &present[0]);
    let value = concat(g, scope, &[&past[1], &value], 2);
    let value = g.rename_output(&value, &present[1]);
    let query = scaled(g, net, scope, &query);
    let key = transpose(g, scope, &key, &[0, 1, 3, 2]);
    let scores = g.op(scope, "MatMul", &[&query, &key], &[]);
    let weights = softmax(g, scope, &scores, &net.mask);
    g.op(scope, "MatMul", &[&weights, &value], &[])
}

/// One shared head of `[latent | rope]` serves as key and value: queries are carried into the latent, and
/// what attention gathers there is carried back into each head's values.
fn absorbed(g: &mut GraphBuilder<'_>, net: &Network<'_>, layer: usize, scope: &str, p: &Projected) -> Value {
    let config = net.config();
    let rank = config.kv_lora_rank;
    let query = through_heads(g, net, layer, Side::Key, &p.query_nope);
    let query = concat(g, scope, &[&query, &p.query_rope], -1);
    let latent = g.op(scope, "Reshape", &[&p.latent, &net.shared_key_shape], &[]);
    let new = concat(g, scope, &[&latent, &p.key_rope], -1);
    let gathered = if g.spec.profile == Profile::Genai {
        let half = config.latent_dim() / 2;
        let [key, value] = split(g, scope, &new, [half, half]);
        let key = concat(g, scope, &[&format!("past_key_values.{layer}.key"), &key], 2);
        let key = g.rename_output(&key, &format!("present.{layer}.key"));
        let value = concat(g, scope, &[&format!("past_key_values.{layer}.value"), &value], 2);
        let value = g.rename_output(&value, &format!("present.{layer}.value"));
        attend_in_halves(g, net, scope, &query, [&key, &value], half)
    } else {
        let cache = concat(g, scope, &[&format!("past_key_values.{layer}.latent"), &new], 2);
        let cache = g.rename_output(&cache, &format!("present.{layer}.latent"));
        attend(g, net, scope, &query, &cache)
    };
    // The values are the latent; what was gathered of the rope part is dropped.
    let [gathered, _] = split(g, scope, &gathered, [rank, config.qk_rope_head_dim]);
    through_heads(g, net, layer, Side::Value, &gathered)
}

/// `query [batch, heads, sequence, width]` over `cache [batch, 1, total, width]`, gathering whole rows of
/// the cache: slicing the values off first would copy the cache on every step.
fn attend(g: &mut GraphBuilder<'_>, net: &Network<'_>, scope: &str, query: &str, cache: &str) -> Value {
    let config = net.config();
    let width = config.latent_dim() as i64;
    let heads = config.num_attention_heads as i64;
    if g.spec.opset == Opset::V23 {
        let attrs = [("scale", Attr::Float(scale(net)))];
        return g.op(scope, "Attention", &[query, cache, cache, &net.mask], &attrs);
    }
    // All heads share the keys, so heads and queries fold into the rows of one product.
    let query = scaled(g, net, scope, query);
    let folded = g.ints(&[0, 1, -1, width]);
    let query = g.op(scope, "Reshape", &[&query, &folded], &[]);
    let keys = transpose(g, scope, cache, &[0, 1, 3, 2]);
    let scores = g.op(scope, "MatMul", &[&query, &keys], &[]);
    let weights = masked_by_head(g, net, scope, &scores);
    let gathered = g.op(scope, "MatMul", &[&weights, cache], &[]);
    let unfolded = g.ints(&[0, heads, -1, width]);
    g.op(scope, "Reshape", &[&gathered, &unfolded], &[])
}

/// [`attend`] where the cache lies in two halves of the width; joining them would copy the cache.
fn attend_in_halves(
    g: &mut GraphBuilder<'_>,
    net: &Network<'_>,
    scope: &str,
    query: &str,
    halves: [&str; 2],
    half: usize,
) -> Value {
    let heads = net.config().num_attention_heads as i64;
    let query = scaled(g, net, scope, query);
    let queries = split(g, scope, &query, [half, half]);
    let folded = g.ints(&[0, 1, -1, half as i64]);
    let mut scores = Vec::new();
    for (query, cache) in queries.iter().zip(halves) {
        let query = g.op(scope, "Reshape", &[query, &folded], &[]);
        let keys = transpose(g, scope, cache, &[0, 1, 3, 2]);
        scores.push(g.op(scope, "MatMul", &[&query, &keys], &[]));
    }
    let scores = g.op(scope, "Add", &[&scores[0], &scores[1]], &[]);
    let weights = masked_by_head(g, net, scope, &scores);
    let gathered = halves.map(|cache| g.op(scope, "MatMul", &[&weights, cache], &[]));
    let joined = concat(g, scope, &[&gathered[0], &gathered[1]], -1);
    let unfolded = g.ints(&[0, heads, -1, 2 * half as i64]);
    g.op(scope, "Reshape", &[&joined, &unfolded], &[])
}

/// Softmax of folded scores `[batch, 1, heads * sequence, total]`, which the mask wants by head.
fn masked_by_head(g: &mut GraphBuilder<'_>, net: &Network<'_>, scope: &str, scores: &str) -> Value {
    let by_head = g.ints(&[0, net.config().num_attention_heads as i64, -1, 0]);
    let scores = g.op(scope, "Reshape", &[scores, &by_head], &[]);
    let weights = softmax(g, scope, &scores, &net.mask);
    let folded = g.ints(&[0, 1, -1, 0]);
    g.op(scope, "Reshape", &[&weights, &folded], &[])
}

/// Which of kv_b's two parts.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    /// `[heads, qk_nope] → [heads, kv_lora_rank]`
    Key,
    /// `[heads, kv_lora_rank] → [heads, v]`
    Value,
}

/// Multiplies each head of `x [batch, heads, sequence, _]` by its part of kv_b.
fn through_heads(g: &mut GraphBuilder<'_>, net: &Network<'_>, layer: usize, side: Side, x: &str) -> Value {
    let config = net.config();
    let key = TensorKey::in_layer(layer, Role::KvB);
    let (nope, v, rank) = (config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank);
    let heads = config.num_attention_heads;
    let (part, label) = match side {
        Side::Key => (0..nope, "k_b_proj"),
        Side::Value => (nope..nope + v, "v_b_proj"),
    };
    let scope = scope_of(key).replace("kv_b_proj", label);
    let name = weight_name(key).replace("kv_b_proj", label);
    let blocks = |heads, transposed| -> Arc<dyn RowSource> {
        let source = Arc::clone(&net.tensor(key).source);
        Arc::new(HeadBlocks {
            source,
            heads,
            rows_per_head: config.kv_b_head_dim(),
            part: part.clone(),
            transposed,
        })
    };
    match g.spec.weight(key) {
        WeightFormat::Float => {
            // As the right side of a product: [heads, in, out]. kv_b's rows are the head's outputs.
            let (source, dims) = match side {
                Side::Key => (blocks(0..heads, false), [heads, nope, rank]),
                Side::Value => (blocks(0..heads, true), [heads, rank, v]),
            };
            let weight = g.float_weight(&name, key, source, &dims, 0);
            g.op(&scope, "MatMul", &[x, &weight], &[])
        }
        WeightFormat::Block(format) => {
            let transposed = side == Side::Key;
            let parts = (0..heads).map(|head| blocks(head..head + 1, transposed)).collect();
            quantized_heads(g, Heads { scope: &scope, name: &name, key, parts, transposed }, format, x)
        }
    }
}

/// One of kv_b's parts, head by head.
struct Heads<'s> {
    scope: &'s str,
    name: &'s str,
    key: TensorKey,
    parts: Vec<Arc<dyn RowSource>>,
    transposed: bool,
}

/// MatMulNBits has no batch of weights, so every head gets its own node.
fn quantized_heads(g: &mut GraphBuilder<'_>, of: Heads<'_>, format: BlockFormat, x: &str) -> Value {
    let Heads { scope, name, key, parts: sources, transposed } = of;
    let heads = sources.len();
    let attrs = [("axis", Attr::Int(1)), ("num_outputs", Attr::Int(heads as i64))];
    let parts = g.node(scope, "", "Split", &[x], &attrs, heads);
    let stem = name.trim_end_matches(".weight");
    let outputs: Vec<Value> = parts
        .iter()
        .zip(sources)
        .enumerate()
        .map(|(head, (x, source))| {
            let scope = format!("{scope}/head.{head}");
            let name = format!("{stem}.{head}.weight");
            let part = BlockPart { scope: &scope, name: &name, key, source, exponent: 0, transposed };
            block_linear(g, part, format, g.spec.quant_format, x)
        })
        .collect();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
    concat(g, scope, &outputs, 1)
}

fn scale(net: &Network<'_>) -> f32 {
    (1.0 / (net.config().qk_head_dim() as f64).sqrt()) as f32
}

fn scaled(g: &mut GraphBuilder<'_>, net: &Network<'_>, scope: &str, query: &str) -> Value {
    let factor = g.scalar(g.spec.float, scale(net));
    g.op(scope, "Mul", &[query, &factor], &[])
}

fn softmax(g: &mut GraphBuilder<'_>, scope: &str, scores: &str, mask: &str) -> Value {
    let masked = g.op(scope, "Add", &[scores, mask], &[]);
    g.op(scope, "Softmax", &[&masked], &[("axis", Attr::Int(-1))])
}

fn transpose(g: &mut GraphBuilder<'_>, scope: &str, x: &str, perm: &[i64]) -> Value {
    g.op(scope, "Transpose", &[x], &[("perm", Attr::Ints(perm.to_vec()))])
}

fn concat(g: &mut GraphBuilder<'_>, scope: &str, parts: &[&str], axis: i64) -> Value {
    g.op(scope, "Concat", parts, &[("axis", Attr::Int(axis))])
}

/// Cuts the last axis in two.
fn split(g: &mut GraphBuilder<'_>, scope: &str, x: &str, widths: [usize; 2]) -> [Value; 2] {
    let sizes = g.ints(&widths.map(|n| n as i64));
    let parts = g.node(scope, "", "Split", &[x, &sizes], &[("axis", Attr::Int(-1))], 2);
    <[Value; 2]>::try_from(parts).expect("the node has two outputs")
}
