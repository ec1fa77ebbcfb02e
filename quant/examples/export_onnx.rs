#![allow(clippy::all)]
use plmconv_formats::{DType, Model, Role, model::TensorKey, onnx::*};
use std::path::PathBuf;
#[path = "../../src/onnx_writer.rs"]
mod onnx_writer;
fn main() -> anyhow::Result<()> {
    // export_onnx MODEL OUT profile opset float quant(f|nbits4s|nbits4a|nbits8s|qdq4s...) block
    let a: Vec<String> = std::env::args().collect();
    let model = Model::open(&a[1])?;
    let profile = match a[3].as_str() {
        "latent" => Profile::Latent,
        "genai" => Profile::Genai,
        _ => Profile::Hf,
    };
    let opset = if a[4] == "23" { Opset::V23 } else { Opset::V21 };
    let mut spec = ExportSpec::new(profile, opset);
    if a[5] == "f16" {
        spec.float = DType::F16
    }
    let q = a.get(6).map(String::as_str).unwrap_or("f");
    if let Some(level) = a.get(8) {
        spec.accuracy_level = level.parse()?;
    }
    if q != "f" {
        let block_size = a.get(7).map_or(32, |b| b.parse().unwrap());
        let bits = if q.contains('8') { 8 } else { 4 };
        let symmetric = q.ends_with('s');
        if q.starts_with("qdq") {
            spec.quant_format = QuantFormat::Qdq
        }
        for t in &model.tensors {
            if !t.key.role.is_norm() {
                spec.weights.insert(t.key, WeightFormat::Block(BlockFormat { bits, block_size, symmetric }));
            }
        }
    }
    if spec.float == DType::F16 {
        spec.ffn_shift = onnx_writer::ffn_shifts(&model)?;
        eprintln!("shifts {:?}", spec.ffn_shift);
    }
    spec.file_name = match (spec.float, q) {
        (DType::F16, "f") => "model_fp16.onnx",
        (_, "f") => "model.onnx",
        (DType::F16, _) => "model_q4f16.onnx",
        _ => "model_q4.onnx",
    }
    .into();
    if profile != Profile::Hf {
        spec.file_name = "model.onnx".into();
    }
    let _ = TensorKey::global(Role::OutputNorm);
    let t = std::time::Instant::now();
    let export = build(&model, &spec)?;
    eprintln!("graph {} bytes, total {}", export.model.len(), export.total_bytes());
    onnx_writer::write(&model, &spec, &export, &PathBuf::from(&a[2]), true, &|_| Ok(()))?;
    eprintln!("{:.1} s", t.elapsed().as_secs_f64());
    Ok(())
}
