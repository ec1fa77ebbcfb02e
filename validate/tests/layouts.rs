//! The tiny PLM rewritten without changing its function: queries through a latent, keys and values split as
//! the latent layout stores them, a gate in the FFN. Logits must stay what they are.

mod common;

use std::ops::Range;
use std::sync::Arc;

use common::{evaluator, golden, relative_to_range, tiny_plm};
use plmconv_formats::model::Tensor;
use plmconv_formats::source::RowSource;
use plmconv_formats::{DType, Layout, Model, Role, TensorKey};
use plmconv_validate::{Attention, Evaluator, Options, Sequence};

/// An f32 matrix in memory.
#[derive(Debug)]
struct Memory {
    cols: usize,
    values: Vec<f32>,
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

    fn read_rows(&self, rows: Range<usize>, out: &mut Vec<u8>) -> plmconv_formats::Result<()> {
        let values = &self.values[rows.start * self.cols..rows.end * self.cols];
        out.clear();
        out.extend(values.iter().flat_map(|x| x.to_le_bytes()));
        Ok(())
    }
}

fn read(model: &Model, key: TensorKey) -> Vec<f32> {
    let source = &model.tensor(key).expect("the tensor").source;
    let mut bytes = Vec::new();
    source.read_rows(0..source.rows(), &mut bytes).expect("readable");
    let mut values = vec![0.0; source.rows() * source.cols()];
    plmconv_quant::codec::decode(source.dtype(), &bytes, &mut values).expect("decodes");
    values
}

fn put(model: &mut Model, key: TensorKey, cols: usize, values: Vec<f32>) {
    model.tensors.retain(|t| t.key != key);
    let shape = vec![values.len() / cols, cols];
    model.tensors.push(Tensor { key, shape, source: Arc::new(Memory { cols, values }) });
}

fn difference(model: &Model, options: Options) -> f64 {
    let golden = golden();
    let evaluator = Evaluator::load(model, options).expect("loads");
    let mut batch: Vec<_> =
        golden.tokens.iter().map(|tokens| Sequence { tokens, wanted: 0..64, cache: None }).collect();
    relative_to_range(&evaluator.forward(&mut batch).expect("runs"), &golden.logits)
}

fn both_forms() -> [Options; 2] {
    [Attention::Expanded, Attention::Absorbed].map(|attention| Options {
        attention,
        exact: true,
        ..Options::default()
    })
}

#[test]
fn queries_through_a_latent() {
    let mut model = tiny_plm();
    let hidden = model.config.hidden_size;
    for layer in 0..model.config.num_hidden_layers {
        let key = |role| TensorKey::in_layer(layer, role);
        // The norm's weights move behind a first projection that is the identity: its input then has a
        // root mean square of one, which the norm of the latent leaves as it is.
        let norm = read(&model, key(Role::AttentionNorm));
        let query = read(&model, key(Role::Query));
        let mut kv_a = read(&model, key(Role::KvA));
        for row in kv_a.chunks_exact_mut(hidden) {
            row.iter_mut().zip(&norm).for_each(|(x, w)| *x *= w);
        }
        let identity = (0..hidden * hidden).map(|i| f32::from(u8::from(i % (hidden + 1) == 0))).collect();
        put(&mut model, key(Role::AttentionNorm), hidden, vec![1.0; hidden]);
        put(&mut model, key(Role::KvA), hidden, kv_a);
        put(&mut model, key(Role::QueryA), hidden, identity);
        put(&mut model, key(Role::QueryANorm), hidden, norm);
        put(&mut model, key(Role::QueryB), hidden, query);
        model.tensors.retain(|t| t.key != key(Role::Query));
    }
    model.config.q_lora_rank = Some(hidden);
    for options in both_forms() {
        let off = difference(&model, options);
        // The second norm undoes the small part that epsilon took in the first.
        assert!(off < 1e-4, "{:?}: {off}", options.attention);
    }
}

fn split_kv_b(model: &mut Model) {
    let config = model.config.clone();
    let (nope, v, rank) =
        (config.qk_nope_head_dim, config.v_head_dim, config.kv_lora_rank.expect("latent attention"));
    for layer in 0..config.num_hidden_layers {
        let key = |role| TensorKey::in_layer(layer, role);
        let joint = read(model, key(Role::KvB));
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in joint.chunks_exact((nope + v) * rank) {
            keys.extend((0..rank * nope).map(|i| head[(i % nope) * rank + i / nope]));
            values.extend_from_slice(&head[nope * rank..]);
        }
        put(model, key(Role::KeyB), nope, keys);
        put(model, key(Role::ValueB), rank, values);
        model.tensors.retain(|t| t.key != key(Role::KvB));
    }
}

fn add_gates(model: &mut Model, steepness: f32) {
    for layer in 0..model.config.num_hidden_layers {
        let key = |role| TensorKey::in_layer(layer, role);
        let up = read(model, key(Role::FfnUp));
        let down = read(model, key(Role::FfnDown));
        let gate = up.iter().map(|x| x * steepness).collect();
        put(model, key(Role::FfnGate), 256, gate);
        put(model, key(Role::FfnDown), 1024, down.iter().map(|x| x / steepness).collect());
    }
}

#[test]
fn the_latent_layout_is_nearly_the_same_function() {
    let mut model = tiny_plm();
    split_kv_b(&mut model);
    // A sigmoid this steep is nearly a step.
    add_gates(&mut model, 65536.0);
    model.config.layout = Layout::Latent;
    for options in both_forms() {
        let off = difference(&model, options);
        assert!(off < 1e-6, "{:?}: {off}", options.attention);
    }
}

#[test]
fn a_missing_tensor_is_named() {
    let mut model = tiny_plm();
    let key = TensorKey::in_layer(4, Role::KvANorm);
    model.tensors.retain(|t| t.key != key);
    let error = Evaluator::load(&model, Options::default()).err().expect("refused");
    assert!(error.to_string().contains("blk.4.attn_kv_a_norm"), "{error}");
    assert!(evaluator(Options::default()).weight_bytes() > 0);
}
