//! The cache and padding change nothing: decoding gives what a prefill gives, a padded batch what single runs give.

use plmconv_interop::golden::distance;
use plmconv_validate::Runtime;
use plmconv_validate::onnx::{OnnxModel, Step};

use super::{Flags, Workspace, open};

/// Runs of another shape add in another order; a wrong mask or position is far beyond.
const F32: f64 = 1e-5;
const F16: f64 = 5e-3;

fn tokens(seed: i64, count: usize) -> Vec<i64> {
    (0..count as i64).map(|i| (seed + i * i * 37) % 4000).collect()
}

fn run(model: &OnnxModel, step: Step<'_>, cache: &mut plmconv_validate::onnx::Cache) -> Vec<f32> {
    model.run(step, cache).unwrap_or_else(|error| panic!("{error}"))
}

/// A prompt and one more token of a single sequence.
fn single(model: &OnnxModel, prompt: &[i64], next: i64) -> (Vec<f32>, Vec<f32>) {
    let mut cache = model.empty_cache(1).unwrap_or_else(|error| panic!("{error}"));
    let mask = vec![1; prompt.len() + 1];
    let step = |tokens, mask| Step { batch: 1, tokens, mask, keep: 0 };
    let first = run(model, step(prompt, &mask[1..]), &mut cache);
    (first, run(model, step(&[next], &mask), &mut cache))
}

fn decoding_is_prefill(model: &OnnxModel, limit: f64) {
    let tokens: Vec<u32> = tokens(5, 48).into_iter().map(|token| token as u32).collect();
    let mut running = model.start().unwrap_or_else(|error| panic!("{error}"));
    let whole = running.extend(&tokens, 0..48).unwrap_or_else(|error| panic!("{error}"));
    let mut running = model.start().unwrap_or_else(|error| panic!("{error}"));
    let mut parts = running.extend(&tokens[..30], 0..30).unwrap_or_else(|error| panic!("{error}"));
    for token in &tokens[30..] {
        parts.extend(running.extend(&[*token], 0..1).unwrap_or_else(|error| panic!("{error}")));
    }
    let found = distance(&whole, &parts, model.vocab_size());
    assert!(found.of_range <= limit, "{found:?}");
}

fn padding_is_nothing(model: &OnnxModel, limit: f64) {
    let (long, short) = (tokens(11, 40), tokens(23, 23));
    let padding = long.len() - short.len();
    let padded: Vec<i64> =
        long.iter().copied().chain(std::iter::repeat_n(0, padding)).chain(short.clone()).collect();
    let mut mask = vec![1; 80];
    mask[40..40 + padding].fill(0);
    let mut cache = model.empty_cache(2).unwrap_or_else(|error| panic!("{error}"));
    let batch = run(model, Step { batch: 2, tokens: &padded, mask: &mask, keep: 0 }, &mut cache);
    let grown: Vec<i64> = mask.chunks(40).flat_map(|row| row.iter().copied().chain([1])).collect();
    let next = run(model, Step { batch: 2, tokens: &[7, 8], mask: &grown, keep: 0 }, &mut cache);

    let vocab = model.vocab_size();
    let rows = |from: usize, to: usize| &batch[from * vocab..to * vocab];
    let (first, first_next) = single(model, &long, 7);
    let (second, second_next) = single(model, &short, 8);
    for (name, expected, found) in [
        ("the long prompt", &first[..], rows(0, 40)),
        ("the short prompt", &second[..], rows(40 + padding, 80)),
        ("after the long prompt", &first_next[..], &next[..vocab]),
        ("after the short prompt", &second_next[..], &next[vocab..]),
    ] {
        let found = distance(expected, found, vocab);
        assert!(found.of_range <= limit, "{name}: {found:?}");
    }
}

fn check(dtype: &str, limit: f64, flags: Flags<'_>) {
    let workspace = Workspace::new();
    let model = open(&workspace.convert(dtype, flags));
    decoding_is_prefill(&model, limit);
    padding_is_nothing(&model, limit);
}

macro_rules! exports {
    ($($name:ident: $dtype:literal, $limit:expr, $flags:expr;)*) => {$(
        #[test]
        fn $name() {
            check($dtype, $limit, &$flags);
        }
    )*};
}

exports! {
    latent_f32_21: "f32", F32, ["--profile", "latent"];
    latent_f32_23: "f32", F32, ["--profile", "latent", "--opset", "23"];
    genai_f32_21:  "f32", F32, ["--profile", "genai"];
    genai_f32_23:  "f32", F32, ["--profile", "genai", "--opset", "23"];
    hf_f32_21:     "f32", F32, ["--profile", "hf"];
    hf_f32_23:     "f32", F32, ["--profile", "hf", "--opset", "23"];
    latent_f16_21: "f16", F16, ["--profile", "latent"];
    hf_f16_23:     "f16", F16, ["--profile", "hf", "--opset", "23"];
}
