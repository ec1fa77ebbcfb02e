//! Files of the latent layout run in stock llama.cpp as `deepseek2`: with flash attention, with a small cache, and
//! with the logits of the `plm` file.

use plmconv_interop::converter;
use plmconv_interop::golden::{Distance, Golden, distance};
use plmconv_interop::llama::{Batch, Context, ContextOptions, Model, Token};

use super::checkpoint::Shape;
use super::{Workspace, load};

const LATENT: &[&str] = &["--layout", "latent"];

/// PLM-1.8B's attention, with little around it.
const WIDE: Shape = Shape {
    layers: 2,
    hidden: 256,
    intermediate: 256,
    heads: 16,
    q_lora_rank: None,
    kv_lora_rank: 512,
    nope: 128,
    rope: 64,
    v: 128,
};

/// As small as a model can be.
const NARROW: Shape = Shape {
    layers: 2,
    hidden: 64,
    intermediate: 128,
    heads: 2,
    q_lora_rank: None,
    kv_lora_rank: 64,
    nope: 32,
    rope: 16,
    v: 32,
};

fn context(model: &Model, flash_attention: bool) -> Context<'_> {
    let options =
        ContextOptions { n_ctx: 256, n_batch: 256, threads: 1, flash_attention, ..ContextOptions::default() };
    Context::new(model, options).unwrap_or_else(|error| panic!("{error}"))
}

/// Logits after every token of the golden sequences.
fn golden_logits(model: &Model, flash_attention: bool, golden: &Golden) -> Vec<f32> {
    let mut context = context(model, flash_attention);
    let logits = golden
        .sequences
        .iter()
        .flat_map(|tokens| context.logits_of(tokens).unwrap_or_else(|error| panic!("{error}")));
    logits.collect()
}

/// A checkpoint's two files of a type, and its logits in both: `plm` without flash attention, latent with it.
fn both(shape: Shape, file_type: &str) -> (Vec<f32>, Vec<f32>, usize) {
    let workspace = Workspace::new();
    let folder = workspace.path("checkpoint");
    shape.write(&folder);
    let tokens: Vec<Token> = (0..64).map(|i| (i * 37 + 5) % 4000).collect();
    let logits = |name: &str, more: &[&str], flash_attention| {
        let file = workspace.path(name);
        converter::quantize(file_type, &folder, &file, more).unwrap_or_else(|error| panic!("{error}"));
        let model = load(&file);
        let logits = context(&model, flash_attention).logits_of(&tokens).expect("64 tokens fit");
        (logits, model.vocab_size())
    };
    let (plm, vocab) = logits("plm.gguf", &[], false);
    let (latent, _) = logits("latent.gguf", LATENT, true);
    (plm, latent, vocab)
}

#[test]
fn the_f32_files_of_both_layouts_agree() {
    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let plm = golden_logits(&Workspace::new().load_tiny_plm("f32"), false, &golden);
    let model = load(&Workspace::new().tiny_plm("f32", LATENT));
    for flash_attention in [true, false] {
        let latent = golden_logits(&model, flash_attention, &golden);
        let found = distance(&plm, &latent, golden.vocab_size);
        assert!(
            found.mean_kl < 1e-5 && found.same_top >= 0.98,
            "flash attention {flash_attention}: {found:?}"
        );
        let found = distance(&golden.logits.concat(), &latent, golden.vocab_size);
        assert!(found.mean_kl < 1e-5, "flash attention {flash_attention}, from the reference: {found:?}");
    }
}

#[test]
fn every_pass_keeps_the_logits_in_the_runtime() {
    let workspace = Workspace::new();
    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let passes = "turn-latent,turn-values,turn-keys,rescale-neurons,sort-neurons";
    let model = load(&workspace.tiny_plm("f32", &["--layout", "latent", "--passes", passes]));
    let found = distance(&golden.logits.concat(), &golden_logits(&model, true, &golden), golden.vocab_size);
    assert!(found.mean_kl < 1e-5, "{found:?}");
}

