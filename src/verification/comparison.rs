//! Bytes beside those of files, instead of into them: a sink that notes what differs and where.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use plmconv_formats::source::InputFile;

use super::{DataDifference, Difference, DifferentByte};
use crate::pipeline::stream::Sink;

/// Bytes that are read at a time.
const STEP: usize = 64 << 10;

/// A stretch of a file that holds one tensor, or one part of it.
#[derive(Debug)]
pub struct Region {
    pub name: String,
    pub stored_as: String,
    pub offset: u64,
    pub bytes: u64,
    pub row_bytes: u64,
    pub block_bytes: u64,
}

impl Region {
    fn end(&self) -> u64 {
        self.offset + self.bytes
    }
}

/// Files whose regions are compared.
#[derive(Debug)]
pub struct Comparison {
    files: Vec<ComparedFile>,
}

#[derive(Debug)]
struct ComparedFile {
    input: Arc<InputFile>,
    /// As it is called in a report.
    name: PathBuf,
    /// By offset, with what differs in each.
    regions: Vec<(Region, Mutex<Found>)>,
}

#[derive(Debug, Default)]
struct Found {
    blocks: u64,
    first: Option<DifferentByte>,
}

impl Comparison {
    /// No files yet.
    pub fn new() -> Comparison {
        Comparison { files: Vec::new() }
    }

    /// Adds the next file; it is called `name` in the report.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn add(&mut self, path: &Path, name: PathBuf, mut regions: Vec<Region>) -> Result<()> {
        regions.sort_by_key(|region| region.offset);
        let regions = regions.into_iter().map(|region| (region, Mutex::default())).collect();
        self.files.push(ComparedFile { input: InputFile::open(path)?, name, regions });
        Ok(())
    }

    /// Whether a file has zeros between its regions, the first of which may begin at `start`, and up to its `end`.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn padding(&self, file: usize, start: u64, end: u64) -> Result<Vec<Difference>> {
        let ComparedFile { input, name, regions } = &self.files[file];
        let mut differences = Vec::new();
        let ends =
            regions.iter().map(|(region, _)| (region.end(), format!("padding after `{}`", region.name)));
        let starts = regions.iter().map(|(region, _)| region.offset).chain([end]);
        let gaps = std::iter::once((start, "padding before the data".to_string())).chain(ends).zip(starts);
        for ((from, part), to) in gaps {
            let to = to.min(input.len());
            let (mut differing, mut first) = (0, None);
            let mut at = from;
            while at < to {
                let zeros = [0; STEP / 16];
                let length = zeros.len().min((to - at) as usize);
                compare(input, &zeros[..length], at, |byte| {
                    differing += 1;
                    first.get_or_insert(byte);
                })?;
                at += length as u64;
            }
            if let Some(first) = first {
                differences.push(Difference::Bytes { file: name.clone(), part, differing, first });
            }
        }
        if input.len() != end {
            differences.push(Difference::Length { file: name.clone(), found: input.len(), derived: end });
        }
        Ok(differences)
    }

    /// The end of a file's last region; 0 if it has none.
    pub fn data_end(&self, file: usize) -> u64 {
        self.files[file].regions.iter().map(|(region, _)| region.end()).max().unwrap_or(0)
    }

    /// The regions that differ, in file order.
    pub fn finish(self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for file in self.files {
            for (region, found) in file.regions {
                let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
                let Some(first) = found.first else { continue };
                let at = first.offset - region.offset;
                differences.push(Difference::Data(DataDifference {
                    file: file.name.clone(),
                    blocks: region.bytes.div_ceil(region.block_bytes),
                    differing: found.blocks,
                    row: at / region.row_bytes,
                    block: at % region.row_bytes / region.block_bytes,
                    first,
                    tensor: region.name,
                    stored_as: region.stored_as,
                }));
            }
        }
        differences
    }
}

impl Sink for Comparison {
    fn put(&self, file: usize, bytes: &[u8], offset: u64) -> Result<()> {
        let ComparedFile { input, regions, .. } = &self.files[file];
        let after = regions.partition_point(|(region, _)| region.offset <= offset);
        let (region, found) = &regions[after.checked_sub(1).expect("bytes belong to a region")];
        assert!(offset + bytes.len() as u64 <= region.end(), "bytes stay in their region");
        let (mut blocks, mut first, mut last) = (0, None, None);
        compare(input, bytes, offset, |byte| {
            let block = Some((byte.offset - region.offset) / region.block_bytes);
            blocks += u64::from(block != last);
            last = block;
            first.get_or_insert(byte);
        })?;
        if let Some(first) = first {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.blocks += blocks;
            if found.first.is_none_or(|before| first.offset < before.offset) {
                found.first = Some(first);
            }
        }
        Ok(())
    }
}

