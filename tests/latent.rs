//! `--layout latent`: what the written file holds.

mod common;

use std::path::Path;

use common::{plmconv, tiny_plm};
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::{Layout, Model};
use predicates::prelude::*;

fn quantize(file_type: &str, output: &Path, more: &[&str]) {
    let mut command = plmconv();
    command.args(["quantize", file_type]).arg(tiny_plm()).arg("-o").arg(output).args(more);
    command.assert().success();
}

#[test]
fn it_is_read_back_as_the_same_model_in_the_other_layout() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("latent.gguf");
    quantize("q4", &path, &["--layout", "latent"]);
    let (source, latent) = (Model::open(tiny_plm()).expect("opens"), Model::open(&path).expect("opens"));
    assert_eq!(latent.config.layout, Layout::Latent);
    assert_eq!(plmconv_formats::Config { layout: Layout::Plm, ..latent.config.clone() }, source.config);
    assert_eq!(latent.config.cache_values_per_token(), 288);

    let file = GgufFile::open(&path).expect("opens");
    let number = |key: &str| file.metadata.unsigned(key);
    assert_eq!(file.metadata.string("general.architecture"), Some("deepseek2"));
    assert_eq!(file.metadata.string("general.size_label"), Some("6.4M"));
    assert_eq!(number("general.file_type"), Some(15));
    assert_eq!(number("deepseek2.leading_dense_block_count"), Some(6));
    assert_eq!(number("deepseek2.attention.head_count_kv"), Some(1));
    assert_eq!(number("deepseek2.attention.key_length"), Some(256 + 32));
    assert_eq!(number("deepseek2.attention.value_length"), Some(256));
    assert_eq!(number("deepseek2.attention.key_length_mla"), Some(96));
    assert_eq!(number("deepseek2.attention.q_lora_rank"), Some(0));
    let sharpness = plmconv_formats::model::sharpness(&file.metadata).expect("it is written");
    assert_eq!(sharpness.len(), 6);
    assert!(sharpness.iter().all(|&b| b >= 16.0 && b.log2().fract() == 0.0), "{sharpness:?}");
}

#[test]
fn any_number_of_threads_writes_the_same_bytes() {
    let dir = tempfile::tempdir().expect("tempdir");
    let passes = "turn-latent,turn-values,turn-keys,rescale-neurons,sort-neurons";
    let bytes = |threads: &str| {
        let path = dir.path().join(threads);
        quantize("q4", &path, &["--layout", "latent", "--passes", passes, "-j", threads]);
        std::fs::read(path).expect("written")
    };
    assert!(bytes("1") == bytes("3"));
}

#[test]
fn the_q4_file_is_at_most_1_15_times_that_of_plm() {
    let dir = tempfile::tempdir().expect("tempdir");
    let bytes = |layout: &str| {
        let path = dir.path().join(layout);
        quantize("q4", &path, &["--layout", layout]);
        std::fs::metadata(path).expect("written").len() as f64
    };
    assert!(bytes("latent") <= 1.15 * bytes("plm"));
}

#[test]
fn a_file_in_the_latent_layout_is_no_source() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("latent.gguf");
    quantize("f16", &path, &["--layout", "latent"]);
    let mut command = plmconv();
    command.args(["quantize", "q4"]).arg(&path).arg("-o").arg(dir.path().join("out.gguf"));
    command.assert().code(2).stderr(predicate::str::contains("already in the latent layout"));
}

#[test]
fn an_unknown_pass_is_told_with_the_known_ones() {
    let mut command = plmconv();
    command.args(["quantize", "q4", "--passes", "turn"]).arg(tiny_plm()).args(["-o", "never.gguf"]);
    command.assert().code(2).stderr(predicate::str::contains("turn-latent"));
}

#[test]
fn a_default_name_tells_the_layout() {
    let dir = tempfile::tempdir().expect("tempdir");
    let mut command = plmconv();
    command.current_dir(dir.path()).args(["quantize", "q8", "--layout", "latent"]).arg(tiny_plm());
    command.assert().success();
    assert!(dir.path().join("tiny-plm-latent-q8_0.gguf").is_file());
}
