//! From an adapter's tensors to the changes they make.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::config::AdapterConfig;
use super::names::{self, Part};
use super::transposed::TransposedRows;
use super::{Change, ChangeKind, LowRank, Saved, Target};
use crate::DType;
use crate::error::{Error, Result};
use crate::model::{Spelling, TensorKey};
use crate::safetensors::{SafetensorsFile, TensorInfo};
use crate::source::{RoundedDoubles, RowSource};

/// All tensors of one module.
#[derive(Default)]
struct Module<'a> {
    parts: Vec<(Part, &'a TensorInfo)>,
}

impl<'a> Module<'a> {
    fn part(&self, wanted: Part) -> Option<&'a TensorInfo> {
        self.parts.iter().find(|(part, _)| *part == wanted).map(|(_, info)| *info)
    }
}

/// What the tensors of `file` change, those that take another's place first.
///
/// # Errors
/// Unknown tensors, half a product, shapes that do not fit each other or the config.
pub(super) fn changes(config: &AdapterConfig, file: &SafetensorsFile, scale: f64) -> Result<Vec<Change>> {
    // In the order in which the file names them.
    let mut modules: Vec<(&str, Module<'_>)> = Vec::new();
    let mut places = HashMap::new();
    for info in &file.tensors {
        let (module, part) = names::split(&info.name).ok_or_else(|| unknown(file, &info.name))?;
        let place = *places.entry(module).or_insert(modules.len());
        if place == modules.len() {
            modules.push((module, Module::default()));
        }
        modules[place].1.parts.push((part, info));
    }
    let spelling_of: Vec<String> = modules.iter().map(|(module, _)| format!("{module}.weight")).collect();
    let spelling = Spelling::of(spelling_of.iter().map(String::as_str));
    let mut changes = Vec::new();
    for ((module, tensors), weight) in modules.iter().zip(&spelling_of) {
        let target = match spelling.usual(weight).as_ref() {
            "lm_head.weight" => Target::Head,
            usual => Target::Tensor(
                TensorKey::from_hugging_face(usual).ok_or_else(|| unknown_module(file, module))?,
            ),
        };
        for kind in kinds(config, file, module, tensors, scale)? {
            changes.push(Change { target, module: (*module).into(), kind });
        }
    }
    changes.sort_by_key(|change| match change.kind {
        ChangeKind::Base(_) => 0,
        ChangeKind::Saved(_) => 1,
        ChangeKind::LowRank(_) => 2,
    });
    Ok(changes)
}

fn unknown(file: &SafetensorsFile, name: &str) -> Error {
    let path = file.path().to_path_buf();
    match names::foreign(name) {
        Some(what) => Error::Unmergeable { path, what: format!("{what} as in the tensor `{name}`") },
        None => Error::UnknownTensor { path, tensor: name.into() },
    }
}

fn unknown_module(file: &SafetensorsFile, module: &str) -> Error {
    Error::UnknownModule { path: file.path().into(), module: module.into() }
}

/// What happens to one module.
fn kinds(
    config: &AdapterConfig,
    file: &SafetensorsFile,
    module: &str,
    tensors: &Module<'_>,
    scale: f64,
) -> Result<Vec<ChangeKind>> {
    let mut kinds = Vec::new();
    if let Some(info) = tensors.part(Part::Base) {
        kinds.push(ChangeKind::Base(saved(file, info)?));
    }
    if let Some(info) = tensors.part(Part::Whole) {
        let saved = saved(file, info)?;
        kinds.push(if config.saves(module) { ChangeKind::Saved(saved) } else { ChangeKind::Base(saved) });
    }
    let factor = scale * config.factor(module);
    if let Some((a, b)) = pair(file, tensors, [Part::A, Part::B])? {
        check_ranks(config, file, module, [(a, 0), (b, 1)])?;
        let (left, right) = (values(file, b)?, values(file, a)?);
        kinds.push(ChangeKind::LowRank(LowRank { left, right, factor }));
    }
    if let Some((a, b)) = pair(file, tensors, [Part::EmbeddingA, Part::EmbeddingB])? {
        check_ranks(config, file, module, [(a, 0), (b, 1)])?;
        // Of an embedding the product is transposed: its rows are A's columns.
        let oriented =
            |info| -> Result<Arc<dyn RowSource>> { Ok(Arc::new(TransposedRows::of(&*values(file, info)?)?)) };
        kinds.push(ChangeKind::LowRank(LowRank { left: oriented(a)?, right: oriented(b)?, factor }));
    }
    Ok(kinds)
}

fn saved(file: &SafetensorsFile, info: &TensorInfo) -> Result<Saved> {
    Ok(Saved { name: info.name.clone(), shape: info.shape.clone(), source: values(file, info)? })
}

/// Both matrices of a product, or neither.
fn pair<'a>(
    file: &SafetensorsFile,
    tensors: &Module<'a>,
    parts: [Part; 2],
) -> Result<Option<(&'a TensorInfo, &'a TensorInfo)>> {
    match parts.map(|part| tensors.part(part)) {
        [Some(a), Some(b)] => Ok(Some((a, b))),
        [None, None] => Ok(None),
        [Some(one), None] => Err(missing(file, &one.name, "_A", "_B")),
        [None, Some(one)] => Err(missing(file, &one.name, "_B", "_A")),
    }
}

fn missing(file: &SafetensorsFile, name: &str, there: &str, absent: &str) -> Error {
    Error::MissingTensor { path: file.path().into(), tensor: name.replacen(there, absent, 1) }
}

/// Both matrices have two axes; one is the rank.
fn check_ranks(
    config: &AdapterConfig,
    file: &SafetensorsFile,
    module: &str,
    matrices: [(&TensorInfo, usize); 2],
) -> Result<()> {
    let rank = config.rank(module);
    for (info, axis) in matrices {
        if info.shape.len() != 2 || info.shape[axis] as f64 != rank {
            return Err(Error::BadValue {
                path: file.path().into(),
                key: info.name.clone(),
                found: format!("of shape {:?}", info.shape),
                expected: format!(
                    "two axes of which number {axis} is the rank {rank} that {} says",
                    name(config.path())
                ),
            });
        }
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A tensor's values, which must be of a float type.
fn values(file: &SafetensorsFile, info: &TensorInfo) -> Result<Arc<dyn RowSource>> {
    match info.data.clone() {
        Some(data) if data.dtype().is_float() => Ok(Arc::new(data)),
        Some(data) if data.dtype() == DType::F64 => Ok(Arc::new(RoundedDoubles::new(data))),
        _ => {
            let (path, tensor, dtype) = (file.path().into(), info.name.clone(), info.dtype_name.clone());
            Err(Error::TensorType { path, tensor, dtype })
        }
    }
}
