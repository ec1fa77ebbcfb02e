//! From files to a [`Model`].

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Config, Model, Origin, Role, Tensor, TensorKey};
use crate::describe::ADDITIONAL_TEMPLATES;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::gguf::GgufFile;
use crate::safetensors::{SafetensorsFile, TensorInfo};
use crate::source::{GatheredRows, RowSource, StoredTensor};

/// Shards of this many bytes are compared at a time when the output head is checked against the embedding.
const COMPARE_CHUNK: usize = 1 << 20;

/// Reads a Hugging Face folder: config.json and safetensors, as one file, shards with an index, or several
/// files without one.
pub(super) fn from_folder(folder: &Path) -> Result<Model> {
    // Before anything is read, so that no change goes unseen.
    let inputs = fingerprints(folder);
    let config_path = folder.join("config.json");
    let text = std::fs::read_to_string(&config_path).map_err(Error::io(&config_path))?;
    let config = Config::from_json(&config_path, &text)?;

    let mut found: HashMap<TensorKey, (PathBuf, StoredTensor, Vec<usize>)> = HashMap::new();
    let mut head = None;
    for file in open_weights(folder)? {
        for info in &file.tensors {
            if info.name == "lm_head.weight" {
                head = Some((file.path().to_path_buf(), stored(&file, info)?, info.shape.clone()));
                continue;
            }
            if info.name.ends_with("rotary_emb.inv_freq") {
                continue;
            }
            let key = identify(&file, info)?;
            let entry = (file.path().to_path_buf(), stored(&file, info)?, info.shape.clone());
            if found.insert(key, entry).is_some() {
                return Err(Error::DuplicateTensor {
                    path: file.path().to_path_buf(),
                    tensor: info.name.clone(),
                });
            }
        }
    }

    let mut tensors = Vec::new();
    for (key, expected) in config.expected_tensors() {
        let (path, data, shape) = found.remove(&key).ok_or_else(|| Error::MissingTensor {
            path: folder.to_path_buf(),
            tensor: key.hugging_face_name().unwrap_or_else(|| key.gguf_name()),
        })?;
        check_shape(&path, data.name(), &shape, &expected, "config.json")?;
        tensors.push(Tensor { key, shape, source: Arc::new(data) });
    }
    if let Some((key, (path, data, _))) = found.into_iter().min_by_key(|(key, _)| *key) {
        return Err(match key.layer {
            Some(layer) if layer >= config.num_hidden_layers => Error::BadValue {
                path: config_path,
                key: "num_hidden_layers".into(),
                found: config.num_hidden_layers.to_string(),
                expected: format!("more: the checkpoint has `{}`", data.name()),
            },
            _ => Error::UnknownTensor { path, tensor: data.name().to_string() },
        });
    }
    check_head(folder, &config, &tensors, head)?;

    let mut model = Model { config, tensors, origin: Origin::HuggingFace(folder.to_path_buf()), inputs };
    if !model.config.rope_interleave {
        interleave_rope(&mut model);
    }
    Ok(model)
}

/// Reads a PLM GGUF.
pub(super) fn from_gguf(file: GgufFile) -> Result<Model> {
    let path = file.path();
    let config = Config::from_gguf(path, &file.metadata)?;
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
    let inputs = file.fingerprints().cloned().collect();
    Ok(Model { config, tensors, origin: Origin::Gguf(file), inputs })
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

/// The safetensors files of a folder, in a fixed order.
fn open_weights(folder: &Path) -> Result<Vec<SafetensorsFile>> {
    let index = folder.join("model.safetensors.index.json");
    let single = folder.join("model.safetensors");
    let paths = if index.is_file() {
        indexed_files(folder, &index)?
    } else if single.is_file() {
        vec![single]
    } else {
        all_safetensors(folder)?
    };
    if paths.is_empty() {
        return Err(Error::NotFound { path: folder.join("model.safetensors") });
    }
    paths.iter().map(SafetensorsFile::open).collect()
}

fn indexed_files(folder: &Path, index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(index).map_err(Error::io(index))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| Error::Json { path: index.to_path_buf(), detail: e.to_string() })?;
    let mut names: Vec<_> = parsed.weight_map.into_values().collect();
    names.sort();
    names.dedup();
    // A name such as `../../x` in an index must not lead out of the model's folder.
    if let Some(bad) = names.iter().find(|n| Path::new(n).file_name().is_none_or(|f| f != n.as_str())) {
        return Err(Error::BadValue {
            path: index.to_path_buf(),
            key: "weight_map".into(),
            found: bad.clone(),
            expected: "file names in the same folder".into(),
        });
    }
    Ok(names.into_iter().map(|n| folder.join(n)).collect())
}

