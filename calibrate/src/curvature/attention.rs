//! Causal attention of the expanded form, and its gradient.

use plmconv_quant::product::{Matrix, add_product};
use plmconv_validate::network::{self, Buffer, Rows};
use rayon::prelude::*;

use super::rows::Shape;

/// What the backward run needs of the forward run, for one window and head.
pub(super) struct Head {
    /// `[window, nope + rope]`, rotated.
    query: Vec<f32>,
    /// `[window, nope + rope]`, rotated.
    key: Vec<f32>,
    /// `[window, value]`
    value: Vec<f32>,
    /// `[window, window]`, causal.
    shares: Vec<f32>,
}

/// Gradients by the inputs of [`forward`].
pub(super) struct Gradients {
    /// `[tokens, heads * (nope + rope)]`
    pub query: Buffer<f32>,
    pub key_values: KeyValueGradients,
}

/// What keys and values are taken from.
#[derive(Clone, Copy)]
pub(super) enum KeyValues<'a> {
    /// `kv_a`: `[tokens, latent + rope]`, whose last part is the RoPE key all heads share; `key_value`: `[tokens,
    /// heads * (nope + value)]`.
    Latent { kv_a: &'a [f32], key_value: &'a [f32] },
    /// `keys`: `[tokens, kv heads * (nope + rope)]`; `values`: `[tokens, kv heads * value]`.
    Grouped { keys: &'a [f32], values: &'a [f32] },
}

/// Gradients by them.
pub(super) struct KeyValueGradients {
    /// Of a latent: `[tokens, rope]`, by the shared RoPE key. Of grouped heads: as their keys.
    pub keys: Buffer<f32>,
    /// Of a latent: as `key_value`. Of grouped heads: as their values.
    pub values: Buffer<f32>,
}

/// Attends within each window. `query`: `[tokens, heads * (nope + rope)]`. Returns the heads' state, window by window,
/// and their outputs, `[tokens, heads * value]`.
pub(super) fn forward(shape: &Shape, query: &[f32], from: KeyValues<'_>) -> (Vec<Head>, Buffer<f32>) {
    let tokens = query.len() / (shape.heads * shape.key());
    let work = tokens / shape.window * shape.heads;
    let done: Vec<(Head, Vec<f32>)> =
        (0..work).into_par_iter().map(|at| forward_head(shape, at, query, from)).collect();
    let mut out = shape.products.buffer(tokens * shape.heads * shape.value);
    let mut heads = Vec::with_capacity(work);
    for (at, (head, values)) in done.into_iter().enumerate() {
        scatter(shape, at, &values, Columns::all(shape.value), &mut out);
        heads.push(head);
    }
    (heads, out)
}

/// Where one head's values are in a row: `width` of the `stride` values of a head, from `offset` on.
#[derive(Clone, Copy)]
struct Columns {
    width: usize,
    offset: usize,
    stride: usize,
}

impl Columns {
    fn all(width: usize) -> Columns {
        Columns { width, offset: 0, stride: width }
    }
}

/// Copies the rows `[window, width]` of head number `at`, counted through all windows, to its columns of `out`.
fn scatter(shape: &Shape, at: usize, from: &[f32], columns: Columns, out: &mut [f32]) {
    let (window, head) = (at / shape.heads, at % shape.heads);
    for (t, row) in from.chunks_exact(columns.width).enumerate() {
        let token = window * shape.window + t;
        let start = (token * shape.heads + head) * columns.stride + columns.offset;
        out[start..start + columns.width].copy_from_slice(row);
    }
}

impl KeyValues<'_> {
    /// Writes the key (not rotated yet) and the value of one token and query head.
    fn take(self, shape: &Shape, token: usize, head: usize, key: &mut [f32], value: &mut [f32]) {
        let Shape { nope, rope, heads, sharing, .. } = *shape;
        match self {
            KeyValues::Latent { kv_a, key_value } => {
                let width = nope + shape.value;
                let kv = &key_value[(token * heads + head) * width..][..width];
                key[..nope].copy_from_slice(&kv[..nope]);
                key[nope..].copy_from_slice(&kv_a[token * (shape.latent + rope) + shape.latent..][..rope]);
                value.copy_from_slice(&kv[nope..]);
            }
            KeyValues::Grouped { keys, values } => {
                let place = token * (heads / sharing) + head / sharing;
                key.copy_from_slice(&keys[place * key.len()..][..key.len()]);
                value.copy_from_slice(&values[place * value.len()..][..value.len()]);
            }
        }
    }
}

fn forward_head(shape: &Shape, at: usize, query: &[f32], from: KeyValues<'_>) -> (Head, Vec<f32>) {
    let Shape { heads, value, .. } = *shape;
    let (window, head) = (at / heads, at % heads);
    let (t, key_len) = (shape.window, shape.key());
    let mut state = Head {
        query: vec![0.0; t * key_len],
        key: vec![0.0; t * key_len],
        value: vec![0.0; t * value],
        shares: vec![0.0; t * t],
    };
    for i in 0..t {
        let token = window * t + i;
        let q = &mut state.query[i * key_len..(i + 1) * key_len];
        q.copy_from_slice(&query[(token * heads + head) * key_len..][..key_len]);
        shape.rotations.rotate(i, &mut q[shape.rotated.clone()]);
        let k = &mut state.key[i * key_len..(i + 1) * key_len];
        from.take(shape, token, head, k, &mut state.value[i * value..(i + 1) * value]);
        shape.rotations.rotate(i, &mut k[shape.rotated.clone()]);
    }
    let attention = network::Head {
        queries: Rows::all(&state.query, key_len),
        keys: Rows::all(&state.key, key_len),
        values: Rows::all(&state.value, value),
        past: 0,
        scale: shape.attention_scale,
        half_shares: false,
    };
    let mut out = vec![0.0; t * value];
    attention.attend(shape.products.workspace(), Some(&mut state.shares), &mut out);
    (state, out)
}

