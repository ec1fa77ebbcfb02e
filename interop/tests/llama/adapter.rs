//! A LoRA adapter that llama.cpp adds up at run time, beside the same one merged by plmconv.

use std::path::PathBuf;
use std::process::Command;

use plmconv_interop::golden::{Golden, distance};
use plmconv_interop::{converter, golden};
use safetensors::SafeTensors;

use super::{Workspace, context, load};

const SCALE: &str = "4";

/// The fixture's adapter without the matrices to which llama.cpp adds none.
fn adapter(workspace: &Workspace) -> PathBuf {
    let (from, to) = (golden::fixtures().join("tiny-lora"), workspace.path("adapter"));
    std::fs::create_dir(&to).expect("a folder of the test's own");
    std::fs::copy(from.join("adapter_config.json"), to.join("adapter_config.json")).expect("a fixture");
    let bytes = std::fs::read(from.join("adapter_model.safetensors")).expect("a fixture");
    let tensors = SafeTensors::deserialize(&bytes).expect("a fixture");
    let kept: Vec<_> = tensors
        .tensors()
        .into_iter()
        .filter(|(name, _)| name.contains(".o_proj.") || name.contains(".down_proj."))
        .collect();
    assert_eq!(kept.len(), 4);
    let bytes = safetensors::serialize(kept, None).expect("tensors of a file");
    std::fs::write(to.join("adapter_model.safetensors"), bytes).expect("a folder of the test's own");
    to
}

#[test]
fn an_adapter_is_what_it_is_when_it_is_merged() {
    let workspace = Workspace::new();
    let (adapter, file) = (adapter(&workspace), workspace.path("adapter.gguf"));
    let base = golden::fixtures().join("tiny-plm");
    let mut convert = Command::new(converter::plmconv());
    convert
        .arg("convert")
        .arg(&adapter)
        .args(["--to", "gguf-lora", "--base"])
        .arg(&base)
        .arg("-o")
        .arg(&file);
    converter::stdout_of(&mut convert).unwrap_or_else(|error| panic!("{error}"));
    let merged = workspace.path("merged.gguf");
    let lora = format!("{}={SCALE}", adapter.display());
    converter::quantize("f32", &base, &merged, &["--lora", &lora]).unwrap_or_else(|error| panic!("{error}"));

    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let tokens = &golden.sequences[0];
    let plain = workspace.load_tiny_plm("f32");
    let mut running = context(&plain);
    let logits = |context: &mut plmconv_interop::llama::Context<'_>| {
        context.logits_of(tokens).unwrap_or_else(|error| panic!("{error}"))
    };
    let without = logits(&mut running);
    let scale = SCALE.parse().expect("a number");
    running.add_adapter(&file, scale).unwrap_or_else(|error| panic!("{error}"));
    let with = logits(&mut running);
    let merged = load(&merged);
    let expected = logits(&mut context(&merged));
    let near = distance(&expected, &with, golden.vocab_size);
    let far = distance(&expected, &without, golden.vocab_size);
    // The same sums in another order, with a cache in f16: 3e-10 nats, where the adapter itself makes 0.03.
    assert!(near.mean_kl < 1e-8 && near.of_range < 1e-4, "{near:?}");
    assert!(far.mean_kl > 1e-2, "{far:?}");
}
