//! Logits of PLM's relatives against those of their classes in transformers, computed in float64 (see
//! fixtures/make_family.py).

mod common;

use common::{Golden, fixture, golden_of, quantized_model, relative_to_range};
use plmconv_formats::{DType, Model};
use plmconv_validate::{Evaluator, Options, Sequence};

const FAMILY: [&str; 1] = ["arcee"];

/// How far logits may be from the golden ones, of their range. Rounding operands to 16 bits moves those of a random model,
/// whose attention is sharp by design, by three times what it does to a trained one.
fn limit(exact: bool) -> f64 {
    if exact { 1e-5 } else { 3e-4 }
}

fn model(name: &str) -> Model {
    Model::open(fixture(&format!("family/tiny-{name}"))).expect("the fixture opens")
}

fn golden(name: &str) -> Golden {
    golden_of(&format!("family/tiny-{name}-logits.safetensors"))
}

fn logits(model: &Model, golden: &Golden, options: Options) -> Vec<f32> {
    let evaluator = Evaluator::load(model, options).expect("the fixture loads");
    let whole = |tokens| Sequence { tokens, wanted: 0..tokens.len(), cache: None };
    let mut batch: Vec<_> = golden.tokens.iter().map(|tokens| whole(tokens)).collect();
    evaluator.forward(&mut batch).expect("runs")
}

#[test]
fn equal_transformers() {
    for name in FAMILY {
        let (model, golden) = (model(name), golden(name));
        for exact in [true, false] {
            let found = logits(&model, &golden, Options { exact, ..Options::default() });
            let off = relative_to_range(&found, &golden.logits);
            eprintln!("{name}, exact {exact}: {off:.2e} of the range");
            assert!(off < limit(exact), "{name}, exact {exact}: {off}");
        }
    }
}

#[test]
fn token_by_token_equal_those_of_the_whole() {
    for (name, exact) in FAMILY.into_iter().flat_map(|name| [(name, true), (name, false)]) {
        let golden = golden(name);
        let options = Options { exact, ..Options::default() };
        let evaluator = Evaluator::load(&model(name), options).expect("the fixture loads");
        let tokens = &golden.tokens[0];
        let vocab = evaluator.config().vocab_size;
        for sizes in [vec![1; tokens.len()], vec![40, 1, 2, tokens.len() - 43]] {
            let mut cache = evaluator.new_cache();
            let mut found = Vec::new();
            for size in sizes {
                let piece = &tokens[cache.len()..cache.len() + size];
                let sequence = Sequence { tokens: piece, wanted: 0..size, cache: Some(&mut cache) };
                found.extend(evaluator.forward(&mut [sequence]).expect("runs"));
            }
            let off = relative_to_range(&found, &golden.logits[..tokens.len() * vocab]);
            assert!(off < limit(exact), "{name}, exact {exact}: {off}");
        }
    }
}

/// A model by its name, and what is changed of it.
type Change = (&'static str, fn(&mut Model));

/// The golden logits tell every part of the description from its neighbours.
#[test]
fn each_part_of_the_description_counts() {
    let changes: [Change; 4] = [
        ("arcee", |m| m.config.rope_scaling = None),
        ("arcee", |m| m.config.rope_scaling.as_mut().expect("YaRN").original_context *= 2),
        ("arcee", |m| m.config.rope_theta *= 2.0),
        ("arcee", |m| m.config.tie_word_embeddings = true),
    ];
    for (name, change) in changes {
        let golden = golden(name);
        let mut model = model(name);
        change(&mut model);
        let off = relative_to_range(&logits(&model, &golden, Options::default()), &golden.logits);
        assert!(off > 1e-2, "{name}: {off}");
    }
}

#[test]
fn weights_of_few_bits_run_too() {
    for name in FAMILY {
        let golden = golden(name);
        let found = logits(&quantized_model(model(name), DType::Q8_0), &golden, Options::default());
        let off = relative_to_range(&found, &golden.logits);
        assert!((1e-4..0.05).contains(&off), "{name}: {off}");
    }
}