/// Layer counts that llama.cpp's loader treats as other models'; 32 is PLM-1.8B's.
#[test]
fn layer_counts_that_mean_other_models_change_nothing() {
    for layers in [26, 27, 32, 47, 48, 60, 61] {
        let (plm, latent, vocab) = both(Shape { layers, ..NARROW }, "f32");
        let found = distance(&plm, &latent, vocab);
        assert!(found.mean_kl < 1e-5, "{layers} layers: {found:?}");
    }
}

#[test]
fn low_rank_queries_run_and_are_refused_where_the_loader_would_misread_them() {
    let workspace = Workspace::new();
    let folder = workspace.path("checkpoint");
    let shape = Shape { q_lora_rank: Some(32), ..NARROW };
    shape.write(&folder);
    let file = workspace.path("low-rank.gguf");
    converter::quantize("f32", &folder, &file, LATENT).unwrap_or_else(|error| panic!("{error}"));
    let logits = context(&load(&file), true).logits_of(&[1, 2, 3, 4]).expect("four tokens fit");
    assert!(logits.iter().all(|logit| logit.is_finite()));
    converter::quantize("f32", &folder, &workspace.path("plm.gguf"), &[])
        .expect_err("plm has one query matrix");

    Shape { layers: 27, ..shape }.write(&folder);
    let refused = converter::quantize("f32", &folder, &workspace.path("27.gguf"), LATENT);
    let message = refused.expect_err("27 layers mean one query matrix to the loader").to_string();
    assert!(message.contains("27 layers"), "{message}");
}

#[test]
fn the_cache_is_8_8_times_smaller_at_the_shape_of_plm_1_8b() {
    let workspace = Workspace::new();
    let folder = workspace.path("checkpoint");
    WIDE.write(&folder);
    let bytes = |name: &str, more: &[&str], flash_attention| {
        let file = workspace.path(name);
        converter::quantize("q4", &folder, &file, more).unwrap_or_else(|error| panic!("{error}"));
        let model = load(&file);
        let options =
            ContextOptions { n_ctx: 4096, threads: 1, flash_attention, ..ContextOptions::default() };
        let context = Context::new(&model, options).unwrap_or_else(|error| panic!("{error}"));
        context.kv_cache_bytes().expect("llama.cpp logs the size of its cache")
    };
    let plm = bytes("plm.gguf", &[], false);
    let latent = bytes("latent.gguf", LATENT, true);
    // 2 layers of 4096 cells, two bytes a value: 16 * (192 + 128) values against 512 + 64.
    assert!((plm - 2.0 * 4096.0 * 5120.0 * 2.0).abs() < 1e5, "{plm}");
    assert!((latent - 2.0 * 4096.0 * 576.0 * 2.0).abs() < 1e5, "{latent}");
    assert!(plm / latent >= 8.8, "{}", plm / latent);
}

#[test]
fn a_q4_file_at_the_shape_of_plm_1_8b_runs() {
    let (plm, latent, vocab) = both(WIDE, "q4");
    let found = distance(&plm, &latent, vocab);
    assert!(found.mean_kl.is_finite() && found.of_range < 0.2, "{found:?}");
}

#[test]
fn the_q4_file_is_nearer_to_the_model_than_that_of_plm_and_not_much_larger() {
    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let reference = golden.logits.concat();
    let measure = |more: &[&str], flash_attention| {
        let workspace = Workspace::new();
        let file = workspace.tiny_plm("q4", more);
        let bytes = std::fs::metadata(&file).expect("it was written").len();
        let logits = golden_logits(&load(&file), flash_attention, &golden);
        (distance(&reference, &logits, golden.vocab_size).mean_kl, bytes as f64)
    };
    let (plm, plm_bytes) = measure(&[], false);
    let (latent, latent_bytes) = measure(LATENT, true);
    assert!(latent <= plm, "latent {latent}, plm {plm}");
    assert!(latent_bytes <= 1.15 * plm_bytes, "latent {latent_bytes} bytes, plm {plm_bytes}");
}

