//! Every output is opened again by the reader that a user of it has, before it gets its name: structure, offsets and
//! sizes are those of the plan, and a sample of every tensor decodes to finite values.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::atomic::AtomicFolder;
use plmconv_formats::describe::special_token_ids;
use plmconv_formats::gguf::{Directory, GgufFile, Metadata};
use plmconv_formats::onnx::{External, OnnxFile};
use plmconv_formats::source::{InputFile, StoredTensor};
use plmconv_formats::{DType, Error as FormatError, Model};
use plmconv_validate::readback::check_sample;

use crate::error::ReadBack;
use crate::onnx::OnnxPlan;

/// A written GGUF and what it should be; of a set, each shard.
pub type Written<'a> = (&'a AtomicFile, &'a Directory);

/// Reads back a model.
///
/// # Errors
/// [`ReadBack`], also for a file that this program itself would refuse as a model.
pub fn model(shards: &[Written<'_>]) -> Result<()> {
    let check = || -> Result<()> {
        let file = open_gguf(shards)?;
        check_special_tokens(&file.metadata)?;
        Model::from_gguf(file)?;
        Ok(())
    };
    check().map_err(|e| ReadBack::new(&e).into())
}

/// Reads back a GGUF that is no model, such as statistics; returns it as opened.
///
/// # Errors
/// [`ReadBack`].
pub fn gguf(file: Written<'_>) -> Result<GgufFile> {
    open_gguf(&[file]).map_err(|e| ReadBack::new(&e).into())
}

fn open_gguf(shards: &[Written<'_>]) -> Result<GgufFile> {
    let inputs: Vec<Arc<InputFile>> =
        shards.iter().map(|(file, _)| open_again(file)).collect::<Result<_, _>>()?;
    let lengths = inputs.iter().map(|input| (input.path(), input.len()));
    for ((path, len), (_, directory)) in lengths.zip(shards) {
        ensure!(len == directory.file_bytes, "{}: {len} bytes of {}", path.display(), directory.file_bytes);
    }
    let file = GgufFile::from_inputs(inputs.iter().cloned())?;
    let planned = shards.iter().flat_map(|(_, directory)| &directory.entries);
    ensure!(file.tensors.len() == planned.clone().count(), "{} tensors", file.tensors.len());
    for (found, entry) in file.tensors.iter().zip(planned) {
        let data = &found.data;
        let same = found.name == entry.name
            && found.shape == entry.shape
            && (data.offset(), data.byte_len()) == (entry.offset, entry.bytes);
        ensure!(same, "tensor `{}` at byte {}: read as {found:?}", entry.name, entry.offset);
        check_sample(data)?;
    }
    Ok(file)
}

/// The output's data by its own handle, as which nobody else can have put another in its place.
fn open_again(file: &AtomicFile) -> Result<Arc<InputFile>, FormatError> {
    let copy = file.file().try_clone().map_err(FormatError::io(file.target()))?;
    InputFile::from_file(file.target(), copy)
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
    let sidecars = plan.sidecars.files.iter().map(|sidecar| (sidecar.path.as_path(), &sidecar.bytes));
    for (name, bytes) in std::iter::once((Path::new(&graph_path), model)).chain(sidecars) {
        let path = folder.path().join(name);
        let found = std::fs::read(&path).map_err(FormatError::io(&path))?;
        ensure!(found == *bytes, "{}: not the bytes that were written", folder.target().join(name).display());
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
            bail!("tensor `{}` lies in `{file}`, which was not written", initializer.name);
        };
        let tensor =
            StoredTensor::new(Arc::clone(file), initializer.name, dtype, &initializer.shape, *offset)?;
        check_sample(&tensor)?;
    }
    Ok(())
}

/// The types of an initializer whose values may fail to be finite; codes are whole numbers.
fn float(element: &str) -> Option<DType> {
    DType::from_name(element).filter(|dtype| matches!(dtype, DType::F32 | DType::F16 | DType::Bf16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::{Target, WeightType, fill};
    use crate::pipeline::write_all_at;
    use crate::progress::Console;
    use indicatif::ProgressBar;
    use plmconv_formats::gguf::{ALIGNMENT_KEY, Metadata, Value, string_array};
    use std::path::PathBuf;

    /// A GGUF of two tensors, zeros both, as it is before it gets its name.
    fn written(output: &Path, metadata: &Metadata) -> (AtomicFile, Directory) {
        let tensors =
            [("a".to_string(), DType::F32, vec![40]), ("b".to_string(), DType::Q8_0, vec![3000, 32])];
        let directory = Directory::new(metadata, tensors).expect("laid out");
        let file = AtomicFile::create(output, false).expect("create");
        file.file().set_len(directory.file_bytes).expect("sparse");
        write_all_at(file.file(), &directory.head, 0).expect("written");
        (file, directory)
    }

    fn refusal(file: &AtomicFile, directory: &Directory) -> String {
        let error = gguf((file, directory)).expect_err("damaged");
        assert!(error.is::<ReadBack>(), "{error}");
        error.to_string()
    }

    #[test]
    fn damage_in_a_gguf_is_named_with_its_place() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = dir.path().join("out.gguf");
        let (file, directory) = written(&output, &Metadata::new());
        gguf((&file, &directory)).expect("whole");
        let [a, b] = [0, 1].map(|i| directory.entries[i].offset);

        write_all_at(file.file(), &f32::NAN.to_le_bytes(), a + 8).expect("written");
        let said = refusal(&file, &directory);
        assert!(said.contains("out.gguf: tensor `a`") && said.contains(&format!("byte {}", a + 8)), "{said}");
        write_all_at(file.file(), &[0; 4], a + 8).expect("written");

        // The scale of the last block: infinity in half precision.
        let last = b + 2999 * 34;
        write_all_at(file.file(), &[0, 0x7c], last).expect("written");
        write_all_at(file.file(), &[1], last + 33).expect("written");
        let said = refusal(&file, &directory);
        assert!(said.contains("tensor `b`") && said.contains(&format!("byte {last}")), "{said}");
        write_all_at(file.file(), &[0; 2], last).expect("written");
        gguf((&file, &directory)).expect("whole again");

        file.file().set_len(directory.file_bytes - 1).expect("cut");
        refusal(&file, &directory);
        file.file().set_len(directory.file_bytes).expect("long");
        for at in [0, 8, 16] {
            let mut head = directory.head.clone();
            head[at] ^= 1;
            write_all_at(file.file(), &head, 0).expect("written");
            refusal(&file, &directory);
        }
    }

    #[test]
    fn a_file_that_says_another_alignment_than_it_has_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut metadata = Metadata::new();
        metadata.set(ALIGNMENT_KEY, Value::U32(4096));
        let (file, directory) = written(&dir.path().join("out.gguf"), &metadata);
        assert!(refusal(&file, &directory).contains("4096"));
        let (file, directory) = written(&dir.path().join("out.gguf"), &metadata.without_layout());
        gguf((&file, &directory)).expect("as it says");
    }

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
            ..Target::new(&Default::default(), DType::F16, WeightType::Bits(4))
        };
        let plan = OnnxPlan::new(Model::open(fixture).expect("a fixture"), target).expect("planned");
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
