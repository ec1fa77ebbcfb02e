//! Statistics of several runs, added up.

use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::DType;
use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::gguf::{Directory, Value, string_array};
use plmconv_formats::imatrix::read_floats;

use super::read::Statistics;
use super::{KEY_CHUNK_SIZE, KEY_CHUNKS, KEY_DATASETS, KEY_DIGEST, KEY_REQUEST};
use crate::error::UsageError;
use crate::pipeline::write_all_at;
use crate::readback;

/// Adds up statistics of one model into `output`, in the order of the paths.
///
/// # Errors
/// Statistics of different models or of windows of different length.
pub fn merge(paths: &[PathBuf], output: &Path, overwrite: bool) -> Result<()> {
    let files: Vec<Statistics> = paths.iter().map(|path| Statistics::open(path)).collect::<Result<_>>()?;
    let Some(first) = files.first() else { return Err(UsageError::new("nothing to merge").into()) };
    let mut metadata = first.file.metadata.without_layout();
    let (mut datasets, mut chunks) = (Vec::new(), 0u64);
    for (path, statistics) in paths.iter().zip(&files) {
        let other = &statistics.file.metadata;
        for key in [KEY_DIGEST, KEY_CHUNK_SIZE] {
            if other.get(key) != metadata.get(key) {
                let message = format!("{}: `{key}` differs from that of the first", path.display());
                return Err(UsageError::new(message).into());
            }
        }
        datasets.extend(other.strings(KEY_DATASETS).unwrap_or_default().into_iter().map(str::to_string));
        chunks += other.unsigned(KEY_CHUNKS).unwrap_or(0) as u64;
    }
    metadata.remove(KEY_REQUEST);
    metadata.set(KEY_DATASETS, string_array(datasets));
    metadata.set(KEY_CHUNKS, Value::U32(chunks.try_into().unwrap_or(u32::MAX)));
    let tensors = first.file.tensors.iter().map(|t| (t.name.clone(), DType::F32, t.shape.clone()));
    let directory = Directory::new(&metadata, tensors)?;
    let file = AtomicFile::create(output, overwrite)?;
    let io = || plmconv_formats::Error::io(output);
    file.file().set_len(directory.file_bytes).map_err(io())?;
    write_all_at(file.file(), &directory.head, 0).map_err(io())?;
    for entry in &directory.entries {
        let mut sums = vec![0f64; (entry.bytes / 4) as usize];
        for (path, statistics) in paths.iter().zip(&files) {
            let tensor = statistics.file.tensor(&entry.name).filter(|t| t.shape == entry.shape);
            let tensor = tensor.ok_or_else(|| {
                UsageError::new(format!(
                    "{}: `{}` is missing or of another shape",
                    path.display(),
                    entry.name
                ))
            })?;
            let values = read_floats(path, &tensor.data)?;
            sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(x));
        }
        let bytes: Vec<u8> = sums.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        write_all_at(file.file(), &bytes, entry.offset).map_err(io())?;
    }
    for statistics in &files {
        statistics.check_unchanged()?;
    }
    Statistics::from_gguf(readback::gguf((&file, &directory))?)?;
    Ok(file.commit()?)
}
