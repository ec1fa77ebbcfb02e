//! Perplexity, divergence, stored references, sparsity and generation on the tiny PLM.

mod common;

use std::ops::ControlFlow;

use common::{VOCAB, evaluator, golden, quantized, text, tiny_plm};
use plmconv_formats::{DType, TextTokenizer};
use plmconv_quant::simd::Level;
use plmconv_validate::divergence::{Detail, Divergence, Side, compare};
use plmconv_validate::generate::{GenerateOptions, generate};
use plmconv_validate::perplexity::perplexity;
use plmconv_validate::reference::{MODEL_DIGEST, Reference, ReferenceOptions, Stored, write_reference};
use plmconv_validate::sample::{SampleOptions, sample_text};
use plmconv_validate::sparsity::Sparsity;
use plmconv_validate::{Attention, Error, Evaluator, Options, Point, Sequence, Site, Windows};

fn exact() -> Options {
    Options { exact: true, ..Options::default() }
}

fn side_by_side(candidate: &Evaluator, reference: Side<'_>, windows: &Windows<'_>) -> Divergence {
    let detail = Detail { worst_tokens: 3, per_layer: true };
    compare(candidate, reference, windows, detail, |_| ControlFlow::Continue(())).expect("runs").0
}

/// Negative log-likelihoods straight from the golden logits, windows of 64.
fn golden_likelihoods() -> Vec<f64> {
    let golden = golden();
    let mut all = Vec::new();
    for (w, tokens) in golden.tokens.iter().enumerate() {
        for position in 32..63 {
            let row = &golden.logits[(w * 64 + position) * VOCAB..][..VOCAB];
            let sum: f64 = row.iter().map(|x| (*x as f64).exp()).sum();
            all.push(sum.ln() - row[tokens[position + 1] as usize] as f64);
        }
    }
    all
}

#[test]
fn perplexity_is_that_of_the_golden_logits() {
    let text = text();
    let windows = Windows::new(&text, 64, None, None).expect("two windows");
    let expected = golden_likelihoods();
    let n = expected.len() as f64;
    let mean = expected.iter().sum::<f64>() / n;
    let variance = expected.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n;
    let generic = Options { kernel: Level::Generic, threads: 2, ..Options::default() };
    for options in [exact(), Options::default(), generic] {
        let found =
            perplexity(&evaluator(options), &windows, None, |_| ControlFlow::Continue(())).expect("runs");
        assert_eq!(found.tokens_scored, expected.len());
        let (value, wanted) = (found.perplexity.value, mean.exp());
        // Products of 16 bits: what 62 positions do not average out. A whole text agrees to 2e-7.
        let bound = if options.exact { 1e-5 } else { 2e-5 };
        assert!((value / wanted - 1.0).abs() < bound, "{options:?}: {value}, wanted {wanted}");
        let error = mean.exp() * (variance / (n - 1.0)).sqrt();
        assert!((found.perplexity.error / error - 1.0).abs() < 1e-4);
        let active = found.active_neurons.expect("the evaluator sees them");
        assert!((0.05..0.25).contains(&active), "{active}");
    }
}

#[test]
fn a_model_does_not_diverge_from_itself() {
    let text = text();
    let windows = Windows::new(&text, 32, None, None).expect("four windows");
    let (a, b) = (evaluator(Options::default()), evaluator(Options::default()));
    let same = side_by_side(&a, Side::Model(&b), &windows);
    assert_eq!(same.tokens_scored, 4 * 15);
    assert!(same.kld_max < 1e-12);
    assert_eq!(same.same_top.value, 1.0);
    assert!(same.log_ratio.value.abs() < 1e-12);
    assert!(same.layers.expect("asked for").iter().all(|l| l.relative_error == 0.0));
}

#[test]
fn coarser_types_diverge_more() {
    let text = text();
    let windows = Windows::new(&text, 32, None, None).expect("four windows");
    let reference = evaluator(Options::default());
    let mut before = 0.0;
    for dtype in [DType::Q8_0, DType::Q5_0, DType::Q4_0] {
        let candidate = Evaluator::load(&quantized(dtype), Options::default()).expect("loads");
        assert!(candidate.weight_bytes() < reference.weight_bytes() / 16 * 10);
        let found = side_by_side(&candidate, Side::Model(&reference), &windows);
        assert!(found.kld.value > 3.0 * before, "{dtype}: {}", found.kld.value);
        before = found.kld.value;
        assert!(found.kld_median <= found.kld_p90 && found.kld_p999 <= found.kld_max);
        assert!(found.same_top.value > 0.8);
        let ratio = found.perplexity_candidate.value / found.perplexity_reference.value;
        assert!((ratio.ln() - found.log_ratio.value).abs() < 1e-12);
        // The text is the same, so the ratio is far better known than either side.
        assert!(
            found.log_ratio.error < 0.2 * found.perplexity_reference.error / found.perplexity_reference.value
        );
        assert_eq!(found.kld_by_token.len(), found.tokens_scored);
        let worst = &found.worst[0];
        assert_eq!(found.worst.len(), 3);
        assert_eq!(worst.kld as f32, found.kld_by_token.iter().copied().fold(0.0, f32::max));
        assert_eq!(worst.token, text[worst.position]);
        assert_eq!(worst.context.last(), Some(&text[worst.position - 1]));
        let layers = found.layers.expect("asked for");
        assert_eq!(layers.len(), 6);
        assert!(layers[5].relative_error > layers[0].relative_error);
    }
    assert!(before < 0.05);
}

