//! The only place that sequences stages: read rows, turn them into blocks, write them where the plan says.

pub mod folder;
pub mod stream;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_calibrate::resume::{self, Finished, Part};
use plmconv_calibrate::{Guided, Leftover, Storage};
use plmconv_formats::atomic::{AtomicFile, AtomicSet};
use plmconv_formats::gguf::{earlier_shards, stamp_set};
use plmconv_quant::codec;

use crate::error::{At, Place, interrupted, leftover};
use crate::interrupt;
use crate::plan::{Contents, Plan, PlannedTensor, Shard};
use crate::progress::{Console, Watch};
use crate::readback;

use stream::{Rows, Sink, Writer, in_order, row_steps};

/// Behind the name of an output that did not hold what it was checked for.
pub const REJECTED: &str = ".rejected";

/// Some rows of one tensor and where their blocks go.
struct Chunk<'a> {
    planned: &'a PlannedTensor,
    importance: Option<&'a [f32]>,
    guided: Option<Arc<Guided<'a>>>,
    rows: Range<usize>,
    shard: usize,
    number: usize,
    offset: u64,
    /// It is in the output, and may be kept.
    finished: OnceLock<Part>,
}

/// Complete outputs that do not have their names yet: what has to hold before they do is checked on [`path`](Self::path).
pub struct Written {
    set: AtomicSet,
    /// The names they will have.
    targets: Vec<PathBuf>,
}

impl Written {
    /// The output, or its first shard, as a reader opens it.
    pub fn path(&self) -> &Path {
        self.set.path()
    }

    /// Gives the outputs their names.
    pub fn commit(self) -> Result<()> {
        self.set.commit().at(Place::Output)?;
        self.targets.iter().for_each(|target| resume::discard(target));
        Ok(())
    }

    /// Leaves the outputs under names that say they did not hold; returns these. What has their names stays.
    pub fn reject(self) -> Result<Vec<PathBuf>> {
        let rejected = self.set.set_aside(REJECTED)?;
        self.targets.iter().for_each(|target| resume::discard(target));
        Ok(rejected)
    }
}

/// Writes everything the plan says.
pub fn run(plan: &Plan, bar: &ProgressBar, console: Console) -> Result<Written> {
    // What an interrupted run had finished may be kept.
    let _stoppable = interrupt::stoppable();
    let writer = Writer::default();
    let mut chunks = chunks(plan)?;
    // Before anything is read, so that work on a source that changes meanwhile is never taken up again.
    let keeps = plan.rounding.is_guided();
    let key = (keeps || plan.resume).then(|| plan.key()).transpose()?;
    let mut outputs = Vec::new();
    for shard in &plan.shards {
        let resume_key = key.as_deref().filter(|_| plan.resume);
        let (output, finished) = create_output(shard, plan.overwrite, resume_key, &writer, console)?;
        for part in finished {
            chunks.get_mut(part.number).into_iter().for_each(|chunk| chunk.finished = part.clone().into());
        }
        outputs.push(output);
    }
    let written = carry_out(&chunks, &Outputs { files: &outputs, writer }, keeps, bar, console);
    if let Err(error) = written {
        let is_interrupted = leftover(&error).is_some();
        // What an earlier run had finished is kept whatever ended this one.
        let Some(key) = key.filter(|_| keeps && (is_interrupted || plan.resume)) else { return Err(error) };
        let kept = keep(plan, outputs, &key, &chunks)?;
        return Err(if is_interrupted { interrupted(kept) } else { error });
    }

    plan.check_unchanged()?;
    let directories = plan.shards.iter().map(|shard| &shard.directory);
    let files: Vec<readback::Written<'_>> = outputs.iter().zip(directories).collect();
    if plan.is_split {
        stamp(&files)?;
    }
    match plan.contents {
        Contents::Model => readback::model(&files)?,
        Contents::Adapter => readback::adapter(&files)?,
    }
    let targets = plan.shards.iter().map(|shard| shard.path.clone()).collect();
    let earlier = if plan.is_split { earlier_shards(&plan.output, plan.shards.len()) } else { Vec::new() };
    Ok(Written { set: AtomicSet::new(outputs, earlier)?, targets })
}

