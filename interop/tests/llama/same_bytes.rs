//! llama.cpp's own quantizer, given our bf16 file, writes the very tensors that we write from the folder.

use plmconv_interop::gguf::Gguf;
use plmconv_interop::golden::fixtures;
use plmconv_interop::quantize::{FILE_TYPES, Importance, QuantizeOptions, quantize};

use super::Workspace;

/// What llama.cpp refuses to write without an importance matrix; with `--pure` it writes `iq3_xs`.
const NEED_IMPORTANCE: [&str; 9] =
    ["q2_k_s", "iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq2_m", "iq3_xxs", "iq3_xs"];

fn check(options: &QuantizeOptions, more: &[&str], skip: &[&str]) {
    let workspace = Workspace::new();
    let source = workspace.tiny_plm("bf16", &[]);
    for (name, number) in FILE_TYPES {
        // Written straight to itself, bf16 is the source.
        let is_refused = options.importance.is_none() && NEED_IMPORTANCE.contains(&name);
        if skip.contains(&name) || name == "bf16" || is_refused {
            continue;
        }
        let peer = workspace.path("peer.gguf");
        quantize(&source, &peer, number, options).unwrap_or_else(|error| panic!("{error}"));
        let theirs = Gguf::open(&peer).unwrap_or_else(|error| panic!("{error}"));
        let ours = Gguf::open(&workspace.tiny_plm(name, more)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(ours.tensors().len(), theirs.tensors().len(), "{name}: number of tensors");
        for tensor in theirs.tensors() {
            let mine = ours.tensor(&tensor.name).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(mine.type_name, tensor.type_name, "{name}: type of {}", tensor.name);
            assert_eq!(mine.shape, tensor.shape, "{name}: shape of {}", tensor.name);
            // Not assert_eq: it would print megabytes.
            assert!(
                ours.read(mine).expect("our file is readable") == theirs.read(tensor).expect("so is theirs"),
                "{name}: the bytes of {} differ",
                tensor.name
            );
        }
    }
}

#[test]
fn mixtures_have_the_bytes_that_llama_cpp_writes() {
    check(&QuantizeOptions { threads: 1, ..QuantizeOptions::default() }, &[], &[]);
}

#[test]
fn pure_files_have_the_bytes_that_llama_cpp_writes() {
    let options = QuantizeOptions { threads: 1, pure: true, ..QuantizeOptions::default() };
    check(&options, &["--pure"], &["f32", "f16"]);
}

#[test]
fn files_with_importance_have_the_bytes_that_llama_cpp_writes() {
    let matrix = fixtures().join("golden/imatrix.gguf");
    let importance = Some(Importance::open(&matrix).unwrap_or_else(|error| panic!("{error}")));
    let options = QuantizeOptions { threads: 1, importance, ..QuantizeOptions::default() };
    let matrix = matrix.to_str().expect("a plain path");
    // The others are compared without one above.
    let low: Vec<&str> = NEED_IMPORTANCE.into_iter().chain(["iq3_s", "iq3_m"]).collect();
    let others = FILE_TYPES.iter().map(|(name, _)| *name).filter(|name| !low.contains(name));
    check(&options, &["--imatrix", matrix], &others.collect::<Vec<&str>>());
}