#[test]
fn stored_references_say_what_the_model_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let text = text();
    let windows = Windows::new(&text, 32, None, None).expect("four windows");
    let reference = evaluator(exact());
    let candidate = Evaluator::load(&quantized(DType::Q4_0), exact()).expect("loads");
    let expected = side_by_side(&candidate, Side::Model(&reference), &windows);
    let store = |name: &str, top_k| {
        let path = folder.path().join(name);
        let metadata = vec![(MODEL_DIGEST.to_string(), "abc".to_string())];
        let options = ReferenceOptions { top_k, metadata, overwrite: false };
        let found = write_reference(&reference, &windows, &path, &options, |_| ControlFlow::Continue(()))
            .expect("writes");
        assert!((found.value / expected.perplexity_reference.value - 1.0).abs() < 1e-6);
        Reference::open(&path).expect("opens")
    };
    for (name, top_k) in [("full", None), ("all", Some(usize::MAX)), ("top", Some(64))] {
        let stored = store(name, top_k);
        assert_eq!(stored.metadata(MODEL_DIGEST), Some("abc"));
        assert_eq!(stored.vocab_size(), VOCAB);
        assert_eq!(stored.stored(), if top_k.is_none() { Stored::Logits } else { Stored::TopK });
        let found = side_by_side(&candidate, Side::Stored(&stored), &stored.windows());
        assert_eq!(found.same_top, expected.same_top);
        assert!((found.log_ratio.value - expected.log_ratio.value).abs() < 1e-6);
        let ratio = found.kld.value / expected.kld.value;
        // What lies outside the most likely tokens is seen as one bin.
        let range = if name == "top" { 0.5..1.0001 } else { 0.9999..1.0001 };
        assert!(range.contains(&ratio), "{name}: {ratio}");
        assert!(found.layers.is_none());
    }
    let other = Windows::new(&text[1..], 32, None, None).expect("three windows");
    let stored = store("again", Some(8));
    let refused =
        compare(&candidate, Side::Stored(&stored), &other, Detail::default(), |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::Reference { .. })));
}

#[test]
fn logits_of_all_positions_are_accepted() {
    let stored = Reference::open(common::fixture("golden/logits.safetensors")).expect("opens");
    let evaluator = evaluator(exact());
    let found = side_by_side(&evaluator, Side::Stored(&stored), &stored.windows());
    assert_eq!(found.tokens_scored, 2 * 31);
    assert!(found.kld_max < 1e-8, "{}", found.kld_max);
    assert_eq!(found.same_top.value, 1.0);
}

#[test]
fn a_model_file_is_no_reference() {
    let refused = Reference::open(common::fixture("tiny-plm/model.safetensors"));
    assert!(matches!(refused, Err(Error::Reference { detail, .. }) if detail.contains("input_ids")));
}

#[test]
fn sparsity_counts_what_fires() {
    let text = text();
    let windows = Windows::new(&text, 64, None, None).expect("two windows");
    let model = tiny_plm();
    let mut sparsity = Sparsity::new(&model.config);
    let evaluator = evaluator(Options::default());
    let mut last = Vec::new();
    let mut observer = |site, values: &[f32]| {
        sparsity.observe(site, values);
        if site == Site::in_layer(5, Point::FfnHidden) {
            last.extend_from_slice(values);
        }
    };
    let found =
        perplexity(&evaluator, &windows, Some(&mut observer), |_| ControlFlow::Continue(())).expect("runs");
    assert_eq!(sparsity.tokens(), 128);
    let layers = sparsity.layers();
    assert_eq!(layers.len(), 6);
    let zeros = layers.iter().map(|l| l.zeros).sum::<f64>() / 6.0;
    assert!((zeros - (1.0 - found.active_neurons.expect("seen"))).abs() < 1e-12);
    let fired = |j: usize| last.iter().skip(j).step_by(1024).filter(|x| **x > 0.0).count();
    assert_eq!(last.len(), 128 * 1024);
    assert_eq!(layers[5].never, (0..1024).filter(|j| fired(*j) == 0).count());
    assert_eq!(layers[5].almost_always, (0..1024).filter(|j| fired(*j) > 115).count());
    let zeros = last.iter().filter(|x| **x == 0.0).count() as f64 / last.len() as f64;
    assert!((layers[5].zeros - zeros).abs() < 1e-12 && zeros > 0.5);
}

