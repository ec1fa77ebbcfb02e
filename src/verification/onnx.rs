//! An exported ONNX folder beside the plan that should have made it: every file in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_formats::onnx::{Content, DataItem, OnnxFile, Place};
use plmconv_formats::source::InputFile;
use plmconv_formats::{DType, Error as FormatError};

use super::Difference;
use super::comparison::{Comparison, Region, compare_whole};
use crate::onnx::{OnnxPlan, produce, stored_as};
use crate::progress::Console;
use crate::recipe::{self, Recipe};

/// An export that is to be verified.
#[derive(Debug)]
pub struct OnnxCandidate {
    graph: PathBuf,
    pub recipe: Recipe,
}

impl OnnxCandidate {
    /// Opens the export with this graph.
    ///
    /// # Errors
    /// No ONNX model; one without a recipe, or with a damaged one.
    pub fn open(graph: &Path) -> Result<OnnxCandidate> {
        let file = OnnxFile::open(graph)?;
        let text = file.metadata.iter().find(|(key, _)| key == recipe::KEY).map(|(_, text)| text.as_str());
        let recipe = recipe::read(graph, text)?.with_context(|| {
            let key = recipe::KEY;
            format!("{}: no `{key}`: another program or an older plmconv wrote it", graph.display())
        })?;
        // Its folder has a parent, whatever path it was named by.
        let graph = graph.canonicalize().map_err(FormatError::io(graph))?;
        Ok(OnnxCandidate { graph, recipe })
    }

    /// All in which the folder is not what the plan would write, and the bytes of all its files. Files that are
    /// `excepted`, by their path in the folder, may differ, be missing or be too many.
    ///
    /// # Errors
    /// A source or a file that cannot be read, Ctrl-C.
    pub fn compare(
        &self,
        plan: &OnnxPlan,
        excepted: &[String],
        bar: &ProgressBar,
        console: Console,
    ) -> Result<(Vec<Difference>, u64)> {
        let folder = plan.spec.folder().split_terminator('/').fold(parent(&self.graph), |f, _| parent(f));
        let mut present = files(folder, folder)?;
        present.retain(|name| !excepted.iter().any(|other| Path::new(other) == name));
        let bytes = present.iter().map(|name| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len()));
        let bytes = bytes.sum();

        let mut differences = Vec::new();
        let graph = (PathBuf::from(plan.graph_path()), plan.export.model.as_slice());
        let companions = plan.companions.files.iter().map(|s| (s.path.clone(), s.bytes.as_slice()));
        for (name, derived) in std::iter::once(graph).chain(companions) {
            if excepted.iter().any(|other| Path::new(other) == name) {
                continue;
            }
            if !present.remove(&name) {
                differences.push(Difference::File { file: name, missing: true });
                continue;
            }
            differences.extend(compare_small(&folder.join(&name), name, derived)?);
        }
        differences.extend(compare_data(plan, folder, &mut present, bar, console)?);
        differences.extend(present.into_iter().map(|file| Difference::File { file, missing: false }));
        Ok((differences, bytes))
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn compare_small(path: &Path, name: PathBuf, derived: &[u8]) -> Result<Vec<Difference>> {
    let input = InputFile::open(path)?;
    let mut differences = Vec::new();
    if let Some((differing, first)) = compare_whole(&input, derived)? {
        let part = if name.extension().is_some_and(|e| e == "onnx") { "graph" } else { "file" };
        differences.push(Difference::Bytes { file: name.clone(), part: part.into(), differing, first });
    }
    if input.len() != derived.len() as u64 {
        differences.push(Difference::Length {
            file: name,
            found: input.len(),
            derived: derived.len() as u64,
        });
    }
    Ok(differences)
}

/// The external data; its files are taken out of `present`.
fn compare_data(
    plan: &OnnxPlan,
    folder: &Path,
    present: &mut BTreeSet<PathBuf>,
    bar: &ProgressBar,
    console: Console,
) -> Result<Vec<Difference>> {
    let mut regions: Vec<Vec<Region>> = plan.export.data_bytes.iter().map(|_| Vec::new()).collect();
    for (place, region) in plan.export.items.iter().flat_map(parts) {
        regions[place.file].push(region);
    }
    for literal in &plan.export.literals {
        let region = part("constant", "bytes".into(), literal.place, literal.place.bytes, 1);
        regions[literal.place.file].push(region);
    }
    let mut comparison = Comparison::new();
    let mut differences = Vec::new();
    for (index, ((name, bytes), regions)) in plan.data_paths().zip(regions).enumerate() {
        let name = PathBuf::from(name);
        present.remove(&name);
        comparison.add(&folder.join(&name), name, regions)?;
        differences.extend(comparison.padding(index, 0, bytes)?);
    }
    produce(plan, &comparison, bar, console)?;
    plan.check_unchanged()?;
    differences.extend(comparison.finish());
    Ok(differences)
}

/// Where the parts of a weight are.
fn parts(item: &DataItem) -> Vec<(Place, Region)> {
    let (rows, cols) = (item.source.rows(), item.source.cols());
    let whole = |what: &str, place: Place, row_bytes: usize, block_bytes: usize| {
        let name = format!("{}{what}", item.name);
        (place, part(&name, stored_as(item), place, row_bytes as u64, block_bytes as u64))
    };
    let size = DType::block_bytes;
    match &item.content {
        Content::Float { dtype, place } => vec![whole("", *place, cols * size(*dtype), size(*dtype))],
        Content::NBits { format, scale_type, codes, scales, zero_points } => {
            let (blocks, scale) = (format.blocks(cols), size(*scale_type));
            let mut parts = vec![
                whole(", codes", *codes, blocks * format.block_bytes(), format.block_bytes()),
                whole(", scales", *scales, blocks * scale, scale),
            ];
            let bytes = format.zero_point_bytes(cols);
            parts.extend(zero_points.map(|place| whole(", zero points", place, bytes, 1)));
            parts
        }
        // Transposed: a row of the file is a column of the weight's blocks.
        Content::Qdq { format, scale_type, codes, scales, zero_points } => {
            let (packed, scale) = ((rows * format.bits).div_ceil(8), size(*scale_type));
            let mut parts =
                vec![whole(", codes", *codes, packed, 1), whole(", scales", *scales, rows * scale, scale)];
            parts.extend(zero_points.map(|place| whole(", zero points", place, packed, 1)));
            parts
        }
    }
}

fn part(name: &str, stored_as: String, place: Place, row_bytes: u64, block_bytes: u64) -> Region {
    Region {
        name: name.into(),
        stored_as,
        offset: place.offset,
        bytes: place.bytes,
        row_bytes: row_bytes.max(1),
        block_bytes: block_bytes.max(1),
    }
}

/// All files below `folder`, by their path from `root` on.
fn files(root: &Path, folder: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).map_err(FormatError::io(folder))? {
        let entry = entry.map_err(FormatError::io(folder))?;
        let path = entry.path();
        // A link to a folder is not followed: it may lead round in a circle.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(files(root, &path)?);
        } else {
            found.insert(path.strip_prefix(root).expect("it is below").to_path_buf());
        }
    }
    Ok(found)
}
