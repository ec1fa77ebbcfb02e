//! Every pass keeps the function: a small model's logits, computed in f64 straight from the definition, stay equal.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use plmconv_calibrate::{Balance, Site};
use plmconv_formats::model::{Model, Origin, Tensor};
use plmconv_formats::source::RowSource;
use plmconv_formats::{Config, DType, Layout, Result, Role, TensorKey};

use super::values::Decoded;
use super::{Pass, apply, gate, tensor, to_latent};

/// A tensor that lies in memory.
#[derive(Debug)]
struct Memory {
    values: Vec<f32>,
    cols: usize,
}

impl RowSource for Memory {
    fn dtype(&self) -> DType {
        DType::F32
    }

    fn rows(&self) -> usize {
        self.values.len() / self.cols
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        let values = &self.values[rows.start * self.cols..rows.end * self.cols];
        values.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        Ok(())
    }
}

/// Seeded numbers of about the given size.
struct Noise(u64);

impl Noise {
    fn next(&mut self, size: f32) -> f32 {
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * size * 1.7
    }
}

fn config(q_lora_rank: Option<usize>) -> Config {
    Config {
        vocab_size: 48,
        hidden_size: 64,
        intermediate_size: 96,
        num_hidden_layers: 2,
        num_attention_heads: 3,
        q_lora_rank,
        // Not a power of two: the rotation is block diagonal.
        kv_lora_rank: 40,
        qk_nope_head_dim: 16,
        qk_rope_head_dim: 8,
        v_head_dim: 24,
        max_position_embeddings: 128,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        rope_interleave: true,
        tie_word_embeddings: true,
        layout: Layout::Plm,
    }
}

fn model(q_lora_rank: Option<usize>) -> Model {
    let config = config(q_lora_rank);
    let mut noise = Noise(7);
    let tensors = config.expected_tensors().into_iter().map(|(key, shape)| {
        let cols = shape[shape.len() - 1];
        let count: usize = shape.iter().product();
        let value = |_| match key.role {
            role if role.is_norm() => 1.0 + noise.next(0.3),
            Role::TokenEmbedding => noise.next(1.0),
            _ => noise.next(1.5 / (cols as f32).sqrt()),
        };
        let values = (0..count).map(value).collect();
        Tensor { key, shape, source: Arc::new(Memory { values, cols }) }
    });
    let origin = Origin::HuggingFace(PathBuf::from("synthetic"));
    Model {
        tensors: tensors.collect(),
        origin,
        config,
        warnings: Vec::new(),
        inputs: Vec::new(),
        adapters: Vec::new(),
    }
}

const TOKENS: [usize; 9] = [1, 17, 4, 4, 30, 47, 0, 9, 22];

/// A matrix as the model says, in f64.
fn read(model: &Model, key: TensorKey) -> (Vec<f64>, usize) {
    let tensor = model.tensor(key).unwrap_or_else(|| panic!("{key} is there"));
    let values = Decoded::of(tensor).read_all().unwrap();
    (values.into_iter().map(f64::from).collect(), tensor.source.cols())
}

/// `x [n, cols]` times the transpose of a tensor.
fn linear(model: &Model, layer: usize, role: Role, x: &[f64]) -> Vec<f64> {
    let (w, cols) = read(model, TensorKey::in_layer(layer, role));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.chunks_exact(cols).flat_map(|row| w.chunks_exact(cols).map(move |w| dot(row, w))).collect()
}

fn normed(model: &Model, key: TensorKey, x: &[f64]) -> Vec<f64> {
    let (weight, cols) = read(model, key);
    let eps = f64::from(model.config.rms_norm_eps);
    let rows = x.chunks_exact(cols).flat_map(|row| {
        let scale = (row.iter().map(|v| v * v).sum::<f64>() / cols as f64 + eps).sqrt().recip();
        row.iter().zip(&weight).map(move |(v, w)| v * w * scale).collect::<Vec<_>>()
    });
    rows.collect()
}

fn rotated(model: &Model, part: &[f64], position: usize) -> Vec<f64> {
    let mut out = part.to_vec();
    for (i, pair) in out.chunks_exact_mut(2).enumerate() {
        let power = -2.0 * i as f64 / part.len() as f64;
        let (sin, cos) = (position as f64 * f64::from(model.config.rope_theta).powf(power)).sin_cos();
        (pair[0], pair[1]) = (pair[0] * cos - pair[1] * sin, pair[0] * sin + pair[1] * cos);
    }
    out
}

