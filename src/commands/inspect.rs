//! `plmconv inspect FILE|FOLDER`

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::gguf::{GgufFile, Value};
use plmconv_formats::model::{Model, TensorKey};
use plmconv_formats::onnx::OnnxFile;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::{Config, Error as FormatError};

use crate::args::InspectArgs;
use crate::error::UsageError;
use crate::report::inspect::{Inspection, TensorLine, print};

pub fn run(args: &InspectArgs) -> Result<()> {
    if let Some(text) = &args.sparsity {
        return super::sparsity::run(args, text);
    }
    print(&inspect(&args.path)?, args.json, args.verbose)
}

fn inspect(path: &Path) -> Result<Inspection> {
    let metadata = std::fs::metadata(path).map_err(FormatError::io(path))?;
    if metadata.is_dir() {
        return match graphs_in(path)?.as_slice() {
            [] => inspect_folder(path),
            [graph] => inspect_onnx(graph),
            several => {
                let message = format!("{}: {} graphs", path.display(), several.len());
                Err(UsageError::with_hint(message, format!("name one, e.g. {}", several[0].display())).into())
            }
        };
    }
    match SniffedFormat::of(path)? {
        SniffedFormat::Gguf => inspect_gguf(path),
        SniffedFormat::Safetensors => inspect_safetensors(path),
        SniffedFormat::Onnx => inspect_onnx(path),
    }
}

enum SniffedFormat {
    Gguf,
    Safetensors,
    Onnx,
}

impl SniffedFormat {
    /// By content, then by name: a truncated file should be told as what it was meant to be.
    fn of(path: &Path) -> Result<SniffedFormat> {
        use std::io::Read;
        let mut magic = Vec::new();
        std::fs::File::open(path)
            .and_then(|f| f.take(9).read_to_end(&mut magic))
            .map_err(FormatError::io(path))?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if magic.starts_with(&plmconv_formats::gguf::MAGIC) || extension.eq_ignore_ascii_case("gguf") {
            Ok(SniffedFormat::Gguf)
        } else if magic.get(8) == Some(&b'{') || extension.eq_ignore_ascii_case("safetensors") {
            Ok(SniffedFormat::Safetensors)
        } else if extension.eq_ignore_ascii_case("onnx") {
            Ok(SniffedFormat::Onnx)
        } else {
            Err(FormatError::UnknownFormat { path: path.into() }.into())
        }
    }
}

fn inspect_folder(path: &Path) -> Result<Inspection> {
    let model = Model::open(path)?;
    let tensors = model.tensors.iter().map(|t| TensorLine {
        name: t.key.hugging_face_name().unwrap_or_else(|| t.key.gguf_name()),
        role: Some(t.key),
        shape: t.shape.clone(),
        dtype: t.source.dtype().name().into(),
        bytes: t.source.stored_bytes(),
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "Hugging Face folder",
        architecture: Some("plm".into()),
        file_bytes: tensors.clone().map(|t| t.bytes).sum(),
        tensors: tensors.collect(),
        metadata: Vec::new(),
        config: Some(model.config),
        onnx: None,
    })
}

fn inspect_gguf(path: &Path) -> Result<Inspection> {
    let file = GgufFile::open(path)?;
    let config = Config::from_gguf(path, &file.metadata).ok();
    let tensors = file.tensors.iter().map(|t| TensorLine {
        name: t.name.clone(),
        role: TensorKey::from_gguf(&t.name),
        shape: t.shape.clone(),
        dtype: plmconv_formats::source::RowSource::dtype(&t.data).name().into(),
        bytes: t.data.byte_len(),
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "GGUF",
        architecture: file.metadata.string("general.architecture").map(str::to_string),
        file_bytes: file.file_bytes,
        tensors: tensors.collect(),
        metadata: file.metadata.iter().map(|(k, v)| (k.to_string(), to_json(v))).collect(),
        config,
        onnx: None,
    })
}

fn inspect_safetensors(path: &Path) -> Result<Inspection> {
    let file = SafetensorsFile::open(path)?;
    let tensors = file.tensors.iter().map(|t| TensorLine {
        name: t.name.clone(),
        role: TensorKey::from_hugging_face(&t.name),
        shape: t.shape.clone(),
        dtype: t.dtype_name.clone(),
        bytes: t.bytes,
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "safetensors",
        architecture: None,
        file_bytes: file.file_bytes,
        tensors: tensors.collect(),
        metadata: file.metadata.iter().map(|(k, v)| (k.clone(), v.clone().into())).collect(),
        config: None,
        onnx: None,
    })
}

/// The graphs of an exported folder, sorted; none in a checkpoint's.
fn graphs_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let is_graph = |path: &PathBuf| path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    let mut graphs = Vec::new();
    for place in [folder.to_path_buf(), folder.join("onnx")] {
        if place.is_dir() {
            let entries = std::fs::read_dir(&place).map_err(FormatError::io(&place))?;
            graphs.extend(entries.flatten().map(|entry| entry.path()).filter(is_graph));
        }
    }
    graphs.sort();
    Ok(graphs)
}

fn inspect_onnx(path: &Path) -> Result<Inspection> {
    let file = OnnxFile::open(path)?;
    let tensors = file.weights().into_iter().map(|w| TensorLine {
        role: w.key(),
        name: w.name,
        shape: w.shape,
        dtype: w.stored_as,
        bytes: w.bytes,
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "ONNX",
        architecture: None,
        file_bytes: file.file_bytes,
        tensors: tensors.collect(),
        metadata: Vec::new(),
        config: None,
        onnx: Some(file),
    })
}

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::U8(v) => (*v).into(),
        Value::I8(v) => (*v).into(),
        Value::U16(v) => (*v).into(),
        Value::I16(v) => (*v).into(),
        Value::U32(v) => (*v).into(),
        Value::I32(v) => (*v).into(),
        Value::U64(v) => (*v).into(),
        Value::I64(v) => (*v).into(),
        Value::F32(v) => (*v).into(),
        Value::F64(v) => (*v).into(),
        Value::Bool(v) => (*v).into(),
        Value::String(v) => v.as_str().into(),
        Value::Array(array) => array.values.iter().map(to_json).collect(),
    }
}
