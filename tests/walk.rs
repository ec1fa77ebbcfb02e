//! docs/one-tensor.md shows bytes at offsets of two files; they have to be there.

mod common;

use std::fs;
use std::path::Path;

use common::{plmconv, tiny_plm};

/// The lines `OFFSET  HEX HEX …  COMMENT` of the page's text drawings, in order.
fn drawn(page: &str) -> Vec<(usize, Vec<u8>)> {
    let line = |line: &str| {
        let (offset, rest) = line.trim_start().split_once("  ")?;
        let bytes = rest.trim_start().split("  ").next()?;
        let hex = |word: &str| u8::from_str_radix(word, 16).ok().filter(|_| word.len() == 2);
        let bytes: Vec<u8> = bytes.split(' ').map_while(hex).collect();
        (!bytes.is_empty()).then_some((offset.parse().ok()?, bytes))
    };
    page.lines().filter(|text| text.starts_with("  ")).filter_map(line).collect()
}

#[test]
fn the_walk_shows_the_bytes_of_the_files() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/one-tensor.md")).unwrap();
    let drawn = drawn(&page);
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("q4.gguf");
    plmconv().args(["quantize", "q4"]).arg(tiny_plm()).arg("-o").arg(&output).assert().success();
    let checkpoint = fs::read(tiny_plm().join("model.safetensors")).unwrap();
    let file = fs::read(&output).unwrap();

    // The checkpoint's drawing, the GGUF's, and the block's, whose offsets count from the block on.
    let starts: Vec<usize> = (0..drawn.len()).filter(|&i| drawn[i].0 == 0).collect();
    let [0, gguf, block] = starts[..] else { panic!("three drawings: {starts:?}") };
    let block_at = drawn[block - 1].0;
    assert!(gguf > 1 && block > gguf + 5 && drawn.len() > block + 3);
    for (i, (offset, bytes)) in drawn.iter().enumerate() {
        let (data, at) = match i {
            i if i < gguf => (&checkpoint, *offset),
            i if i < block => (&file, *offset),
            _ => (&file, block_at + offset),
        };
        assert_eq!(data[at..at + bytes.len()], bytes[..], "at {offset}");
    }
}
