//! From files to a [`Model`].

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::merging::Merging;
use super::spelling::Spelling;
use super::weight_files::weight_files;
use super::{Config, Model, Origin, Role, Tensor, TensorKey, foreign};
use crate::describe::ADDITIONAL_TEMPLATES;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::gguf::GgufFile;
use crate::limits::{self, MAX_TENSORS};
use crate::safetensors::{SafetensorsFile, TensorInfo};
use crate::source::{GatheredRows, RoundedDoubles, RowSource};
use crate::warning::Warning;
use crate::{DType, small_file};

/// Shards of this many bytes are compared at a time when the output head is checked against the embedding.
const COMPARE_CHUNK: usize = 1 << 20;

/// Reads a Hugging Face folder: config.json and safetensors, as one file, shards with an index, or several
/// files without one.
///
/// Adapters change the weights before anything else is made of them.
pub(super) fn from_folder(folder: &Path, merging: Merging<'_>) -> Result<Model> {
    read_folder(folder, merging).map_err(|error| foreign::explain(folder, error))
}

fn read_folder(folder: &Path, merging: Merging<'_>) -> Result<Model> {
    // Before anything is read, so that no change goes unseen.
    let mut inputs = fingerprints(folder);
    inputs.extend(merging.adapters.iter().flat_map(|adapter| adapter.inputs.iter().cloned()));
    let config_path = folder.join("config.json");
    let config = Config::from_json(&config_path, small_file::read(&config_path)?)?;
    let (paths, stale_index) = weight_files(folder)?;
    let mut files = Vec::new();
    let mut count = 0;
    for path in &paths {
        let file = SafetensorsFile::open(path)?;
        count += file.tensors.len();
        limits::check(folder, "tensors", count, MAX_TENSORS)?;
        files.push(file);
    }
    let (mut stored, renamed) = stored_tensors(folder, &files)?;
    let merged = merging.apply(folder, &config, &mut stored)?;

    let mut tensors = Vec::new();
    for (key, expected) in config.expected_tensors() {
        let found = stored.by_key.remove(&key).ok_or_else(|| Error::MissingTensor {
            path: folder.to_path_buf(),
            tensor: key.hugging_face_name().unwrap_or_else(|| key.gguf_name()),
        })?;
        check_shape(&found.path, &found.name, &found.shape, &expected, "config.json")?;
        if key.role == Role::TokenEmbedding {
            check_head(folder, config.tie_word_embeddings, &found, stored.head.take())?;
        }
        tensors.push(Tensor { key, shape: found.shape, source: found.source });
    }
    if let Some((key, left)) = stored.by_key.into_iter().min_by_key(|(key, _)| *key) {
        return Err(match key.layer {
            Some(layer) if layer >= config.num_hidden_layers => Error::BadValue {
                path: config_path,
                key: "num_hidden_layers".into(),
                found: config.num_hidden_layers.to_string(),
                expected: format!("more: the checkpoint has `{}`", left.name),
            },
            _ => Error::UnknownTensor { path: left.path, tensor: left.name },
        });
    }
    let plain = foreign::quantization_method(folder)
        .map(|method| Warning::NotQuantized { config: config_path.clone(), method });
    let warnings = [stale_index, renamed, plain].into_iter().flatten().chain(merged).collect();
    let adapters = merging.adapters.iter().map(|adapter| adapter.identity.clone()).collect();
    let origin = Origin::HuggingFace(folder.to_path_buf());
    let mut model = Model { config, tensors, origin, warnings, inputs, adapters };
    if !model.config.rope_interleave {
        interleave_rope(&mut model);
    }
    Ok(model)
}

/// A weight as a checkpoint has it.
#[derive(Clone)]
pub(super) struct Weight {
    pub path: PathBuf,
    pub name: String,
    pub shape: Vec<usize>,
    pub source: Arc<dyn RowSource>,
}

/// The weights of a checkpoint by what they are for.
#[derive(Default)]
pub(super) struct Weights {
    pub by_key: HashMap<TensorKey, Weight>,
    pub head: Option<Weight>,
}

/// Sorts the tensors of all files; says so if their names are spelled unusually.
fn stored_tensors(folder: &Path, files: &[SafetensorsFile]) -> Result<(Weights, Option<Warning>)> {
    let names = files.iter().flat_map(|file| &file.tensors).map(|info| info.name.as_str());
    let spelling = Spelling::of(names);
    let mut weights = Weights::default();
    let mut renamed = None;
    for (file, info) in files.iter().flat_map(|file| file.tensors.iter().map(move |info| (file, info))) {
        let usual = spelling.usual(&info.name);
        if is_buffer(&usual) {
            continue;
        }
        let slot = if usual == "lm_head.weight" { None } else { Some(identify(file, &info.name, &usual)?) };
        if usual != info.name && renamed.is_none() {
            let (from, to) = (info.name.clone(), usual.into_owned());
            renamed = Some(Warning::Renamed { folder: folder.to_path_buf(), from, to });
        }
        let weight = weight(file, info)?;
        let twice = match slot {
            Some(key) => weights.by_key.insert(key, weight).is_some(),
            None => weights.head.replace(weight).is_some(),
        };
        if twice {
            let path = file.path().to_path_buf();
            return Err(Error::DuplicateTensor { path, tensor: info.name.clone() });
        }
    }
    Ok((weights, renamed))
}

/// What older modelling code saved along although it follows from the config: tables of RoPE, causal masks.
fn is_buffer(name: &str) -> bool {
    name.contains("rotary_emb.") || name.ends_with(".masked_bias")
}