/// Tells of every byte in which `input` from `offset` on is not `derived`, in order.
///
/// # Errors
/// A file that cannot be read.
pub fn compare(
    input: &InputFile,
    derived: &[u8],
    offset: u64,
    mut differs: impl FnMut(DifferentByte),
) -> Result<()> {
    let mut buffer = vec![0; STEP.min(derived.len())];
    for (derived, at) in derived.chunks(STEP).zip((offset..).step_by(STEP)) {
        let there = (derived.len() as u64).min(input.len().saturating_sub(at)) as usize;
        let found = &mut buffer[..there];
        input.read_exact_at(found, at)?;
        if found == derived {
            continue;
        }
        for (i, &derived) in derived.iter().enumerate() {
            let found = found.get(i).copied();
            if found != Some(derived) {
                differs(DifferentByte { offset: at + i as u64, found, derived });
            }
        }
    }
    Ok(())
}

/// How a small file, or the start of a large one, differs from `derived`.
///
/// # Errors
/// A file that cannot be read.
pub fn compare_whole(input: &InputFile, derived: &[u8]) -> Result<Option<(u64, DifferentByte)>> {
    let (mut differing, mut first) = (0, None);
    compare(input, derived, 0, |byte| {
        differing += 1;
        first.get_or_insert(byte);
    })?;
    Ok(first.map(|first| (differing, first)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(content: &[u8]) -> (tempfile::TempDir, Comparison) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        std::fs::write(&path, content).expect("writable");
        let region = |name: &str, offset, bytes| Region {
            name: name.into(),
            stored_as: "Q8_0".into(),
            offset,
            bytes,
            row_bytes: 4,
            block_bytes: 2,
        };
        let mut comparison = Comparison::new();
        let regions = vec![region("b", 16, 8), region("a", 4, 8)];
        comparison.add(&path, "file".into(), regions).expect("opens");
        (dir, comparison)
    }

    #[test]
    fn blocks_that_differ_are_counted_once_and_the_first_is_named() {
        let mut content = [0; 32];
        content[4..12].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        content[16..24].copy_from_slice(&[1; 8]);
        let (_dir, comparison) = comparison(&content);
        comparison.put(0, &[5, 6, 8, 7], 8).expect("compared");
        comparison.put(0, &[1, 2, 0, 0], 4).expect("compared");
        comparison.put(0, &[1; 8], 16).expect("compared");
        assert!(comparison.padding(0, 0, 32).expect("read").is_empty());
        let differences = comparison.finish();
        let [Difference::Data(found)] = differences.as_slice() else { panic!("{differences:?}") };
        assert_eq!((found.tensor.as_str(), found.blocks, found.differing), ("a", 4, 2));
        assert_eq!((found.row, found.block), (0, 1));
        assert_eq!(found.first, DifferentByte { offset: 6, found: Some(3), derived: 0 });
    }

    #[test]
    fn a_file_that_is_too_short_differs_where_it_ends() {
        let (_dir, comparison) = comparison(&[0; 18]);
        comparison.put(0, &[0; 8], 16).expect("compared");
        let padding = comparison.padding(0, 0, 32).expect("read");
        assert!(matches!(padding.as_slice(), [Difference::Length { found: 18, derived: 32, .. }]));
        let differences = comparison.finish();
        let [Difference::Data(found)] = differences.as_slice() else { panic!("{differences:?}") };
        assert_eq!(found.first, DifferentByte { offset: 18, found: None, derived: 0 });
        assert_eq!(found.differing, 3);
    }

    #[test]
    fn what_stands_between_the_tensors_is_found() {
        for (at, part) in [(1, "before the data"), (13, "after `a`"), (30, "after `b`")] {
            let mut content = [0; 32];
            content[at] = 0x40;
            let (_dir, comparison) = comparison(&content);
            let padding = comparison.padding(0, 0, 32).expect("read");
            let [Difference::Bytes { part: found, first, .. }] = padding.as_slice() else {
                panic!("{padding:?}")
            };
            assert!(found.contains(part), "{found}");
            assert_eq!(*first, DifferentByte { offset: at as u64, found: Some(0x40), derived: 0 });
        }
    }
}
