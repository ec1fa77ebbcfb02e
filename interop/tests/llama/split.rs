//! Shards are what llama.cpp expects of a split file.

use std::path::PathBuf;

use plmconv_interop::Error;
use plmconv_interop::golden::Golden;
use plmconv_interop::llama::{LoadOptions, Model};

use super::{Workspace, context, load};

fn shards(workspace: &Workspace) -> Vec<PathBuf> {
    let output = workspace.path("part.gguf");
    plmconv_interop::converter::quantize(
        "q8_0",
        &plmconv_interop::golden::fixtures().join("tiny-plm"),
        &output,
        &["--split-max-size", "2M"],
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let folder =
        std::fs::read_dir(output.parent().expect("it is in a folder")).expect("the folder is readable");
    let mut shards: Vec<PathBuf> = folder
        .map(|entry| entry.expect("the folder is readable").path())
        .filter(|path| path.to_string_lossy().contains("-of-"))
        .collect();
    shards.sort();
    shards
}

#[test]
fn a_split_model_loads_by_its_first_shard_and_computes_the_same() {
    let workspace = Workspace::new();
    let shards = shards(&workspace);
    // 6.8 MB at most 2 MB each.
    assert!(shards.len() >= 4, "{shards:?}");
    let first = shards[0].to_string_lossy().into_owned();
    assert!(first.ends_with(&format!("-00001-of-{:05}.gguf", shards.len())), "{first}");

    let golden = Golden::load().unwrap_or_else(|error| panic!("{error}"));
    let (whole, split) = (workspace.load_tiny_plm("q8_0"), load(&shards[0]));
    assert_eq!(whole.tensor_bytes(), split.tensor_bytes());
    let tokens = &golden.sequences[0];
    let of_whole = context(&whole).logits_of(tokens).unwrap_or_else(|error| panic!("{error}"));
    let of_split = context(&split).logits_of(tokens).unwrap_or_else(|error| panic!("{error}"));
    assert!(of_whole == of_split, "the split model computes something else");
}

#[test]
fn a_missing_shard_is_noticed() {
    let workspace = Workspace::new();
    let shards = shards(&workspace);
    std::fs::remove_file(shards.last().expect("there are shards")).expect("it is ours");
    let refusal = Model::load(&shards[0], LoadOptions::default()).expect_err("a shard is missing");
    assert!(matches!(refusal, Error::Load { .. }), "{refusal}");
}