/// Each head's keys `[heads * qk_nope, kv_lora_rank]` and values `[heads * v, kv_lora_rank]` from the latent.
fn expanded(model: &Model, layer: usize) -> (Vec<f64>, Vec<f64>) {
    let c = &model.config;
    let (nope, v, rank) = (c.qk_nope_head_dim, c.v_head_dim, c.kv_lora_rank);
    if c.layout == Layout::Latent {
        let (k, _) = read(model, TensorKey::in_layer(layer, Role::KeyB));
        let at = |row: usize, l: usize| k[((row / nope) * rank + l) * nope + row % nope];
        let keys = (0..c.num_attention_heads * nope).flat_map(|row| (0..rank).map(move |l| (row, l)));
        let keys = keys.map(|(row, l)| at(row, l)).collect();
        return (keys, read(model, TensorKey::in_layer(layer, Role::ValueB)).0);
    }
    let (kv_b, _) = read(model, TensorKey::in_layer(layer, Role::KvB));
    let heads = kv_b.chunks_exact((nope + v) * rank);
    let keys = heads.clone().flat_map(|h| h[..nope * rank].iter().copied()).collect();
    (keys, heads.flat_map(|h| h[nope * rank..].iter().copied()).collect())
}

fn attention(model: &Model, layer: usize, x: &[f64]) -> Vec<f64> {
    let c = &model.config;
    let (nope, head, v, rank) = (c.qk_nope_head_dim, c.qk_head_dim(), c.v_head_dim, c.kv_lora_rank);
    let query = match c.q_lora_rank {
        None => linear(model, layer, Role::Query, x),
        Some(_) => {
            let low = linear(model, layer, Role::QueryA, x);
            let low = normed(model, TensorKey::in_layer(layer, Role::QueryANorm), &low);
            linear(model, layer, Role::QueryB, &low)
        }
    };
    let kv_a = linear(model, layer, Role::KvA, x);
    let (keys, values) = expanded(model, layer);
    let rows: Vec<&[f64]> = kv_a.chunks_exact(rank + c.qk_rope_head_dim).collect();
    let latent: Vec<Vec<f64>> =
        rows.iter().map(|r| normed(model, TensorKey::in_layer(layer, Role::KvANorm), &r[..rank])).collect();
    let shared: Vec<Vec<f64>> = rows.iter().enumerate().map(|(t, r)| rotated(model, &r[rank..], t)).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let times = |w: &[f64], c: &[f64]| w.chunks_exact(rank).map(|row| dot(row, c)).collect::<Vec<_>>();

    let mut out = Vec::new();
    for (t, q) in query.chunks_exact(c.num_attention_heads * head).enumerate() {
        for (h, q) in q.chunks_exact(head).enumerate() {
            let query = rotated(model, &q[nope..], t);
            let scores = (0..=t).map(|s| {
                let k = times(&keys[h * nope * rank..(h + 1) * nope * rank], &latent[s]);
                ((dot(&q[..nope], &k) + dot(&query, &shared[s])) / (head as f64).sqrt()).exp()
            });
            let scores: Vec<f64> = scores.collect();
            let total: f64 = scores.iter().sum();
            let mut sum = vec![0.0; v];
            for (s, p) in scores.iter().enumerate() {
                let value = times(&values[h * v * rank..(h + 1) * v * rank], &latent[s]);
                sum.iter_mut().zip(value).for_each(|(sum, x)| *sum += p / total * x);
            }
            out.extend(sum);
        }
    }
    linear(model, layer, Role::AttentionOutput, &out)
}

fn ffn(model: &Model, layer: usize, x: &[f64]) -> Vec<f64> {
    let up = linear(model, layer, Role::FfnUp, x);
    let hidden: Vec<f64> = if model.config.layout == Layout::Latent {
        let gate = linear(model, layer, Role::FfnGate, x);
        gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
    } else {
        up.iter().map(|u| u.max(0.0).powi(2)).collect()
    };
    linear(model, layer, Role::FfnDown, &hidden)
}