fn all_safetensors(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if path.extension().is_some_and(|e| e == "safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn identify(file: &SafetensorsFile, info: &TensorInfo) -> Result<TensorKey> {
    if let Some(key) = TensorKey::from_hugging_face(&info.name) {
        return Ok(key);
    }
    let path = file.path().to_path_buf();
    Err(if info.name.ends_with(".bias") {
        Error::Inexpressible { path, target: "plm", what: format!("biases (`{}`)", info.name) }
    } else {
        Error::UnknownTensor { path, tensor: info.name.clone() }
    })
}

/// The data of a weight, which must be of a float type.
fn stored(file: &SafetensorsFile, info: &TensorInfo) -> Result<StoredTensor> {
    info.data.clone().filter(|d| d.dtype().is_float()).ok_or_else(|| Error::TensorType {
        path: file.path().to_path_buf(),
        tensor: info.name.clone(),
        dtype: info.dtype_name.clone(),
    })
}

fn check_shape(
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

/// `lm_head.weight` may stand in a checkpoint as a copy of the embedding; anything else would be lost.
fn check_head(
    folder: &Path,
    config: &Config,
    tensors: &[Tensor],
    head: Option<(PathBuf, StoredTensor, Vec<usize>)>,
) -> Result<()> {
    let Some((path, head, shape)) = head else {
        if config.tie_word_embeddings {
            return Ok(());
        }
        return Err(Error::MissingTensor { path: folder.to_path_buf(), tensor: "lm_head.weight".into() });
    };
    let embedding = &tensors[0];
    debug_assert_eq!(embedding.key.role, Role::TokenEmbedding);
    check_shape(&path, head.name(), &shape, &embedding.shape, "the embedding")?;
    if head.dtype() != embedding.source.dtype() {
        return Err(Error::UntiedHead { path });
    }
    let step = (COMPARE_CHUNK / head.row_bytes()).max(1);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for start in (0..head.rows()).step_by(step) {
        let rows = start..(start + step).min(head.rows());
        head.read_rows(rows.clone(), &mut a)?;
        embedding.source.read_rows(rows, &mut b)?;
        if a != b {
            return Err(Error::UntiedHead { path });
        }
    }
    Ok(())
}

/// Rewrites a checkpoint whose RoPE pairs lie half a head apart into one whose pairs lie side by side, exactly:
/// output 2i takes row i, output 2i + 1 takes row i + half, in every query head and in the shared key.
fn interleave_rope(model: &mut Model) {
    let config = &model.config;
    let (nope, rope) = (config.qk_nope_head_dim, config.qk_rope_head_dim);
    let interleaved = |first: usize| (0..rope).map(move |i| (first + (i % 2) * (rope / 2) + i / 2) as u32);
    let query: Vec<u32> = (0..config.num_attention_heads)
        .flat_map(|head| {
            let start = head * (nope + rope);
            (start..start + nope).map(|r| r as u32).chain(interleaved(start + nope))
        })
        .collect();
    let latent = config.kv_lora_rank;
    let key: Vec<u32> = (0..latent as u32).chain(interleaved(latent)).collect();
    for tensor in &mut model.tensors {
        let order = match tensor.key.role {
            Role::Query | Role::QueryB => &query,
            Role::KvA => &key,
            _ => continue,
        };
        tensor.source = Arc::new(GatheredRows::new(Arc::clone(&tensor.source), order.clone()));
    }
    model.config.rope_interleave = true;
}
