//! Statistics of several runs, added up.

use std::path::Path;

use plmconv_formats::DType;
use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::gguf::{Directory, Value, string_array};
use plmconv_formats::imatrix::read_floats;

use super::read::Statistics;
use super::write::read_back;
use super::{KEY_CHUNK_SIZE, KEY_CHUNKS, KEY_DATASETS, KEY_DIGEST, KEY_REQUEST};
use crate::error::{Error, Result};

/// Adds up statistics of one model into `output`, in their order.
///
/// # Errors
/// Statistics of different models or of windows of different length.
pub fn merge(files: &[Statistics], output: &Path, overwrite: bool) -> Result<()> {
    let Some(first) = files.first() else { return Err(Error::NothingToMerge) };
    let mut metadata = first.file.metadata.without_layout();
    let (mut datasets, mut chunks) = (Vec::new(), 0u64);
    for statistics in files {
        let other = &statistics.file.metadata;
        for key in [KEY_DIGEST, KEY_CHUNK_SIZE] {
            if other.get(key) != metadata.get(key) {
                return Err(Error::MergedKey { path: statistics.path().into(), key });
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
    file.file().set_len(directory.file_bytes).map_err(plmconv_formats::Error::io(output))?;
    file.write_at(&directory.head, 0)?;
    for entry in &directory.entries {
        let mut sums = vec![0f64; (entry.bytes / 4) as usize];
        for statistics in files {
            let path = statistics.path();
            let tensor = statistics.file.tensor(&entry.name).filter(|t| t.shape == entry.shape);
            let tensor = tensor
                .ok_or_else(|| Error::MergedTensor { path: path.into(), tensor: entry.name.clone() })?;
            let values = read_floats(path, &tensor.data)?;
            sums.iter_mut().zip(values).for_each(|(sum, x)| *sum += f64::from(x));
        }
        let bytes: Vec<u8> = sums.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        file.write_at(&bytes, entry.offset)?;
    }
    for statistics in files {
        statistics.check_unchanged()?;
    }
    read_back(&file, &directory)?;
    Ok(file.commit()?)
}
