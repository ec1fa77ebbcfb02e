//! The exports that the tests look at.

use std::path::Path;

use plmconv_formats::onnx::{BlockFormat, ExportSpec, Opset, Profile, QuantFormat, WeightFormat};
use plmconv_formats::{DType, Model};

pub fn tiny_plm() -> Model {
    Model::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/tiny-plm")).expect("opens")
}

/// The spec with every matrix in blocks of 32 codes.
pub fn in_blocks(model: &Model, spec: ExportSpec, bits: usize, symmetric: bool) -> ExportSpec {
    let format = WeightFormat::Block(BlockFormat { bits, block_size: 32, symmetric });
    let matrices = model.tensors.iter().map(|t| t.key).filter(|key| !key.role.is_norm());
    ExportSpec { weights: matrices.map(|key| (key, format)).collect(), ..spec }
}

/// Every profile and opset, each with float and quantized weights.
pub fn all(model: &Model) -> Vec<ExportSpec> {
    let mut specs = Vec::new();
    for profile in [Profile::Latent, Profile::Genai, Profile::Hf] {
        for opset in [Opset::V21, Opset::V23] {
            let spec = ExportSpec {
                metadata: vec![("made_of".into(), "tiny".into())],
                ..ExportSpec::new(profile, opset)
            };
            let half = ExportSpec { float: DType::F16, num_logits_to_keep: true, ..spec.clone() };
            let qdq = ExportSpec { quant_format: QuantFormat::Qdq, ..spec.clone() };
            let half_qdq = ExportSpec { float: DType::F16, ..qdq.clone() };
            specs.extend([
                in_blocks(model, spec.clone(), 4, true),
                in_blocks(model, ExportSpec { max_data_bytes: 1 << 20, ..spec.clone() }, 8, false),
                in_blocks(model, qdq, 8, true),
                in_blocks(model, half_qdq, 4, false),
                half,
                spec,
            ]);
        }
    }
    specs
}
