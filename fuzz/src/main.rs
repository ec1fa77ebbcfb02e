//! All fuzz targets in one program: `PLMCONV_FUZZ_TARGET` names the one that runs, as run.sh sets it. An input that
//! panics, hangs or takes more memory than twice its bytes and 64 MB is a finding; errors are what is expected.

#![no_main]

#[path = "../../formats/tests/support/counting.rs"]
mod counting;

mod conversion;
mod readers;
mod scratch;
mod seeds;

use std::path::Path;
use std::sync::OnceLock;

use counting::Counting;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What an input may take besides twice its bytes.
const ALLOWED: usize = 64 << 20;

/// A fuzz target.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
    /// Inputs to begin with.
    seeds: fn() -> Vec<Vec<u8>>,
}

static TARGETS: [Target; 17] = [
    Target { name: "safetensors", run: readers::safetensors, seeds: seeds::safetensors },
    Target { name: "adapter", run: readers::adapter, seeds: seeds::adapter },
    Target { name: "gguf", run: readers::gguf, seeds: seeds::gguf },
    Target { name: "gguf_set", run: readers::gguf_set, seeds: seeds::gguf_set },
    Target { name: "onnx", run: readers::onnx, seeds: seeds::onnx },
    Target { name: "imatrix_gguf", run: readers::imatrix, seeds: seeds::imatrix_gguf },
    Target { name: "imatrix_dat", run: readers::imatrix, seeds: seeds::imatrix_dat },
    Target { name: "tokenizer", run: readers::tokenizer, seeds: seeds::tokenizer },
    Target { name: "describe", run: readers::describe_folder, seeds: seeds::folder },
    Target { name: "config", run: readers::config, seeds: seeds::config },
    Target { name: "card", run: readers::card, seeds: seeds::card },
    Target { name: "statistics", run: readers::statistics, seeds: seeds::statistics },
    Target { name: "journal", run: readers::journal, seeds: seeds::journal },
    Target { name: "reference", run: readers::reference, seeds: seeds::reference },
    Target { name: "template", run: readers::template, seeds: seeds::template },
    Target { name: "blocks", run: readers::blocks, seeds: seeds::blocks },
    Target { name: "conversion", run: conversion::run, seeds: seeds::conversion },
];

/// The target that runs. With `PLMCONV_FUZZ_SEEDS` it writes its seeds into that folder first.
fn target() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("PLMCONV_FUZZ_TARGET").unwrap_or_default();
        let target = TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            eprintln!("PLMCONV_FUZZ_TARGET is one of: {}", names.join(" "));
            std::process::exit(2);
        });
        if let Some(folder) = std::env::var_os("PLMCONV_FUZZ_SEEDS") {
            for (number, seed) in (target.seeds)().iter().enumerate() {
                std::fs::write(Path::new(&folder).join(format!("seed-{number:03}")), seed).expect("a folder");
            }
            std::process::exit(0);
        }
        target
    })
}

fuzz_target!(init: { target(); }, |input: &[u8]| {
    let ((), taken) = counting::peak(|| (target().run)(input));
    assert!(taken <= 2 * input.len() + ALLOWED, "{taken} bytes in memory for an input of {}", input.len());
});
