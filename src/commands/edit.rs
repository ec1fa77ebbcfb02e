//! `plmconv edit FILE`

use std::path::{Path, PathBuf};

use anyhow::Result;
use indicatif::ProgressBar;
use plmconv_formats::atomic::{AtomicFile, AtomicSet};
use plmconv_formats::gguf::{ALIGNMENT_KEY, Directory, GgufFile, SET_ID, UNKNOWN_SET_ID, Value};
use plmconv_formats::source::RowSource;
use plmconv_validate::readback;

use crate::error::{At, Place, ReadBack};
use crate::pipeline::stamp;
use crate::progress::Unit;
use crate::report;
use crate::resolve::EditRequest;
use crate::target::shard_path;

/// Bytes of a tensor that are copied at a time.
const COPIED_BYTES: usize = 4 << 20;

pub fn run(request: &EditRequest) -> Result<()> {
    let mut shards = GgufFile::open_shards(&request.file).at(Place::Model)?;
    let changes = request.edits.apply(&mut shards[0].metadata)?;
    let targets = targets(request, &shards)?;
    if !request.dry_run {
        write(request, &mut shards, &targets)?;
    }
    let written = if request.dry_run { &[][..] } else { &targets };
    report::edit::print(written, &changes, request.json)
}

/// Where each shard goes.
fn targets(request: &EditRequest, shards: &[GgufFile]) -> Result<Vec<PathBuf>> {
    let Some(output) = &request.output else {
        return Ok(shards.iter().map(|shard| shard.path().to_path_buf()).collect());
    };
    let targets: Vec<PathBuf> = match shards.len() {
        1 => vec![output.clone()],
        count => (0..count).map(|index| shard_path(output, index, count)).collect(),
    };
    if !request.dry_run {
        match targets.len() {
            1 => request.inputs.check_file(output, request.overwrite)?,
            _ => request.inputs.check_shards(output, &targets, request.overwrite)?,
        }
    }
    Ok(targets)
}

fn write(request: &EditRequest, shards: &mut [GgufFile], targets: &[PathBuf]) -> Result<()> {
    let bar = request.console.bar(shards.iter().map(|shard| shard.file_bytes).sum(), Unit::Bytes, "copying");
    let in_place = request.output.is_none();
    let is_stamped = shards[0].metadata.get(SET_ID).is_some();
    let (mut files, mut directories) = (Vec::new(), Vec::new());
    for (shard, target) in shards.iter_mut().zip(targets) {
        if is_stamped {
            shard.metadata.set(SET_ID, Value::String(UNKNOWN_SET_ID.into()));
        }
        let (file, directory) = copy(shard, target, in_place || request.overwrite, &bar)?;
        files.push(file);
        directories.push(directory);
    }
    for shard in shards.iter() {
        shard.fingerprints().try_for_each(|fingerprint| fingerprint.check()).at(Place::Model)?;
    }
    let written: Vec<readback::Written<'_>> = files.iter().zip(&directories).collect();
    if is_stamped {
        stamp(&written)?;
    }
    readback::gguf(&written).map_err(|e| ReadBack::new(&e.into()))?;
    AtomicSet::new(files, Vec::new())?.commit().at(Place::Output)?;
    bar.finish_and_clear();
    Ok(())
}

/// The same tensors behind other metadata.
fn copy(
    shard: &GgufFile,
    target: &Path,
    overwrite: bool,
    bar: &ProgressBar,
) -> Result<(AtomicFile, Directory)> {
    let mut metadata = shard.metadata.clone();
    metadata.remove(ALIGNMENT_KEY);
    let tensors = shard.tensors.iter().map(|t| (t.name.clone(), t.data.dtype(), t.shape.clone()));
    let directory = Directory::new(&metadata, tensors).at(Place::Model)?;
    let file = AtomicFile::create(target, overwrite).at(Place::Output)?;
    file.write_at(&directory.head, 0).at(Place::Output)?;
    let mut bytes = Vec::new();
    for (tensor, entry) in shard.tensors.iter().zip(&directory.entries) {
        let row_bytes = tensor.data.row_bytes().max(1);
        let step = (COPIED_BYTES / row_bytes).max(1);
        for start in (0..tensor.data.rows()).step_by(step) {
            let rows = start..(start + step).min(tensor.data.rows());
            tensor.data.read_rows(rows, &mut bytes).at(Place::Model)?;
            file.write_at(&bytes, entry.offset + (start * row_bytes) as u64).at(Place::Output)?;
            bar.inc(bytes.len() as u64);
        }
    }
    file.file()
        .set_len(directory.file_bytes)
        .map_err(plmconv_formats::Error::io(target))
        .at(Place::Output)?;
    Ok((file, directory))
}
