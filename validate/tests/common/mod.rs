//! The tiny PLM, and the logits that its published code computes for it in float64.
#![allow(dead_code)]

use std::path::PathBuf;

use plmconv_formats::Model;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::source::RowSource;
use plmconv_validate::{Evaluator, Options};

pub const VOCAB: usize = 4096;

pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(name)
}

pub fn tiny_plm() -> Model {
    Model::open(fixture("tiny-plm")).expect("the fixture opens")
}

pub fn evaluator(options: Options) -> Evaluator {
    Evaluator::load(&tiny_plm(), options).expect("the fixture loads")
}

/// Token ids `[2, 64]`, and logits `[2, 64, VOCAB]`.
pub struct Golden {
    pub tokens: Vec<Vec<u32>>,
    pub logits: Vec<f32>,
}

pub fn golden() -> Golden {
    let file = SafetensorsFile::open(fixture("golden/logits.safetensors")).expect("golden file");
    let bytes = |name: &str| {
        let tensor = file.tensors.iter().find(|t| t.name == name).expect("tensor");
        let data = tensor.data.as_ref().expect("a known type");
        let mut bytes = Vec::new();
        data.read_rows(0..data.rows(), &mut bytes).expect("readable");
        bytes
    };
    let ids: Vec<u32> =
        bytes("input_ids").as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b) as u32).collect();
    let logits = bytes("logits").as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    Golden { tokens: ids.chunks(64).map(<[u32]>::to_vec).collect(), logits }
}

/// The largest difference, as a share of the range of `expected`.
pub fn relative_to_range(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let (low, high) = expected.iter().fold((f32::MAX, f32::MIN), |(l, h), &x| (l.min(x), h.max(x)));
    let largest = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0f32, f32::max);
    assert!(found.iter().all(|x| x.is_finite()));
    largest as f64 / (high - low) as f64
}

/// A model whose matrices are read as another type, encoded on the fly.
#[derive(Debug)]
struct Requantized {
    source: std::sync::Arc<dyn RowSource>,
    dtype: plmconv_formats::DType,
}

impl RowSource for Requantized {
    fn dtype(&self) -> plmconv_formats::DType {
        self.dtype
    }

    fn rows(&self) -> usize {
        self.source.rows()
    }

    fn cols(&self) -> usize {
        self.source.cols()
    }

    fn read_rows(&self, rows: std::ops::Range<usize>, out: &mut Vec<u8>) -> plmconv_formats::Result<()> {
        let mut bytes = Vec::new();
        let count = rows.len() * self.cols();
        self.source.read_rows(rows, &mut bytes)?;
        let mut values = vec![0.0; count];
        plmconv_quant::codec::decode(self.source.dtype(), &bytes, &mut values).expect("decodes");
        out.resize(self.dtype.encoded_len(count).expect("whole blocks"), 0);
        plmconv_quant::codec::encode_rows(self.dtype, &values, self.cols(), None, out).expect("encodes");
        Ok(())
    }
}

/// The tiny PLM with its matrices in `dtype`.
pub fn quantized(dtype: plmconv_formats::DType) -> Model {
    let mut model = tiny_plm();
    for tensor in model.tensors.iter_mut().filter(|t| !t.key.role.is_norm()) {
        tensor.source = std::sync::Arc::new(Requantized { source: tensor.source.clone(), dtype });
    }
    model
}

/// The golden tokens as one text of 128.
pub fn text() -> Vec<u32> {
    golden().tokens.concat()
}