#[test]
fn greedy_text_is_what_the_logits_say() {
    let prompt = &text()[..20];
    let evaluator = evaluator(exact());
    let options = GenerateOptions { max_tokens: 12, ..GenerateOptions::default() };
    let mut streamed = Vec::new();
    let on_token = |token| {
        streamed.push(token);
        ControlFlow::Continue(())
    };
    let written = generate(&evaluator, prompt, &options, on_token).expect("runs");
    assert_eq!(written.len(), 12);
    assert_eq!(streamed, written);
    let whole: Vec<u32> = prompt.iter().chain(&written).copied().collect();
    let wanted = prompt.len() - 1..whole.len() - 1;
    let logits = evaluator.forward(&mut [Sequence { tokens: &whole, wanted, cache: None }]).expect("runs");
    for (row, token) in logits.chunks(VOCAB).zip(&written) {
        let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).expect("not empty").0;
        assert_eq!(best as u32, *token);
    }
    let stop = GenerateOptions { stop: vec![written[3]], ..options };
    let stopped = generate(&evaluator, prompt, &stop, |_| ControlFlow::Continue(())).expect("runs");
    let until = written.iter().position(|t| *t == written[3]).expect("it was written");
    assert_eq!(stopped, written[..until]);
}

#[test]
fn seeds_repeat_a_text() {
    let evaluator = evaluator(Options::default());
    let with = |seed| {
        let options =
            GenerateOptions { max_tokens: 16, temperature: 1.0, seed, ..GenerateOptions::default() };
        generate(&evaluator, &text()[..4], &options, |_| ControlFlow::Continue(())).expect("runs")
    };
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}

#[test]
fn faults_are_named() {
    let evaluator = evaluator(Options::default());
    let run = |tokens: &[u32], wanted| evaluator.forward(&mut [Sequence { tokens, wanted, cache: None }]);
    assert!(matches!(run(&[1, 4096], 0..1), Err(Error::TokenOutOfRange { token: 4096, position: 1, .. })));
    assert!(matches!(run(&[], 0..0), Err(Error::EmptySequence)));
    assert!(matches!(run(&[1, 2], 1..3), Err(Error::WantedRows { .. })));
    assert!(matches!(run(&vec![1; 4097], 0..1), Err(Error::ContextLength { position: 4096, context: 4096 })));
    let negative = GenerateOptions { temperature: -1.0, ..GenerateOptions::default() };
    let refused = generate(&evaluator, &[1], &negative, |_| ControlFlow::Continue(()));
    assert!(matches!(refused, Err(Error::Temperature { .. })));
}

#[test]
fn texts_written_together_are_likely_and_of_the_asked_lengths() {
    let model = tiny_plm();
    let tokenizer = TextTokenizer::from_model(&model).expect("the fixture's tokenizer");
    let sample = |attention, seed, tokens| {
        let evaluator = evaluator(Options { attention, ..Options::default() });
        let options = SampleOptions { tokens, length: 24, seed };
        let mut last = 0;
        let count = |done| {
            assert!(done > last, "{done} after {last}");
            last = done;
            ControlFlow::Continue(())
        };
        let written = sample_text(&evaluator, &tokenizer, options, count).expect("runs");
        assert_eq!((written.len(), last), (tokens, tokens));
        written
    };
    // Eight whole texts and a short one.
    let written = sample(Attention::Absorbed, 3, 200);
    assert_eq!(written, sample(Attention::Absorbed, 3, 200));
    assert_ne!(written, sample(Attention::Absorbed, 4, 200));
    let texts: Vec<&[u32]> = written.chunks(24).collect();
    assert!(texts.iter().skip(1).all(|text| text != &texts[0]), "every text is drawn anew");
    // What the model writes is likelier to it than the same tokens in reverse.
    let likelihood = |tokens: &[u32]| {
        let windows = Windows::new(tokens, 24, None, None).expect("whole windows");
        perplexity(&evaluator(exact()), &windows, None, |_| ControlFlow::Continue(()))
            .expect("runs")
            .perplexity
            .value
    };
    let reversed: Vec<u32> = written.iter().rev().copied().collect();
    assert!(likelihood(&written[..192]) < likelihood(&reversed[..192]) / 2.0);
}