/// `[tokens, vocab]`
fn logits(model: &Model) -> Vec<f64> {
    let (embedding, hidden) = read(model, TensorKey::global(Role::TokenEmbedding));
    let mut x: Vec<f64> =
        TOKENS.iter().flat_map(|&t| embedding[t * hidden..(t + 1) * hidden].to_vec()).collect();
    let add = |x: &mut Vec<f64>, y: Vec<f64>| x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    for layer in 0..model.config.num_hidden_layers {
        let input = normed(model, TensorKey::in_layer(layer, Role::AttentionNorm), &x);
        add(&mut x, attention(model, layer, &input));
        let input = normed(model, TensorKey::in_layer(layer, Role::FfnNorm), &x);
        add(&mut x, ffn(model, layer, &input));
    }
    let x = normed(model, TensorKey::global(Role::OutputNorm), &x);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.chunks_exact(hidden)
        .flat_map(|x| embedding.chunks_exact(hidden).map(|e| dot(x, e)).collect::<Vec<_>>())
        .collect()
}

/// The largest difference, in units of the range of `a`.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let range = a.iter().copied().fold(f64::MIN, f64::max) - a.iter().copied().fold(f64::MAX, f64::min);
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / range
}

#[test]
fn every_pass_keeps_the_logits() {
    for rank in [None, Some(20)] {
        let before = logits(&model(rank));
        for pass in Pass::all() {
            let after = logits(&apply(model(rank), &[pass]).unwrap());
            let off = distance(&before, &after);
            assert!(off < 1e-5, "{}: off by {off}", pass.name());
        }
        let all: Vec<Pass> = Pass::all().collect();
        let off = distance(&before, &logits(&apply(model(rank), &all).unwrap()));
        assert!(off < 1e-5, "all passes together: off by {off}");
    }
}

#[test]
fn balance_keeps_the_logits_to_the_last_bit() {
    let mut balanced = model(None);
    let expected = logits(&balanced);
    let sites: Vec<Site> = Site::all(&balanced.config).collect();
    let exponents = |site: &Site| {
        let exponent = |channel: usize| (channel * 7 % 11) as i8 - 5;
        (0..site.channels(&balanced.config)).map(|channel| exponent(channel) * site.step()).collect()
    };
    let chosen = sites.iter().map(|site| (site, Some(exponents(site))));
    let balance = Balance::of_sites(&balanced.config, chosen);
    super::balance::apply(&mut balanced.tensors, &balance);
    assert_eq!(logits(&balanced), expected);
    for site in sites {
        let original = model(None);
        let one = Balance::of_sites(&original.config, [(&site, Some(exponents(&site)))]);
        let changed = original.tensors.iter().filter(|t| one.of(t.key).is_some());
        for tensor in changed {
            assert_ne!(read(&balanced, tensor.key), read(&original, tensor.key), "{}", tensor.key);
        }
    }
}

#[test]
fn every_pass_changes_what_it_says_it_changes() {
    let changed = |pass: Pass| {
        let (before, after) = (model(None), apply(model(None), &[pass]).unwrap());
        let differs = |t: &&Tensor| Decoded::of(t).read_all().unwrap() != read_f32(&after, t.key);
        let mut roles: Vec<Role> = before.tensors.iter().filter(differs).map(|t| t.key.role).collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    };
    assert_eq!(changed(Pass::FoldLatentNorm), [Role::KvANorm, Role::KvB]);
    assert_eq!(changed(Pass::TurnLatent), [Role::KvA, Role::KvANorm, Role::KvB]);
    assert_eq!(changed(Pass::TurnValues), [Role::KvB, Role::AttentionOutput]);
    assert_eq!(changed(Pass::TurnKeys), [Role::Query, Role::KvB]);
    assert_eq!(changed(Pass::SortNeurons), [Role::FfnUp, Role::FfnDown]);
}

fn read_f32(model: &Model, key: TensorKey) -> Vec<f32> {
    Decoded::of(model.tensor(key).unwrap()).read_all().unwrap()
}

#[test]
fn the_latent_layout_keeps_the_logits() {
    for rank in [None, Some(20)] {
        let before = logits(&model(rank));
        let (latent, factors) = to_latent(model(rank)).unwrap();
        assert_eq!(latent.config.layout, Layout::Latent);
        let shapes = latent.tensors.iter().map(|t| (t.key, t.shape.clone())).collect::<Vec<_>>();
        assert_eq!(shapes, latent.config.expected_tensors());
        for t in &latent.tensors {
            assert_eq!(t.source.rows() * t.source.cols(), t.shape.iter().product::<usize>(), "{}", t.key);
        }
        assert!(factors.iter().all(|f| f.b() >= 16.0 && f.error_bound() <= 2e-3));
        let off = distance(&before, &logits(&latent));
        assert!(off < 1e-4, "off by {off}");
    }
}

