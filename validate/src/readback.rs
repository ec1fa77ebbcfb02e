//! Reading back what was written, before it gets its name.

use std::sync::Arc;

use plmconv_formats::Error as FormatError;
use plmconv_formats::atomic::AtomicFile;
use plmconv_formats::gguf::{Directory, GgufFile};
use plmconv_formats::source::{InputFile, RowSource, StoredTensor};
use plmconv_quant::codec;

use crate::error::{Error, Result};

/// Decodes some blocks of a tensor, from its first to its last; how many does not grow with its size.
///
/// # Errors
/// Blocks that cannot be read, or that decode to NaN or infinity.
pub fn check_sample(tensor: &StoredTensor) -> Result<()> {
    let (path, dtype) = (tensor.file().path(), tensor.dtype());
    let fail = |offset: u64, detail: String| Error::ReadBack {
        path: path.to_path_buf(),
        tensor: tensor.name().to_string(),
        offset,
        detail,
    };
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    for run in tensor.sample() {
        bytes.resize((run.end - run.start) as usize, 0);
        tensor.file().read_exact_at(&mut bytes, run.start)?;
        values.resize(bytes.len() / dtype.block_bytes() * dtype.block_len(), 0.0);
        codec::decode(dtype, &bytes, &mut values).map_err(|e| fail(run.start, e.to_string()))?;
        if let Some(at) = codec::first_non_finite(&values) {
            let block = (at / dtype.block_len() * dtype.block_bytes()) as u64;
            return Err(fail(run.start + block, format!("a block of {dtype} decodes to {}", values[at])));
        }
    }
    Ok(())
}

/// A written GGUF and what it should be; of a set, each shard.
pub type Written<'a> = (&'a AtomicFile, &'a Directory);

/// Opens a written GGUF as its readers will: structure, offsets and sizes are those of its directory, and a sample of
/// every tensor decodes to finite values.
///
/// # Errors
/// It does not.
pub fn gguf(shards: &[Written<'_>]) -> Result<GgufFile> {
    let mut inputs = Vec::new();
    for (file, directory) in shards {
        let input = open_again(file)?;
        let (len, expected) = (input.len(), directory.file_bytes);
        if len != expected {
            return Err(Error::ReadBackLength { path: input.path().into(), len, expected });
        }
        inputs.push(input);
    }
    let file = GgufFile::from_inputs(inputs)?;
    let planned = shards.iter().flat_map(|(_, directory)| &directory.entries);
    let (found, expected) = (file.tensors.len(), planned.clone().count());
    if found != expected {
        return Err(Error::ReadBackCount { path: file.path().into(), found, expected });
    }
    for (found, entry) in file.tensors.iter().zip(planned) {
        let data = &found.data;
        let same = found.name == entry.name
            && found.shape == entry.shape
            && (data.offset(), data.byte_len()) == (entry.offset, entry.bytes);
        if !same {
            return Err(Error::ReadBack {
                path: data.file().path().into(),
                tensor: entry.name.clone(),
                offset: entry.offset,
                detail: format!("read as {found:?}"),
            });
        }
        check_sample(data)?;
    }
    Ok(file)
}

/// The output's data by its own handle, as which nobody else can have put another in its place.
fn open_again(file: &AtomicFile) -> Result<Arc<InputFile>, FormatError> {
    let copy = file.file().try_clone().map_err(FormatError::io(file.target()))?;
    InputFile::from_file(file.target(), copy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    use plmconv_formats::DType;
    use plmconv_formats::gguf::{ALIGNMENT_KEY, Metadata, Value};

    #[test]
    fn a_block_that_is_not_finite_is_named_with_its_place() {
        let file = tempfile::NamedTempFile::new().expect("file");
        let (rows, cols, offset) = (100, 64, 32);
        let mut bytes = vec![0; offset + rows * cols / 32 * 34];
        let check = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).expect("write");
            let input = InputFile::open(file.path()).expect("opens");
            let shape = [rows, cols];
            check_sample(&StoredTensor::new(input, "w", DType::Q8_0, &shape, offset as u64).expect("inside"))
        };
        check(&bytes).expect("zeros are finite");
        // The scale of the second and of the last block: infinity in half precision.
        for (block, codes) in [(1, 2), (rows * cols / 32 - 1, 33)] {
            let at = offset + block * 34;
            bytes[at..at + 2].copy_from_slice(&[0, 0x7c]);
            bytes[at + codes] = 1;
            let found = check(&bytes).expect_err("an infinite scale");
            assert!(
                matches!(&found, Error::ReadBack { tensor, offset, .. } if (tensor.as_str(), *offset) == ("w", at as u64)),
                "{found}"
            );
            bytes[at..at + 34].fill(0);
        }
    }

    /// A GGUF of two tensors, zeros both, as it is before it gets its name.
    fn written(output: &Path, metadata: &Metadata) -> (AtomicFile, Directory) {
        let tensors =
            [("a".to_string(), DType::F32, vec![40]), ("b".to_string(), DType::Q8_0, vec![3000, 32])];
        let directory = Directory::new(metadata, tensors).expect("laid out");
        let file = AtomicFile::create(output, false).expect("create");
        file.file().set_len(directory.file_bytes).expect("sparse");
        file.write_at(&directory.head, 0).expect("written");
        (file, directory)
    }

    fn refusal(file: &AtomicFile, directory: &Directory) -> String {
        gguf(&[(file, directory)]).expect_err("damaged").to_string()
    }

    #[test]
    fn damage_in_a_gguf_is_named_with_its_place() {
        let dir = tempfile::tempdir().expect("tempdir");
        let output = dir.path().join("out.gguf");
        let (file, directory) = written(&output, &Metadata::new());
        gguf(&[(&file, &directory)]).expect("whole");
        let [a, b] = [0, 1].map(|i| directory.entries[i].offset);

        file.write_at(&f32::NAN.to_le_bytes(), a + 8).expect("written");
        let said = refusal(&file, &directory);
        assert!(said.contains("out.gguf: tensor `a`") && said.contains(&format!("byte {}", a + 8)), "{said}");
        file.write_at(&[0; 4], a + 8).expect("written");

        // The scale of the last block: infinity in half precision.
        let last = b + 2999 * 34;
        file.write_at(&[0, 0x7c], last).expect("written");
        file.write_at(&[1], last + 33).expect("written");
        let said = refusal(&file, &directory);
        assert!(said.contains("tensor `b`") && said.contains(&format!("byte {last}")), "{said}");
        file.write_at(&[0; 2], last).expect("written");
        gguf(&[(&file, &directory)]).expect("whole again");

        file.file().set_len(directory.file_bytes - 1).expect("cut");
        refusal(&file, &directory);
        file.file().set_len(directory.file_bytes).expect("long");
        for at in [0, 8, 16] {
            let mut head = directory.head.clone();
            head[at] ^= 1;
            file.write_at(&head, 0).expect("written");
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
        gguf(&[(&file, &directory)]).expect("as it says");
    }
}