/// Reads a PLM GGUF.
pub(super) fn from_gguf(file: GgufFile) -> Result<Model> {
    let path = file.path();
    let config =
        Config::from_gguf(path, &file.metadata).map_err(|e| foreign::explain_gguf(&file.metadata, e))?;
    let mut by_name: BTreeMap<&str, _> = file.tensors.iter().map(|t| (t.name.as_str(), t)).collect();
    let mut tensors = Vec::new();
    for (key, expected) in config.expected_tensors() {
        let name = key.gguf_name();
        let info = by_name
            .remove(name.as_str())
            .ok_or_else(|| Error::MissingTensor { path: path.to_path_buf(), tensor: name.clone() })?;
        check_shape(path, &name, &info.shape, &expected, "the metadata")?;
        tensors.push(Tensor { key, shape: info.shape.clone(), source: Arc::new(info.data.clone()) });
    }
    if let Some(name) = by_name.keys().next() {
        return Err(Error::UnknownTensor { path: path.to_path_buf(), tensor: name.to_string() });
    }
    let broken = (!file.broken_texts.is_empty())
        .then(|| Warning::BrokenText { path: path.to_path_buf(), keys: file.broken_texts.clone() });
    let warnings = broken.into_iter().collect();
    let inputs = file.fingerprints().cloned().collect();
    Ok(Model { config, tensors, origin: Origin::Gguf(file), warnings, inputs, adapters: Vec::new() })
}

/// The files that a folder's model may be read from: weights, tokenizer, configurations, templates, the model card.
fn fingerprints(folder: &Path) -> Vec<Fingerprint> {
    const EXTENSIONS: [&str; 6] = ["safetensors", "json", "jinja", "txt", "model", "md"];
    let is_read =
        |path: &PathBuf| path.extension().and_then(|e| e.to_str()).is_some_and(|e| EXTENSIONS.contains(&e));
    let mut paths: Vec<PathBuf> = [folder.to_path_buf(), folder.join(ADDITIONAL_TEMPLATES)]
        .iter()
        .flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten().flatten())
        .map(|entry| entry.path())
        .filter(is_read)
        .collect();
    paths.sort();
    paths.iter().filter_map(|path| Fingerprint::of(path)).collect()
}

fn identify(file: &SafetensorsFile, name: &str, usual: &str) -> Result<TensorKey> {
    if let Some(key) = TensorKey::from_hugging_face(usual) {
        return Ok(key);
    }
    let path = file.path().to_path_buf();
    Err(if name.ends_with(".bias") {
        Error::Inexpressible { path, target: "plm", what: format!("biases (`{name}`)") }
    } else {
        Error::UnknownTensor { path, tensor: name.to_string() }
    })
}

/// A tensor's data, which must be of a float type. Doubles are rounded as they are read.
fn weight(file: &SafetensorsFile, info: &TensorInfo) -> Result<Weight> {
    let path = file.path().to_path_buf();
    let source: Arc<dyn RowSource> = match info.data.clone() {
        Some(data) if data.dtype().is_float() => Arc::new(data),
        Some(data) if data.dtype() == DType::F64 => Arc::new(RoundedDoubles::new(data)),
        _ => {
            let (tensor, dtype) = (info.name.clone(), info.dtype_name.clone());
            return Err(Error::TensorType { path, tensor, dtype });
        }
    };
    Ok(Weight { path, name: info.name.clone(), shape: info.shape.clone(), source })
}

pub(super) fn check_shape(
    path: &Path,
    tensor: &str,
    found: &[usize],
    expected: &[usize],
    from: &'static str,
) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        path: path.to_path_buf(),
        tensor: tensor.to_string(),
        found: found.to_vec(),
        expected: expected.to_vec(),
        from,
    })
}

/// `lm_head.weight` may be in a checkpoint as a copy of the embedding, even in another type; anything else would
/// be lost.
pub(super) fn check_head(
    folder: &Path,
    is_tied: bool,
    embedding: &Weight,
    head: Option<Weight>,
) -> Result<()> {
    let Some(head) = head else {
        if is_tied {
            return Ok(());
        }
        return Err(Error::MissingTensor { path: folder.to_path_buf(), tensor: "lm_head.weight".into() });
    };
    check_shape(&head.path, &head.name, &head.shape, &embedding.shape, "the embedding")?;
    let step = (COMPARE_CHUNK / head.source.row_bytes().max(1)).max(1);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for start in (0..head.source.rows()).step_by(step) {
        let rows = start..(start + step).min(head.source.rows());
        head.source.read_rows(rows.clone(), &mut a)?;
        embedding.source.read_rows(rows, &mut b)?;
        let same = match (head.source.dtype(), embedding.source.dtype()) {
            (one, other) if one == other => a == b,
            (one, other) => floats(one, &a).eq(floats(other, &b)),
        };
        if !same {
            return Err(Error::UntiedHead { path: head.path });
        }
    }
    Ok(())
}

/// Values of a float type, exactly.
fn floats(dtype: DType, bytes: &[u8]) -> impl Iterator<Item = f32> + '_ {
    bytes.chunks_exact(dtype.block_bytes()).map(move |b| match dtype {
        DType::F16 => half::f16::from_le_bytes([b[0], b[1]]).to_f32(),
        DType::Bf16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f32(),
        _ => f32::from_le_bytes([b[0], b[1], b[2], b[3]]),
    })
}

/// Rewrites a checkpoint whose RoPE pairs lie half a head apart into one whose pairs lie side by side, exactly.
fn interleave_rope(model: &mut Model) {
    for tensor in &mut model.tensors {
        if let Some(order) = model.config.moved_rows(tensor.key.role) {
            tensor.source = Arc::new(GatheredRows::new(Arc::clone(&tensor.source), order));
        }
    }
    model.config.rope_interleave = true;
}