/// Gives complete shards the id of their set.
pub fn stamp(shards: &[readback::Written<'_>]) -> Result<()> {
    let shards = shards.iter().map(|(file, directory)| (file.file(), file.target(), &*directory.head));
    Ok(stamp_set(shards)?)
}

/// Makes everything the plan says, as [`run`] does, for a sink that keeps nothing.
pub fn produce(plan: &Plan, sink: &dyn Sink, bar: &ProgressBar, console: Console) -> Result<()> {
    let _stoppable = interrupt::stoppable();
    carry_out(&chunks(plan)?, sink, false, bar, console)?;
    plan.check_unchanged()
}

/// Encodes the chunks that are not finished and hands them on; what is `kept` is noted.
fn carry_out(
    chunks: &[Chunk<'_>],
    sink: &dyn Sink,
    kept: bool,
    bar: &ProgressBar,
    console: Console,
) -> Result<()> {
    in_order(chunks, |buffers: &mut Buffers, chunk| {
        let source = &chunk.planned.tensor.source;
        if chunk.finished.get().is_some() {
            chunk.guided.iter().for_each(|guided| guided.finish_group());
        } else {
            let blocks = buffers.encode(chunk)?;
            sink.put(chunk.shard, blocks, chunk.offset)?;
            if kept {
                chunk.finished.get_or_init(|| Part::new(chunk.number, chunk.offset, blocks));
            }
        }
        if chunk.rows.end == source.rows() {
            console.detail(bar, || format!("{:<36} {}", chunk.planned.name, chunk.planned.dtype));
        }
        bar.inc((chunk.rows.len() * source.row_bytes()) as u64);
        Ok(())
    })
}

/// The files that are written, in the order of the plan's shards.
struct Outputs<'a> {
    files: &'a [AtomicFile],
    writer: Writer,
}

impl Sink for Outputs<'_> {
    fn put(&self, file: usize, bytes: &[u8], offset: u64) -> Result<()> {
        let output = &self.files[file];
        self.writer.write(output.file(), output.target(), bytes, offset)
    }
}

/// Starts one output; returns the chunks that are there already.
fn create_output(
    shard: &Shard,
    overwrite: bool,
    key: Option<&str>,
    writer: &Writer,
    console: Console,
) -> Result<(AtomicFile, Vec<Part>)> {
    // The whole size first: that finds a full disk where the file system can tell, and fixes the length.
    let (output, finished) =
        resume::start(&shard.path, overwrite, shard.directory.file_bytes, key, &Watch::new(console))?;
    writer.write(output.file(), &shard.path, &shard.directory.head, 0)?;
    Ok((output, finished.parts))
}

/// Keeps the chunks that were finished, for a run that goes on with them.
fn keep(plan: &Plan, outputs: Vec<AtomicFile>, key: &str, chunks: &[Chunk<'_>]) -> Result<Leftover> {
    let parts_of = |shard| {
        let finished = chunks.iter().filter(|chunk| chunk.shard == shard);
        finished.filter_map(|chunk| chunk.finished.get().cloned()).collect::<Vec<_>>()
    };
    let mut outcome = Leftover::Nothing;
    if chunks.iter().any(|chunk| chunk.finished.get().is_some()) {
        for (index, (output, shard)) in outputs.into_iter().zip(&plan.shards).enumerate().rev() {
            let finished = Finished { parts: parts_of(index), extra: Vec::new() };
            outcome = resume::keep(output, key, shard.directory.file_bytes, finished)?;
        }
    }
    Ok(outcome)
}

/// The plan's work in file order.
fn chunks(plan: &Plan) -> Result<Vec<Chunk<'_>>> {
    let mut chunks = Vec::new();
    for (shard_index, shard) in plan.shards.iter().enumerate() {
        for (planned, entry) in plan.tensors[shard.tensors.clone()].iter().zip(&shard.directory.entries) {
            let source = &planned.tensor.source;
            let encoded_row =
                planned.dtype.encoded_len(source.cols()).expect("the plan's rows are whole blocks");
            let importance = plan.rounding.importance(planned.tensor.key, source.cols())?;
            let size = [source.rows(), source.cols()];
            let storage = Storage::Type(planned.dtype);
            let guided = plan.rounding.guided(planned.tensor.key, storage, size, true).map(Arc::new);
            let steps: Vec<Range<usize>> = match &guided {
                Some(guided) => guided.groups().collect(),
                None => row_steps(&**source, 1).collect(),
            };
            for rows in steps {
                chunks.push(Chunk {
                    planned,
                    importance,
                    guided: guided.clone(),
                    shard: shard_index,
                    number: chunks.len(),
                    offset: entry.offset + (rows.start * encoded_row) as u64,
                    rows,
                    finished: OnceLock::new(),
                });
            }
        }
    }
    Ok(chunks)
}

/// What a worker keeps between chunks.
#[derive(Default)]
struct Buffers {
    rows: Rows,
    blocks: Vec<u8>,
}

impl Buffers {
    /// The chunk's rows in the type the plan gives them.
    fn encode(&mut self, chunk: &Chunk<'_>) -> Result<&[u8]> {
        let PlannedTensor { tensor, name, dtype, .. } = chunk.planned;
        self.rows.load(name, &*tensor.source, chunk.rows.clone())?;
        if *dtype == tensor.source.dtype() {
            return Ok(&self.rows.stored);
        }
        self.encode_values(chunk).with_context(|| format!("tensor `{name}`"))?;
        Ok(&self.blocks)
    }

    fn encode_values(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        let (dtype, cols) = (chunk.planned.dtype, chunk.planned.tensor.source.cols());
        let values = &mut self.rows.values;
        let len = dtype.encoded_len(values.len()).expect("the plan's rows are whole blocks");
        self.blocks.resize(len, 0);
        match &chunk.guided {
            Some(guided) => Ok(guided.encode(dtype, chunk.rows.start, values, &mut self.blocks)?),
            None => Ok(codec::encode_rows(dtype, values, cols, chunk.importance, &mut self.blocks)?),
        }
    }
}
