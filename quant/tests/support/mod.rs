//! The tiny PLM, llama.cpp's importance for it, and the digests of what llama.cpp's tools made of it.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plmconv_formats::{DType, hex};
use safetensors::SafeTensors;
use serde_json::Value;
use sha2::{Digest, Sha256};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

fn read(name: &str) -> Vec<u8> {
    let path = fixture(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A tensor of the model: GGUF name, row-major shape, values.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    pub fn cols(&self) -> usize {
        *self.shape.last().expect("no scalars in a model")
    }
}

/// GGUF name of a Hugging Face tensor of the tiny PLM.
fn gguf_name(name: &str) -> String {
    const PARTS: [(&str, &str); 11] = [
        ("embed_tokens", "token_embd"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
        ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
        ("self_attn.kv_b_proj", "attn_kv_b"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("norm", "output_norm"),
    ];
    let name = name.strip_prefix("model.").expect("all names start so");
    let (prefix, part) = match name.strip_prefix("layers.") {
        Some(rest) => {
            let (layer, part) = rest.split_once('.').expect("layers.N.part");
            (format!("blk.{layer}."), part)
        }
        None => (String::new(), name),
    };
    let part = part.strip_suffix(".weight").expect("only weights");
    let (_, gguf) = PARTS.iter().find(|(hf, _)| *hf == part).expect("a known part");
    format!("{prefix}{gguf}.weight")
}

/// The tiny PLM's tensors as f32 (exact: the source is bfloat16).
pub fn tiny_plm() -> BTreeMap<String, Tensor> {
    let bytes = read("tiny-plm/model.safetensors");
    let file = SafeTensors::deserialize(&bytes).expect("the fixture is sound");
    let tensors = file.tensors().into_iter().map(|(name, view)| {
        assert_eq!(view.dtype(), safetensors::Dtype::BF16);
        let mut values = vec![0.0; view.data().len() / 2];
        plmconv_quant::decode(DType::Bf16, view.data(), &mut values).expect("whole values");
        (gguf_name(&name), Tensor { shape: view.shape().to_vec(), values })
    });
    tensors.collect()
}

/// What llama.cpp wrote: section, preset, tensor name, then type, shape (ggml order) and digest.
pub fn digests() -> Value {
    serde_json::from_slice(&read("golden/digests.json")).expect("the fixture is sound")
}

/// The same for types below four bits. Its section `tensor_type` is q4_k_m with importance and `ffn_up` in that type.
pub fn digests_low() -> Value {
    serde_json::from_slice(&read("golden/digests-low.json")).expect("the fixture is sound")
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

/// llama-imatrix's file in its older form, as llama-quantize hands it to the quantizer: each value divided by the
/// number of calls.
pub fn importance() -> BTreeMap<String, Vec<f32>> {
    struct Cursor<'a>(&'a [u8]);
    impl<'a> Cursor<'a> {
        fn take(&mut self, bytes: usize) -> &'a [u8] {
            let (head, rest) = self.0.split_at(bytes);
            self.0 = rest;
            head
        }
        fn int(&mut self) -> usize {
            let int = i32::from_le_bytes(self.take(4).try_into().expect("four bytes"));
            usize::try_from(int).expect("counts are positive")
        }
    }
    let bytes = read("golden/imatrix.dat");
    let mut cursor = Cursor(&bytes);
    let entries = cursor.int();
    let entry = |cursor: &mut Cursor| {
        let name_len = cursor.int();
        let name = String::from_utf8(cursor.take(name_len).to_vec()).expect("names are UTF-8");
        let calls = cursor.int() as f32;
        let len = cursor.int();
        let values = cursor.take(4 * len).as_chunks::<4>().0.iter();
        (name, values.map(|bytes| f32::from_le_bytes(*bytes) / calls).collect())
    };
    (0..entries).map(|_| entry(&mut cursor)).collect()
}