#[test]
fn rows_come_out_the_same_in_any_pieces() {
    let all: Vec<Pass> = Pass::all().collect();
    let (latent, _) = to_latent(apply(model(None), &all).unwrap()).unwrap();
    for t in &latent.tensors {
        let (mut whole, mut piece, mut pieces) = (Vec::new(), Vec::new(), Vec::new());
        t.source.read_rows(0..t.source.rows(), &mut whole).unwrap();
        for start in (0..t.source.rows()).step_by(7) {
            t.source.read_rows(start..t.source.rows().min(start + 7), &mut piece).unwrap();
            pieces.extend_from_slice(&piece);
        }
        assert!(whole == pieces, "{}", t.key);
    }
}

#[test]
fn the_pair_is_within_its_bound_of_squared_relu() {
    let mut worst: f64 = 0.0;
    for b in [16.0, 64.0, 1024.0] {
        for step in -200_000..200_000 {
            let u = f64::from(step) * 1e-4 / b;
            let pair = u * u / (1.0 + (-b * u).exp());
            worst = worst.max((pair - u.max(0.0).powi(2)).abs() * b * b);
        }
    }
    assert!(worst <= gate::SQUARED_RELU_ERROR, "{worst}");
    assert!(worst > gate::SQUARED_RELU_ERROR - 1e-5, "the bound is not tight: {worst}");
}

/// Mean square error of the layer's FFN activations, relative to their mean square, for given forms of up and gate.
fn activation_error(up: &[f32], gate: &[f32], exact: &[f32], hidden: usize) -> f64 {
    let mut noise = Noise(3);
    let (mut error, mut energy) = (0.0, 0.0);
    for _ in 0..32 {
        let x: Vec<f64> = (0..hidden).map(|_| f64::from(noise.next(1.0))).collect();
        let dot = |w: &[f32]| w.iter().zip(&x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        for ((u, g), w) in up.chunks(hidden).zip(gate.chunks(hidden)).zip(exact.chunks(hidden)) {
            let (u, g, truth) = (dot(u), dot(g), dot(w).max(0.0).powi(2));
            let got = if g > 0.0 { u * g } else { 0.0 };
            error += (got - truth).powi(2);
            energy += truth * truth;
        }
    }
    error / energy
}

#[test]
fn a_compensated_gate_has_an_error_of_second_order() {
    use plmconv_quant::codec;
    let (latent, factors) = to_latent(model(None)).unwrap();
    let hidden = latent.config.hidden_size;
    let up = tensor(&latent, 0, Role::FfnUp).unwrap().clone();
    let mut gate = tensor(&latent, 0, Role::FfnGate).unwrap().clone();
    gate::compensate(&mut gate, &up, DType::Q4_0, factors[0]);
    let round = |values: Vec<f32>| {
        let mut bytes = vec![0; DType::Q4_0.encoded_len(values.len()).unwrap()];
        codec::encode_rows(DType::Q4_0, &values, hidden, None, &mut bytes).unwrap();
        let mut out = vec![0.0; values.len()];
        codec::decode(DType::Q4_0, &bytes, &mut out).unwrap();
        out
    };
    let exact = read_f32(&model(None), TensorKey::in_layer(0, Role::FfnUp));
    let in_units_of = |values: Vec<f32>, like: &[f32]| {
        let factor = values.iter().map(|v| v.abs()).fold(0.0, f32::max)
            / like.iter().map(|v| v.abs()).fold(0.0, f32::max);
        let factor = factor.log2().round().exp2();
        values.into_iter().map(|v| v / factor).collect::<Vec<f32>>()
    };
    let up = in_units_of(round(Decoded::of(&up).read_all().unwrap()), &exact);
    let gate = in_units_of(round(Decoded::of(&gate).read_all().unwrap()), &exact);
    let one = activation_error(&up, &up, &exact, hidden);
    let pair = activation_error(&up, &gate, &exact, hidden);
    assert!(pair < one / 2.5, "one copy {one}, the pair {pair}");
}

#[test]
fn names_are_unique_and_found() {
    for pass in Pass::all() {
        assert_eq!(Pass::from_name(pass.name()), Some(pass));
    }
    assert_eq!(Pass::from_name("turn"), None);
}
