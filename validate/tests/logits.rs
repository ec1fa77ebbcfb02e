//! Logits of the tiny PLM, against those of the published modelling code and against each other.

mod common;

use common::{Golden, VOCAB, evaluator, golden, quantized, relative_to_range};
use plmconv_formats::DType;
use plmconv_quant::simd::Level;
use plmconv_validate::{Attention, Evaluator, Options, Sequence};

fn all_logits(evaluator: &Evaluator, golden: &Golden) -> Vec<f32> {
    let mut batch: Vec<_> = golden
        .tokens
        .iter()
        .map(|tokens| Sequence { tokens, wanted: 0..tokens.len(), cache: None })
        .collect();
    evaluator.forward(&mut batch).expect("runs")
}

#[test]
fn equal_the_published_code() {
    let golden = golden();
    for exact in [true, false] {
        for attention in [Attention::Expanded, Attention::Absorbed] {
            let evaluator = evaluator(Options { exact, attention, ..Options::default() });
            let off = relative_to_range(&all_logits(&evaluator, &golden), &golden.logits);
            eprintln!("exact {exact} {attention:?}: {off:.2e} of the range");
            assert!(off < 1e-4, "exact {exact}, {attention:?}: {off}");
        }
    }
}

#[test]
fn do_not_depend_on_the_number_of_threads() {
    let golden = golden();
    for exact in [true, false] {
        let of = |threads| all_logits(&evaluator(Options { threads, exact, ..Options::default() }), &golden);
        assert!(of(1) == of(3));
    }
}

#[test]
fn hardly_depend_on_the_kernel() {
    let golden = golden();
    for exact in [true, false] {
        let of = |kernel| all_logits(&evaluator(Options { kernel, exact, ..Options::default() }), &golden);
        let expected = of(Level::Generic);
        for kernel in Level::available() {
            let off = relative_to_range(&of(kernel), &expected);
            eprintln!("{kernel}, exact {exact}: {off:.2e} of the range");
            // Where operands are rounded, a last bit elsewhere may round one of them the other way.
            let limit = if exact { 1e-6 } else { 1e-4 };
            assert!(off < limit, "{kernel}, exact {exact}: {off}");
        }
    }
}

/// Logits of the first golden sequence, run in pieces of the given sizes.
fn in_pieces(evaluator: &Evaluator, tokens: &[u32], sizes: &[usize]) -> Vec<f32> {
    let mut cache = evaluator.new_cache();
    let (mut logits, mut first) = (Vec::new(), 0);
    for size in sizes {
        let piece = &tokens[first..first + size];
        let sequence = Sequence { tokens: piece, wanted: 0..*size, cache: Some(&mut cache) };
        logits.extend(evaluator.forward(&mut [sequence]).expect("runs"));
        first += size;
        assert_eq!(cache.len(), first);
    }
    logits
}

#[test]
fn token_by_token_equal_those_of_the_whole() {
    let golden = golden();
    let tokens = &golden.tokens[0];
    let expected = &golden.logits[..tokens.len() * VOCAB];
    for attention in [Attention::Expanded, Attention::Absorbed] {
        let evaluator = evaluator(Options { attention, ..Options::default() });
        for sizes in [vec![1; 64], vec![40, 1, 2, 20, 1], vec![5, 59]] {
            let off = relative_to_range(&in_pieces(&evaluator, tokens, &sizes), expected);
            assert!(off < 1e-4, "{attention:?} in pieces of {sizes:?}: {off}");
        }
    }
}

#[test]
fn token_by_token_equal_those_of_the_whole_for_encoded_weights() {
    let tokens = &golden().tokens[0];
    for dtype in [DType::Q4K, DType::Q5K, DType::Q6K, DType::Q8_0] {
        let evaluator = Evaluator::load(&quantized(dtype), Options::default()).expect("loads");
        let whole = in_pieces(&evaluator, tokens, &[64]);
        let off = relative_to_range(&in_pieces(&evaluator, tokens, &[1; 64]), &whole);
        eprintln!("{dtype}: {off:.2e} of the range");
        assert!(off < 1e-4, "{dtype}: {off}");
    }
}

#[test]
fn latent_cache_is_small() {
    let golden = golden();
    let tokens = &golden.tokens[0][..10];
    for (attention, values) in [(Attention::Expanded, 4 * (96 + 64)), (Attention::Absorbed, 256 + 32)] {
        let evaluator = evaluator(Options { attention, ..Options::default() });
        let mut cache = evaluator.new_cache();
        evaluator.forward(&mut [Sequence { tokens, wanted: 9..10, cache: Some(&mut cache) }]).expect("runs");
        assert_eq!(cache.values_per_token(), values);
        assert_eq!(cache.byte_len(), 10 * 6 * values * 4);
        cache.truncate(4);
        assert_eq!(cache.byte_len(), 4 * 6 * values * 4);
    }
}

#[test]
fn only_wanted_rows_are_computed() {
    let golden = golden();
    let evaluator = evaluator(Options::default());
    let all = all_logits(&evaluator, &golden);
    let mut batch = [
        Sequence { tokens: &golden.tokens[0], wanted: 32..63, cache: None },
        Sequence { tokens: &golden.tokens[1], wanted: 5..5, cache: None },
        Sequence { tokens: &golden.tokens[1][..9], wanted: 8..9, cache: None },
    ];
    let some = evaluator.forward(&mut batch).expect("runs");
    assert_eq!(some.len(), 32 * VOCAB);
    assert!(relative_to_range(&some[..31 * VOCAB], &all[32 * VOCAB..63 * VOCAB]) < 1e-5);
    assert!(relative_to_range(&some[31 * VOCAB..], &all[72 * VOCAB..73 * VOCAB]) < 1e-5);
}
