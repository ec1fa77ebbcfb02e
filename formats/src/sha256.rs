//! SHA-256, spelled as sha256sum spells it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};
use crate::hex;

/// Bytes read at a time.
const CHUNK: usize = 1 << 20;

/// The digest of a whole file.
///
/// # Errors
/// An unreadable file.
pub fn of_file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut bytes = vec![0; CHUNK];
    loop {
        let count = file.read(&mut bytes).map_err(Error::io(path))?;
        if count == 0 {
            return Ok(hex(hash.finalize()));
        }
        hash.update(&bytes[..count]);
    }
}

/// The digest of what was read.
pub fn of_bytes(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_digest_of_its_bytes() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let bytes = vec![7; CHUNK + 3];
        std::fs::write(file.path(), &bytes).expect("can be written");
        assert_eq!(of_file(file.path()).expect("can be read"), of_bytes(&bytes));
        assert_eq!(of_bytes(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