/// The gradients by the inputs, given that by the outputs (`[tokens, heads * value]`).
pub(super) fn backward(shape: &Shape, states: &[Head], gradient: &[f32]) -> Gradients {
    let Shape { heads, window, .. } = *shape;
    let key_len = shape.key();
    let parts: Vec<[Vec<f32>; 3]> =
        states.par_iter().enumerate().map(|(at, state)| backward_head(shape, state, at, gradient)).collect();
    let tokens = states.len() / heads * window;
    let mut query = shape.products.buffer(tokens * heads * key_len);
    for (at, [by_query, ..]) in parts.iter().enumerate() {
        scatter(shape, at, by_query, Columns::all(key_len), &mut query);
    }
    let key_values =
        if shape.latent > 0 { latent(shape, tokens, &parts) } else { grouped(shape, tokens, &parts) };
    Gradients { query, key_values }
}

fn latent(shape: &Shape, tokens: usize, parts: &[[Vec<f32>; 3]]) -> KeyValueGradients {
    let Shape { nope, rope, heads, value, window, .. } = *shape;
    let key_len = shape.key();
    let mut key_value = shape.products.buffer(tokens * heads * (nope + value));
    let mut rope_key = shape.products.zeros(tokens * rope);
    for (at, [_, key, values]) in parts.iter().enumerate() {
        let columns = Columns { width: value, offset: nope, stride: nope + value };
        scatter(shape, at, values, columns, &mut key_value);
        for (i, key) in key.chunks_exact(key_len).enumerate() {
            let token = at / heads * window + i;
            let start = (token * heads + at % heads) * (nope + value);
            key_value[start..start + nope].copy_from_slice(&key[..nope]);
            let shared = &mut rope_key[token * rope..(token + 1) * rope];
            shared.iter_mut().zip(&key[nope..]).for_each(|(sum, k)| *sum += k);
        }
    }
    KeyValueGradients { keys: rope_key, values: key_value }
}

/// Sums over the query heads that share a head.
fn grouped(shape: &Shape, tokens: usize, parts: &[[Vec<f32>; 3]]) -> KeyValueGradients {
    let Shape { heads, sharing, window, .. } = *shape;
    let kv_heads = heads / sharing;
    let sum_of = |part: usize, width: usize| {
        let mut sums = shape.products.zeros(tokens * kv_heads * width);
        for (at, gradients) in parts.iter().enumerate() {
            for (i, row) in gradients[part].chunks_exact(width).enumerate() {
                let place = (at / heads * window + i) * kv_heads + at % heads / sharing;
                let sum = &mut sums[place * width..][..width];
                sum.iter_mut().zip(row).for_each(|(sum, g)| *sum += g);
            }
        }
        sums
    };
    KeyValueGradients { keys: sum_of(1, shape.key()), values: sum_of(2, shape.value) }
}

/// Gradients of one head by its query, key (rotated back) and value rows.
fn backward_head(shape: &Shape, state: &Head, at: usize, gradient: &[f32]) -> [Vec<f32>; 3] {
    let (window, head) = (at / shape.heads, at % shape.heads);
    let (t, key_len, value) = (shape.window, shape.key(), shape.value);
    let mut by_output = vec![0.0; t * value];
    for (i, row) in by_output.chunks_exact_mut(value).enumerate() {
        row.copy_from_slice(&gradient[((window * t + i) * shape.heads + head) * value..][..value]);
    }
    let by_output = Matrix::new(&by_output, t, value);
    let mut by_value = vec![0.0; t * value];
    add_product(Matrix::new(&state.shares, t, t).transposed(), by_output, &mut by_value, value);
    let mut by_score = vec![0.0; t * t];
    add_product(by_output, Matrix::new(&state.value, t, value).transposed(), &mut by_score, t);
    for (row, shares) in by_score.chunks_exact_mut(t).zip(state.shares.chunks_exact(t)) {
        let mean: f32 = row.iter().zip(shares).map(|(g, p)| g * p).sum();
        row.iter_mut().zip(shares).for_each(|(g, p)| *g = (*g - mean) * p * shape.attention_scale);
    }
    let by_score = Matrix::new(&by_score, t, t);
    let mut by_query = vec![0.0; t * key_len];
    let mut by_key = vec![0.0; t * key_len];
    add_product(by_score, Matrix::new(&state.key, t, key_len), &mut by_query, key_len);
    add_product(by_score.transposed(), Matrix::new(&state.query, t, key_len), &mut by_key, key_len);
    for i in 0..t {
        for gradient in [&mut by_query, &mut by_key] {
            shape
                .rotations
                .rotate_back(i, &mut gradient[i * key_len..(i + 1) * key_len][shape.rotated.clone()]);
        }
    }
    [by_query, by_key, by_value]
}
