//! The k-quants against llama-quantize's bytes (fixtures/golden/digests.json), at every instruction set of this
//! CPU, on the weights of the tiny PLM.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plmconv_formats::{DType, hex};
use plmconv_quant::encode_rows_with;
use plmconv_quant::simd::Level;
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

const K_QUANTS: [DType; 5] = [DType::Q2K, DType::Q3K, DType::Q4K, DType::Q5K, DType::Q6K];

struct Tensor {
    cols: usize,
    values: Vec<f32>,
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

/// The matrices of the tiny PLM under their GGUF names.
fn tensors() -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(fixture("tiny-plm/model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let matrices = file.tensors().into_iter().filter(|(_, view)| view.shape().len() == 2);
    let tensors = matrices.map(|(name, view)| {
        let widen = |b: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
        let values = view.data().chunks_exact(2).map(widen).collect();
        (gguf_name(&name), Tensor { cols: view.shape()[1], values })
    });
    tensors.collect()
}

fn gguf_name(name: &str) -> String {
    let renames = [
        ("model.embed_tokens", "token_embd"),
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
        ("self_attn.kv_b_proj", "attn_kv_b"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    renames.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// llama-imatrix's legacy file: per tensor its name, the number of calls, and the columns' sums over the calls.
fn importance() -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(fixture("golden/imatrix.dat")).unwrap();
    let mut rest = bytes.as_slice();
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at(len);
        rest = tail;
        head
    };
    let int = |bytes: &[u8]| i32::from_le_bytes(bytes.try_into().unwrap());
    let entries = int(take(4));
    let read = (0..entries).map(|_| {
        let name_len = int(take(4)) as usize;
        let name = String::from_utf8(take(name_len).to_vec()).unwrap();
        let calls = int(take(4)) as f32;
        let len = int(take(4)) as usize;
        let sums = take(4 * len).chunks_exact(4);
        (name, sums.map(|sum| f32::from_le_bytes(sum.try_into().unwrap()) / calls).collect())
    });
    read.collect()
}

fn encode(level: Level, dtype: DType, tensor: &Tensor, importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0xa5; dtype.encoded_len(tensor.values.len()).unwrap()];
    encode_rows_with(level, dtype, &tensor.values, tensor.cols, importance, &mut out).unwrap();
    out
}

/// Compares each distinct (tensor, k type) of one section with the digests; returns how many there were.
///
/// The level this CPU would choose encodes them all; the others, which are slower and are compared with it elsewhere,
/// the first layer only.
fn compare_section(section: &str, weighted: bool) -> usize {
    let digests: Value =
        serde_json::from_slice(&std::fs::read(fixture("golden/digests.json")).unwrap()).unwrap();
    let tensors = tensors();
    let importance = if weighted { importance() } else { BTreeMap::new() };
    // Many mixtures repeat a tensor in the same type: encode it once.
    let mut expected = BTreeMap::new();
    for (mixture, files) in digests[section].as_object().unwrap() {
        for (name, entry) in files.as_object().unwrap() {
            let dtype = DType::from_name(entry["type"].as_str().unwrap()).unwrap();
            if K_QUANTS.contains(&dtype) {
                let digest = entry["sha256"].as_str().unwrap();
                expected.entry((name.as_str(), dtype)).or_insert((mixture, digest));
            }
        }
    }
    for (&(name, dtype), (mixture, digest)) in &expected {
        let importance = importance.get(name).map(Vec::as_slice);
        let first_layer = name.starts_with("blk.0.");
        for level in Level::available().filter(|&level| first_layer || level == Level::detect()) {
            let bytes = encode(level, dtype, &tensors[name], importance);
            let found = hex(Sha256::digest(&bytes));
            assert_eq!(found, *digest, "{section}/{mixture}: {name} as {dtype}, {level}");
        }
    }
    expected.len()
}

#[test]
fn plain_encodings_are_llama_quantizes() {
    assert_eq!(compare_section("pure", false), 37 * K_QUANTS.len());
}

#[test]
fn encodings_of_mixtures_are_llama_quantizes() {
    assert!(compare_section("default", false) > 100);
}

#[test]
fn encodings_with_importance_are_llama_quantizes() {
    assert!(compare_section("imatrix", true) > 100);
}
