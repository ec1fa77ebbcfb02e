//! Logits of float exports are the golden ones, in every profile and opset.
//!
//! The golden logits are those of the published code in double precision; plmconv's evaluator gives them within 1e-5
//! of their range (validate/tests/logits.rs), so nearness to them is nearness to it.

use plmconv_interop::golden::{Distance, Golden, distance};
use plmconv_validate::Runtime;

use super::{Flags, Workspace, open};

fn measure(dtype: &str, flags: Flags<'_>) -> Distance {
    let workspace = Workspace::new();
    let model = open(&workspace.convert(dtype, flags));
    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.vocab_size(), golden.vocab_size);
    let mut found = Vec::new();
    for sequence in &golden.sequences {
        let tokens: Vec<u32> = sequence.iter().map(|&token| token as u32).collect();
        let mut running = model.start().unwrap_or_else(|error| panic!("{error}"));
        found.extend(running.extend(&tokens, 0..tokens.len()).unwrap_or_else(|error| panic!("{error}")));
    }
    distance(&golden.logits.concat(), &found, golden.vocab_size)
}

fn check(dtype: &str, of_range: f64, flags: Flags<'_>) {
    let found = measure(dtype, flags);
    assert!(found.of_range <= of_range, "{dtype} {flags:?} is too far from the golden logits: {found:?}");
}

macro_rules! exports {
    ($($name:ident: $dtype:literal, $of_range:literal, $flags:expr;)*) => {$(
        #[test]
        fn $name() {
            check($dtype, $of_range, &$flags);
        }
    )*};
}

exports! {
    latent_f32_21: "f32", 1e-3, ["--profile", "latent"];
    latent_f32_23: "f32", 1e-3, ["--profile", "latent", "--opset", "23"];
    genai_f32_21:  "f32", 1e-3, ["--profile", "genai"];
    genai_f32_23:  "f32", 1e-3, ["--profile", "genai", "--opset", "23"];
    hf_f32_21:     "f32", 1e-3, ["--profile", "hf"];
    hf_f32_23:     "f32", 1e-3, ["--profile", "hf", "--opset", "23"];
    latent_f16_21: "f16", 1e-2, ["--profile", "latent"];
    latent_f16_23: "f16", 1e-2, ["--profile", "latent", "--opset", "23"];
    genai_f16_21:  "f16", 1e-2, ["--profile", "genai"];
    genai_f16_23:  "f16", 1e-2, ["--profile", "genai", "--opset", "23"];
    hf_f16_21:     "f16", 1e-2, ["--profile", "hf"];
    hf_f16_23:     "f16", 1e-2, ["--profile", "hf", "--opset", "23"];
}

#[test]
fn logits_that_are_not_kept_change_nothing() {
    let workspace = Workspace::new();
    let model = open(&workspace.convert("f32", &["--profile", "hf", "--num-logits-to-keep"]));
    let tokens: Vec<u32> = (100..140).collect();
    let extend = |wanted| {
        let mut running = model.start().unwrap_or_else(|error| panic!("{error}"));
        running.extend(&tokens, wanted).unwrap_or_else(|error| panic!("{error}"))
    };
    let (all, last) = (extend(0..40), extend(37..39));
    let vocab = model.vocab_size();
    assert_eq!(last.len(), 2 * vocab);
    assert!(distance(&all[37 * vocab..39 * vocab], &last, vocab).of_range < 1e-5);
}
