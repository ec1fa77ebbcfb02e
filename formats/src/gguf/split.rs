//! Sets of shards: what they are called, and how a reader knows that they belong together.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{GgufFile, Metadata, ValueType};
use crate::atomic::{parent, unfinished};
use crate::error::{Error, Result};
use crate::hex;
use crate::source::InputFile;

/// Metadata key of a set's id, the same in all its shards: a digest of them all. llama.cpp's tools neither write nor read
/// it, but two runs' shards under one name are told apart by it.
pub const SET_ID: &str = "split.set_id";

/// What is in a set's metadata until it is complete and [`stamp_set`] knows its id.
pub const UNKNOWN_SET_ID: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Bytes of a shard that are read at a time.
const CHUNK: usize = 1 << 20;

/// Whose shard of how many, by its name: `model-00001-of-00003.gguf`, llama.cpp's pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardName {
    /// The file name before `-00001-of-00003.gguf`.
    pub stem: String,
    /// From 1.
    pub number: usize,
    /// Number of shards of the set.
    pub count: usize,
}

impl ShardName {
    /// Takes a file's name apart.
    pub fn parse(name: &str) -> Option<ShardName> {
        let (rest, count) = name.strip_suffix(".gguf")?.rsplit_once("-of-")?;
        let (stem, number) = rest.rsplit_once('-')?;
        let digits = |text: &str| {
            let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        Some(ShardName { stem: stem.into(), number: digits(number)?, count: digits(count)? })
    }

    /// The file's name.
    pub fn file_name(&self) -> String {
        format!("{}-{:05}-of-{:05}.gguf", self.stem, self.number, self.count)
    }
}

/// The shards of sets that plmconv wrote as `output` (`model.gguf`) with another number of shards than `count`; those
/// that anything else wrote are not its own to replace.
pub fn earlier_shards(output: &Path, count: usize) -> Vec<PathBuf> {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    let entries = std::fs::read_dir(parent(output)).into_iter().flatten().flatten();
    let is_earlier = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| ShardName::parse(name.to_str()?));
        name.is_some_and(|name| name.stem == stem && name.count != count) && set_id_of(path).is_some()
    };
    let mut found: Vec<PathBuf> =
        entries.map(|entry| output.with_file_name(entry.file_name())).filter(is_earlier).collect();
    found.sort();
    found
}

/// Gives complete shards their set's id: the SHA-256 of all their bytes, with [`UNKNOWN_SET_ID`] in its place. Each comes
/// as its file, its path for errors, and its head (everything before the data).
///
/// # Errors
/// A shard that cannot be read or written.
pub fn stamp_set<'a>(shards: impl Iterator<Item = (&'a File, &'a Path, &'a [u8])> + Clone) -> Result<()> {
    let mut hash = Sha256::new();
    let mut bytes = vec![0; CHUNK];
    for (mut file, path, _) in shards.clone() {
        file.rewind().map_err(Error::io(path))?;
        loop {
            let count = file.read(&mut bytes).map_err(Error::io(path))?;
            if count == 0 {
                break;
            }
            hash.update(&bytes[..count]);
        }
    }
    let id = hex(hash.finalize());
    for (mut file, path, head) in shards {
        let at = id_offset(head, UNKNOWN_SET_ID).expect("a shard's head has a place for the id");
        file.seek(SeekFrom::Start(at))
            .and_then(|_| file.write_all(id.as_bytes()))
            .map_err(Error::io(path))?;
    }
    Ok(())
}

/// The id that complete shards should have, which have `id` in its place; each comes as its file and its head.
///
/// # Errors
/// A shard that cannot be read.
pub fn expected_set_id<'a>(
    shards: impl Iterator<Item = (&'a InputFile, &'a [u8])>,
    id: &str,
) -> Result<String> {
    let mut hash = Sha256::new();
    let mut bytes = vec![0; CHUNK];
    for (file, head) in shards {
        let at = id_offset(head, id);
        let mut from = 0;
        while from < file.len() {
            let count = (file.len() - from).min(CHUNK as u64) as usize;
            file.read_exact_at(&mut bytes[..count], from)?;
            for (place, zero) in at.iter().flat_map(|&at| (at..).zip(UNKNOWN_SET_ID.bytes())) {
                if let Some(byte) = place.checked_sub(from).and_then(|at| bytes[..count].get_mut(at as usize))
                {
                    *byte = zero;
                }
            }
            hash.update(&bytes[..count]);
            from += count as u64;
        }
    }
    Ok(hex(hash.finalize()))
}

/// Where the set's id, which is `id`, is in a shard's head.
fn id_offset(head: &[u8], id: &str) -> Option<u64> {
    let mut pair = (SET_ID.len() as u64).to_le_bytes().to_vec();
    pair.extend_from_slice(SET_ID.as_bytes());
    pair.extend_from_slice(&(ValueType::String as u32).to_le_bytes());
    pair.extend_from_slice(&(id.len() as u64).to_le_bytes());
    let before = pair.len() as u64;
    pair.extend_from_slice(id.as_bytes());
    head.windows(pair.len()).position(|window| window == pair).map(|at| at as u64 + before)
}

/// The id in one shard's metadata.
fn set_id_of(path: &Path) -> Option<String> {
    let shard = GgufFile::open_shard(path).ok()?;
    set_id(&shard.metadata).map(str::to_string)
}

fn set_id(metadata: &Metadata) -> Option<&str> {
    metadata.string(SET_ID)
}

/// Checks that `shard`, the one of this number (from 0), is of the set that `first` opens.
///
/// # Errors
/// Another number, another count, another id.
pub(super) fn check_shard(first: &GgufFile, shard: &GgufFile, number: usize) -> Result<()> {
    let mixed = || Error::MixedShards { path: shard.path().into(), first: first.path().into() };
    if set_id(&first.metadata) != set_id(&shard.metadata) {
        return Err(mixed());
    }
    let says = |key: &str, expected: usize| match shard.metadata.unsigned(key) {
        Some(found) if found != expected => Err(Error::BadValue {
            path: shard.path().into(),
            key: key.into(),
            found: found.to_string(),
            expected: expected.to_string(),
        }),
        _ => Ok(()),
    };
    says("split.no", number)?;
    says("split.count", first.metadata.unsigned("split.count").unwrap_or(1))
}

/// Whether a missing file is a shard of a set that a killed run was putting in place.
pub(crate) fn is_unfinished_shard(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(ShardName::parse).is_some() && unfinished(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart_and_put_together() {
        let name = "my-model-q4-00002-of-00012.gguf";
        let parsed = ShardName::parse(name).expect("a shard");
        assert_eq!((parsed.stem.as_str(), parsed.number, parsed.count), ("my-model-q4", 2, 12));
        assert_eq!(parsed.file_name(), name);
        for other in [
            "model.gguf",
            "m-1-of-3.gguf",
            "m-00001-of-00003",
            "m-0000x-of-00003.gguf",
            "00001-of-00002.gguf",
        ] {
            assert_eq!(ShardName::parse(other), None, "{other}");
        }
    }
}
