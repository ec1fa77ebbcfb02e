//! Reading back what was written, before it gets its name.

use plmconv_formats::source::{RowSource, StoredTensor};
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

#[cfg(test)]
mod tests {
    use super::*;
    use plmconv_formats::DType;
    use plmconv_formats::source::InputFile;

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
}
