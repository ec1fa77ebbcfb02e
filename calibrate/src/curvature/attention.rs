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
    /// `[tokens, heads * (nope + value)]`
    pub key_value: Buffer<f32>,
    /// `[tokens, rope]`, of the key all heads share.
    pub rope_key: Buffer<f32>,
}

/// Attends within each window. `query`: `[tokens, heads * (nope + rope)]`, `kv_a`: `[tokens, latent + rope]` (its
/// last part is the shared RoPE key), `key_value`: `[tokens, heads * (nope + value)]`. Returns the heads' state,
/// window by window, and their outputs, `[tokens, heads * value]`.
pub(super) fn forward(
    shape: &Shape,
    query: &[f32],
    kv_a: &[f32],
    key_value: &[f32],
) -> (Vec<Head>, Buffer<f32>) {
    let tokens = kv_a.len() / (shape.latent + shape.rope);
    let work = tokens / shape.window * shape.heads;
    let done: Vec<(Head, Vec<f32>)> =
        (0..work).into_par_iter().map(|at| forward_head(shape, at, query, kv_a, key_value)).collect();
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

fn forward_head(
    shape: &Shape,
    at: usize,
    query: &[f32],
    kv_a: &[f32],
    key_value: &[f32],
) -> (Head, Vec<f32>) {
    let Shape { nope, rope, heads, value, .. } = *shape;
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
        shape.rotations.rotate(i, &mut q[nope..]);
        let kv = &key_value[(token * heads + head) * (nope + value)..][..nope + value];
        let k = &mut state.key[i * key_len..(i + 1) * key_len];
        k[..nope].copy_from_slice(&kv[..nope]);
        k[nope..].copy_from_slice(&kv_a[token * (shape.latent + rope) + shape.latent..][..rope]);
        shape.rotations.rotate(i, &mut k[nope..]);
        state.value[i * value..(i + 1) * value].copy_from_slice(&kv[nope..]);
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
    let Shape { nope, rope, heads, value, window, .. } = *shape;
    let key_len = shape.key();
    let parts: Vec<[Vec<f32>; 3]> =
        states.par_iter().enumerate().map(|(at, state)| backward_head(shape, state, at, gradient)).collect();
    let tokens = states.len() / heads * window;
    let mut out = Gradients {
        query: shape.products.buffer(tokens * heads * key_len),
        key_value: shape.products.buffer(tokens * heads * (nope + value)),
        rope_key: shape.products.zeros(tokens * rope),
    };
    for (at, [query, key, values]) in parts.iter().enumerate() {
        scatter(shape, at, query, Columns::all(key_len), &mut out.query);
        let columns = Columns { width: value, offset: nope, stride: nope + value };
        scatter(shape, at, values, columns, &mut out.key_value);
        for (i, key) in key.chunks_exact(key_len).enumerate() {
            let token = at / heads * window + i;
            let start = (token * heads + at % heads) * (nope + value);
            out.key_value[start..start + nope].copy_from_slice(&key[..nope]);
            let shared = &mut out.rope_key[token * rope..(token + 1) * rope];
            shared.iter_mut().zip(&key[nope..]).for_each(|(sum, k)| *sum += k);
        }
    }
    out
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
            shape.rotations.rotate_back(i, &mut gradient[i * key_len + shape.nope..(i + 1) * key_len]);
        }
    }
    [by_query, by_key, by_value]
}
