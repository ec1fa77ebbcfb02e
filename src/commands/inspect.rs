//! `plmconv inspect FILE|FOLDER`

use std::path::Path;

use anyhow::Result;
use plmconv_formats::gguf::GgufFile;
use plmconv_formats::model::{Foreign, TensorKey};
use plmconv_formats::onnx::OnnxFile;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::source::{InputFile, RowSource};
use plmconv_formats::{Config, Error as FormatError};

use crate::edit::value_of;
use crate::error::{At, Place};
use crate::input::{ModelInput, open_model};
use crate::onnx::find_graph;
use crate::progress::Console;
use crate::report::inspect::{Inspection, Metadata, TensorLine, print, print_value};
use crate::resolve::InspectRequest;

pub fn run(request: &InspectRequest) -> Result<()> {
    let InspectRequest { model, sparsity, key, json, console } = request;
    let path = &model.path;
    if let Some(sparsity) = sparsity {
        return super::sparsity::run(model, sparsity, *json);
    }
    if let Some(key) = key {
        let file = GgufFile::open(path).at(Place::Model)?;
        return print_value(value_of(&file.metadata, key)?, *json);
    }
    print(&inspect(model, *console).at(Place::Model)?, *json, console.verbose)
}

fn inspect(model: &ModelInput, console: Console) -> Result<Inspection> {
    let path = model.path.as_path();
    if let Some(graph) = find_graph(path)? {
        model.refuse_adapters("an ONNX export")?;
        return inspect_onnx(&graph);
    }
    let metadata = std::fs::metadata(path).map_err(FormatError::io(path))?;
    if metadata.is_dir() {
        return inspect_folder(model, console);
    }
    model.refuse_adapters("a file")?;
    match SniffedFormat::of(path)? {
        SniffedFormat::Gguf => inspect_gguf(path),
        SniffedFormat::Safetensors => inspect_safetensors(path),
    }
}

enum SniffedFormat {
    Gguf,
    Safetensors,
}

impl SniffedFormat {
    /// By content, then by name: a truncated file should be told as what it was meant to be.
    fn of(path: &Path) -> Result<SniffedFormat> {
        let file = InputFile::open(path)?;
        let mut magic = vec![0; file.len().min(9) as usize];
        file.read_exact_at(&mut magic, 0)?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        if magic.starts_with(&plmconv_formats::gguf::MAGIC) || extension.eq_ignore_ascii_case("gguf") {
            Ok(SniffedFormat::Gguf)
        } else if magic.get(8) == Some(&b'{') || extension.eq_ignore_ascii_case("safetensors") {
            Ok(SniffedFormat::Safetensors)
        } else {
            let path = path.to_path_buf();
            Err(match Foreign::of_file(&path) {
                Some(kind) => FormatError::Foreign { path, kind },
                None => FormatError::UnknownFormat { path },
            }
            .into())
        }
    }
}

fn inspect_folder(input: &ModelInput, console: Console) -> Result<Inspection> {
    let model = open_model(input, console)?;
    let tensors = model.tensors.iter().map(|t| TensorLine {
        name: t.key.hugging_face_name().unwrap_or_else(|| t.key.gguf_name()),
        role: Some(t.key),
        shape: t.shape.clone(),
        dtype: t.source.dtype().name().into(),
        bytes: t.source.stored_bytes(),
    });
    Ok(Inspection {
        path: input.path.display().to_string(),
        format: "Hugging Face folder",
        architecture: Some("plm".into()),
        file_bytes: tensors.clone().map(|t| t.bytes).sum(),
        tensors: tensors.collect(),
        metadata: Metadata::Texts(Vec::new()),
        config: Some(model.config),
        onnx: None,
    })
}

fn inspect_gguf(path: &Path) -> Result<Inspection> {
    let file = GgufFile::open(path)?;
    let config = Config::from_gguf(path, &file.metadata).ok();
    let tensors = file.tensors.into_iter().map(|t| TensorLine {
        role: TensorKey::from_gguf(&t.name),
        dtype: t.data.dtype().name().into(),
        bytes: t.data.byte_len(),
        name: t.name,
        shape: t.shape,
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "GGUF",
        architecture: file.metadata.string("general.architecture").map(str::to_string),
        file_bytes: file.file_bytes,
        tensors: tensors.collect(),
        metadata: Metadata::Gguf(file.metadata),
        config,
        onnx: None,
    })
}

fn inspect_safetensors(path: &Path) -> Result<Inspection> {
    let file = SafetensorsFile::open(path)?;
    let tensors = file.tensors.into_iter().map(|t| TensorLine {
        role: TensorKey::from_hugging_face(&t.name),
        dtype: t.dtype_name.into(),
        bytes: t.bytes,
        name: t.name,
        shape: t.shape,
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "safetensors",
        architecture: None,
        file_bytes: file.file_bytes,
        tensors: tensors.collect(),
        metadata: Metadata::Texts(file.metadata),
        config: None,
        onnx: None,
    })
}

fn inspect_onnx(path: &Path) -> Result<Inspection> {
    let file = OnnxFile::open(path)?;
    let tensors = file.weights().into_iter().map(|w| TensorLine {
        role: w.key(),
        name: w.name,
        shape: w.shape,
        dtype: w.stored_as.into(),
        bytes: w.bytes,
    });
    Ok(Inspection {
        path: path.display().to_string(),
        format: "ONNX",
        architecture: None,
        file_bytes: file.file_bytes,
        tensors: tensors.collect(),
        metadata: Metadata::Texts(file.metadata.clone()),
        config: None,
        onnx: Some(file),
    })
}