/// A ceiling of the mean divergence from the golden logits, and 16 generated tokens.
fn check(file_type: &str, ceiling: f64) {
    let workspace = Workspace::new();
    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let model = load(&workspace.tiny_plm(file_type, LATENT));
    let found: Distance =
        distance(&golden.logits.concat(), &golden_logits(&model, true, &golden), golden.vocab_size);
    assert!(found.mean_kl <= ceiling, "{file_type} is too far from the golden logits: {found:?}");
    let generated =
        context(&model, true).generate_greedy(&golden.sequences[0][..8], 16).expect("24 tokens fit");
    assert_eq!(generated.len(), 16);
}

macro_rules! file_types {
    ($($name:ident: $ceiling:literal;)*) => {$(
        #[test]
        fn $name() {
            check(stringify!($name), $ceiling);
        }
    )*};
}

// Ceilings a third above what was measured, for kernels of other instruction sets.
file_types! {
    f16:    1e-5;
    bf16:   3e-5;
    q8_0:   2.6e-4;
    q6_k:   0.0015;
    q5_0:   0.0030;
    q5_1:   0.0024;
    q5_k_s: 0.0027;
    q5_k_m: 0.0025;
    q4_0:   0.0077;
    q4_1:   0.0072;
    q4_k_s: 0.0066;
    q4_k_m: 0.0043;
    iq4_nl: 0.0077;
    iq4_xs: 0.0085;
    q3_k_s: 0.024;
    q3_k_m: 0.0135;
    q3_k_l: 0.0080;
    q2_k:   0.033;
    tq1_0:  2.3;
    tq2_0:  2.3;
}

#[test]
fn a_repeated_state_is_as_long_and_as_usable_as_a_computed_one() {
    for (more, flash_attention) in [(&[][..], false), (LATENT, true), (LATENT, false)] {
        let model = load(&Workspace::new().tiny_plm("q8_0", more));
        let mut context = context(&model, flash_attention);
        let tokens: Vec<Token> = (0..96).map(|i| (i * 37 + 5) % 4000).collect();
        context.logits_of(&tokens).expect("96 tokens fit");
        let computed_bytes = context.sequence_state_bytes();
        context.logits_of(&tokens[..32]).expect("32 tokens fit");
        let state = context.sequence_state().unwrap_or_else(|error| panic!("{error}"));
        let repeated = state.repeated(96).unwrap_or_else(|error| panic!("{error}"));
        context.restore_sequence(&repeated).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(context.sequence_state_bytes(), computed_bytes);
        let mut batch = Batch::default();
        batch.push(tokens[0], 96, 0, true);
        context.decode(&mut batch).unwrap_or_else(|error| panic!("{error}"));
        assert!(context.logits().expect("asked for").iter().all(|x| x.is_finite()));
    }
}

#[test]
fn a_state_repeated_to_its_own_length_is_itself() {
    let model = load(&Workspace::new().tiny_plm("q8_0", &[]));
    let mut context = context(&model, false);
    let tokens: Vec<Token> = (0..32).collect();
    let following = |context: &mut Context<'_>| {
        let mut batch = Batch::default();
        batch.push(7, 32, 0, true);
        context.decode(&mut batch).unwrap_or_else(|error| panic!("{error}"));
        context.logits().expect("asked for").to_vec()
    };
    context.logits_of(&tokens).expect("32 tokens fit");
    let state = context.sequence_state().unwrap_or_else(|error| panic!("{error}"));
    let expected = following(&mut context);
    let same = state.repeated(32).unwrap_or_else(|error| panic!("{error}"));
    context.restore_sequence(&same).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(following(&mut context), expected);
}
