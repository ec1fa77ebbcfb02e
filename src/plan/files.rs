//! Which tensors go into which file, and where in it.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use plmconv_formats::DType;
use plmconv_formats::gguf::{Directory, Metadata, SET_ID, UNKNOWN_SET_ID, Value};

use super::{PlannedTensor, Shard};
use crate::target::{Arranged, Arrangement, shard_path};

/// Distributes the tensors over files; each shard of a set says which it is, as gguf-split has it.
pub(super) fn lay_out(
    output: &Path,
    mut whole: Metadata,
    tensors: &mut [PlannedTensor],
    arrangement: Arrangement,
) -> Result<Vec<Shard>> {
    let is_set = matches!(arrangement, Arrangement::Shards(_));
    let (ranges, like) = match arrangement {
        Arrangement::OneFile => (std::iter::once(0..tensors.len()).collect(), Vec::new()),
        Arrangement::Shards(max_size) => (split(tensors, max_size), Vec::new()),
        Arrangement::Like(files) => (sort_like(tensors, &files), files),
    };
    let is_split = is_set || like.iter().any(Arranged::is_shard);
    let count = ranges.len();
    let mut shards = Vec::new();
    for (index, range) in ranges.into_iter().enumerate() {
        // The first shard has it all.
        let mut metadata = std::mem::take(&mut whole);
        if is_split {
            metadata.set("split.no", Value::U16(index as u16));
            metadata.set("split.count", Value::U16(count as u16));
            metadata.set("split.tensors.count", Value::I32(tensors.len() as i32));
            metadata.set(SET_ID, Value::String(UNKNOWN_SET_ID.into()));
        }
        let path = match like.get(index) {
            Some(file) => file.arrange(&mut metadata),
            None if is_split => shard_path(output, index, count),
            None => output.to_path_buf(),
        };
        let directory = Directory::new(&metadata, entries(&tensors[range.clone()]))?;
        shards.push(Shard { path, metadata, directory, tensors: range });
    }
    Ok(shards)
}

/// Brings the tensors into the order of these files, one range a file; those that are in none go last.
fn sort_like(tensors: &mut [PlannedTensor], files: &[Arranged]) -> Vec<Range<usize>> {
    let names = files.iter().enumerate().flat_map(|(file, f)| f.tensors.iter().map(move |name| (name, file)));
    let places: HashMap<&String, (usize, usize)> =
        names.enumerate().map(|(at, (name, file))| (name, (file, at))).collect();
    let last = (files.len() - 1, usize::MAX);
    let place = |tensor: &PlannedTensor| places.get(&tensor.name).copied().unwrap_or(last);
    tensors.sort_by_key(place);
    let end = |file| tensors.partition_point(|tensor| place(tensor).0 <= file);
    (0..files.len()).map(|file| if file == 0 { 0 } else { end(file - 1) }..end(file)).collect()
}

impl Arranged {
    fn is_shard(&self) -> bool {
        self.keys.iter().any(|key| key == "split.count")
    }

    /// Gives `metadata` this file's order and what is given; returns the path.
    fn arrange(&self, metadata: &mut Metadata) -> PathBuf {
        for (key, value) in &self.given {
            match value {
                Some(value) => metadata.set(key, value.clone()),
                None => drop(metadata.remove(key)),
            }
        }
        metadata.sort_like(self.keys.iter().map(String::as_str));
        self.path.clone()
    }
}

/// The tensors as a directory lists them.
pub(super) fn entries(tensors: &[PlannedTensor]) -> impl Iterator<Item = (String, DType, Vec<usize>)> + '_ {
    tensors.iter().map(|t| (t.name.clone(), t.dtype, t.tensor.shape.clone()))
}

/// A shard is closed before the tensor that would take it over `max_size`.
fn split(tensors: &[PlannedTensor], max_size: u64) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let (mut start, mut size) = (0, 0u64);
    for (i, t) in tensors.iter().enumerate() {
        let bytes = t.dtype.encoded_len(t.tensor.values()).expect("rows are whole blocks") as u64;
        let padded = bytes.next_multiple_of(plmconv_formats::gguf::DEFAULT_ALIGNMENT);
        if i > start && size + padded > max_size {
            ranges.push(start..i);
            (start, size) = (i, 0);
        }
        size += padded;
    }
    ranges.push(start..tensors.len());
    ranges
}
