//! Types taken over from another file, and mixtures of another time.

mod common;

use std::path::Path;

use common::{digests, plmconv, tiny_plm};
use predicates::prelude::*;

fn quantize(folder: &Path, args: &[&str]) -> assert_cmd::Command {
    let mut command = plmconv();
    command.current_dir(folder).args(["quantize", "--force"]).args(args).arg(tiny_plm());
    command
}

/// Writes a file of several types whose pattern is nobody's preset.
fn mixed(folder: &Path) {
    let exceptions = ["blk\\.[02]\\.ffn_down=q5_0", "attn_q=f16", "token_embd=q4_k"];
    let exceptions = exceptions.iter().flat_map(|exception| ["--tensor-type", exception]);
    let args: Vec<&str> = ["q8_0", "-o", "mixed.gguf"].into_iter().chain(exceptions).collect();
    quantize(folder, &args).assert().success();
}

#[test]
fn a_file_like_another_has_its_bytes_and_is_verified() {
    let dir = tempfile::tempdir().expect("tempdir");
    mixed(dir.path());
    quantize(dir.path(), &["q4_k_m", "--like", "mixed.gguf", "-o", "like.gguf"]).assert().success();
    assert_eq!(digests(&dir.path().join("like.gguf")), digests(&dir.path().join("mixed.gguf")));
    // The recipe says the types itself: the other file is not needed any more.
    std::fs::remove_file(dir.path().join("mixed.gguf")).expect("it is there");
    let mut verify = plmconv();
    verify.current_dir(dir.path()).args(["verify", "like.gguf"]).arg(tiny_plm()).assert().success();
    // What the user singles out comes first.
    quantize(
        dir.path(),
        &["q4_k_m", "--like", "like.gguf", "--tensor-type", "attn_q=q6_k", "-o", "more.gguf"],
    )
    .assert()
    .success();
    let more = digests(&dir.path().join("more.gguf"));
    assert_eq!(more["blk.0.attn_q.weight"].0, "Q6_K");
    assert_eq!(more["blk.0.ffn_down.weight"].0, "Q5_0");
}

#[test]
fn a_file_of_another_model_is_no_example() {
    let dir = tempfile::tempdir().expect("tempdir");
    quantize(dir.path(), &["q8_0", "--layout", "latent", "-o", "latent.gguf"]).assert().success();
    quantize(dir.path(), &["q8_0", "--like", "latent.gguf", "-o", "like.gguf"])
        .assert()
        .failure()
        .stderr(predicate::str::contains("attn_kv_b").or(predicate::str::contains("attn_q")));
    assert!(!dir.path().join("like.gguf").exists());
    let model = tiny_plm().display().to_string();
    quantize(dir.path(), &["q8_0", "--like", &model])
        .assert()
        .failure()
        .stderr(predicate::str::contains("GGUF"));
    quantize(dir.path(), &["q8_0", "--like", "absent.gguf"])
        .assert()
        .code(1)
        .stderr(predicate::str::contains("absent.gguf"));
    for other in [&["--pure"][..], &["--mixture", "2025-03"]] {
        quantize(dir.path(), &[&["q8_0", "--like", "latent.gguf"][..], other].concat()).assert().code(2);
    }
}

#[test]
fn the_mixture_of_march_2025_leaves_attn_kv_b_alone() {
    let dir = tempfile::tempdir().expect("tempdir");
    quantize(dir.path(), &["q4_k_m", "--mixture", "2025-03", "-o", "then.gguf"]).assert().success();
    quantize(dir.path(), &["q4_k_m", "--mixture", "current", "-o", "now.gguf"]).assert().success();
    let [then, now] = ["then", "now"].map(|name| digests(&dir.path().join(name).with_extension("gguf")));
    let apart: Vec<&String> = then.keys().filter(|name| then[*name] != now[*name]).collect();
    assert!(!apart.is_empty() && apart.iter().all(|name| name.ends_with("attn_kv_b.weight")), "{apart:?}");
    assert!(apart.iter().all(|name| then[*name].0 == "Q4_K" && now[*name].0 == "Q6_K"));
    let mut verify = plmconv();
    verify.current_dir(dir.path()).args(["verify", "then.gguf"]).arg(tiny_plm()).assert().success();
}
