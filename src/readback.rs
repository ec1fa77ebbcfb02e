//! Every output is opened again by the reader that a user of it has, before it gets its name: structure, offsets and
//! sizes are those of the plan, and a sample of every tensor decodes to finite values.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use plmconv_formats::atomic::AtomicFolder;
use plmconv_formats::describe::special_token_ids;
use plmconv_formats::gguf::Metadata;
use plmconv_formats::onnx::{External, OnnxFile};
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::source::{InputFile, StoredTensor};
use plmconv_formats::{DType, Error as FormatError, Model};
use plmconv_validate::readback::{check_sample, gguf};

pub use plmconv_validate::readback::Written;

use crate::checkpoint::CheckpointPlan;
use crate::error::ReadBack;
use crate::onnx::OnnxPlan;
use crate::pipeline::folder::check as check_file;

/// Reads back a model.
///
/// # Errors
/// [`ReadBack`], also for a file that this program itself would refuse as a model.
pub fn model(shards: &[Written<'_>]) -> Result<()> {
    let check = || -> Result<()> {
        let file = gguf(shards)?;
        check_special_tokens(&file.metadata)?;
        Model::from_gguf(file)?;
        Ok(())
    };
    check().map_err(|e| ReadBack::new(&e).into())
}

/// Reads back an adapter.
///
/// # Errors
/// [`ReadBack`].
pub fn adapter(shards: &[Written<'_>]) -> Result<()> {
    gguf(shards).map(drop).map_err(|e| ReadBack::new(&e.into()).into())
}

/// Every special token is one of the vocabulary.
fn check_special_tokens(metadata: &Metadata) -> Result<()> {
    for (key, id) in special_token_ids(metadata) {
        ensure!(id.is_some(), "{key}: not the id of a token");
    }
    Ok(())
}

/// Reads back an ONNX folder.
///
/// # Errors
/// [`ReadBack`].
pub fn onnx(folder: &AtomicFolder, plan: &OnnxPlan) -> Result<()> {
    check_onnx(folder, plan).map_err(|e| ReadBack::new(&e).into())
}

fn check_onnx(folder: &AtomicFolder, plan: &OnnxPlan) -> Result<()> {
    let (graph_path, model) = (plan.graph_path(), &plan.export.model);
    let companions =
        plan.companions.files.iter().map(|companion| (companion.path.as_path(), &companion.bytes));
    for (name, bytes) in std::iter::once((Path::new(&graph_path), model)).chain(companions) {
        check_file(folder, name, bytes)?;
    }
    let mut files = HashMap::new();
    for (name, bytes) in plan.data_paths() {
        let file = File::open(folder.path().join(&name)).map_err(FormatError::io(&name))?;
        let input = InputFile::from_file(folder.target().join(&name), file)?;
        ensure!(input.len() == bytes, "{}: {} bytes of {bytes}", input.path().display(), input.len());
        let file_name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
        files.insert(file_name, input);
    }
    for initializer in OnnxFile::open(&folder.path().join(&graph_path))?.initializers {
        let (Some(External { file, offset }), Some(dtype)) =
            (&initializer.external, float(initializer.element))
        else {
            continue;
        };
        let Some(file) = files.get(file) else {
            bail!("tensor `{}` is in `{file}`, which was not written", initializer.name);
        };
        let tensor =
            StoredTensor::new(Arc::clone(file), initializer.name, dtype, &initializer.shape, *offset)?;
        check_sample(&tensor)?;
    }
    Ok(())
}

/// Reads back a Hugging Face folder.
///
/// # Errors
/// [`ReadBack`], also for a folder that this program itself would refuse as a model.
pub fn checkpoint(folder: &AtomicFolder, plan: &CheckpointPlan) -> Result<()> {
    check_checkpoint(folder, plan).map_err(|e| ReadBack::new(&e).into())
}

fn check_checkpoint(folder: &AtomicFolder, plan: &CheckpointPlan) -> Result<()> {
    for companion in &plan.checkpoint.files {
        check_file(folder, &companion.path, &companion.bytes)?;
    }
    for shard in &plan.checkpoint.shards {
        let file = SafetensorsFile::open(folder.path().join(&shard.name))?;
        ensure!(file.file_bytes == shard.bytes, "{}: {} bytes", shard.name.display(), file.file_bytes);
        file.tensors.iter().filter_map(|tensor| tensor.data.as_ref()).try_for_each(check_sample)?;
    }
    let again = Model::open(folder.path())?;
    ensure!(again.tensors.len() == plan.model.tensors.len(), "{} tensors", again.tensors.len());
    Ok(())
}

/// The types of an initializer whose values may fail to be finite; codes are whole numbers.
fn float(element: &str) -> Option<DType> {
    DType::from_name(element).filter(|dtype| matches!(dtype, DType::F32 | DType::F16 | DType::Bf16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{OnnxDraft, fill};
    use crate::progress::Console;
    use crate::target::{Onnx, OnnxWeights, Target, WeightType};
    use indicatif::ProgressBar;
    use plmconv_calibrate::Rounding;
    use plmconv_formats::gguf::{Value, string_array};
    use std::path::PathBuf;

    #[test]
    fn a_special_token_outside_the_vocabulary_is_refused() {
        let metadata = |id: u32| {
            let mut metadata = Metadata::new();
            metadata.set("tokenizer.ggml.tokens", string_array(["a", "b"].map(String::from)));
            metadata.set("tokenizer.ggml.eos_token_id", Value::U32(id));
            metadata
        };
        check_special_tokens(&metadata(1)).expect("a token");
        let said = check_special_tokens(&metadata(2)).expect_err("two tokens").to_string();
        assert!(said.contains("tokenizer.ggml.eos_token_id"), "{said}");
    }

    #[test]
    fn damage_in_an_onnx_folder_is_named_with_its_place() {
        let dir = tempfile::tempdir().expect("tempdir");
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tiny-plm");
        let target = Target {
            output: Some(dir.path().join("out")),
            ..Target::new(Onnx::new(DType::F16, OnnxWeights::Preset(WeightType::Bits(4))))
        };
        let draft = OnnxDraft::new(Model::open(fixture).expect("a fixture"), target).expect("drafted");
        let plan = draft.finish(Rounding::default(), None).expect("planned");
        let folder = AtomicFolder::create(&plan.output, false, |_| Ok(())).expect("create");
        let console = Console { quiet: true, verbose: false };
        fill(&folder, &plan, &ProgressBar::hidden(), console).expect("written");
        onnx(&folder, &plan).expect("whole");

        let refused = |name: &str, damage: &dyn Fn(&mut Vec<u8>)| {
            let path: PathBuf = folder.path().join(name);
            let whole = std::fs::read(&path).expect("written");
            let mut bytes = whole.clone();
            damage(&mut bytes);
            std::fs::write(&path, bytes).expect("writable");
            let error = onnx(&folder, &plan).expect_err(name);
            assert!(error.is::<ReadBack>(), "{error}");
            std::fs::write(&path, whole).expect("writable");
            error.to_string()
        };
        let (data, _) = plan.data_paths().next().expect("external data");
        let initializers =
            OnnxFile::open(&folder.path().join(plan.graph_path())).expect("a graph").initializers;
        let scales =
            initializers.iter().find(|i| i.element == "F16" && i.external.is_some()).expect("scales");
        let at = scales.external.as_ref().expect("external").offset as usize;
        let said = refused(&data, &|bytes| bytes[at..at + 2].copy_from_slice(&[0, 0x7c]));
        assert!(said.contains(&scales.name) && said.contains(&format!("byte {at}")), "{said}");
        refused(&data, &|bytes| bytes.truncate(bytes.len() - 1));
        refused(&plan.graph_path(), &|bytes| bytes.truncate(bytes.len() / 2));
        refused("tokenizer.json", &|bytes| bytes[0] ^= 1);
        onnx(&folder, &plan).expect("whole again");
    }
}
