//! The only place that sequences stages: read rows, turn them into blocks, write them where the plan says.

pub mod stream;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_formats::atomic::AtomicFile;
use plmconv_quant::codec;

use crate::error::Interrupted;
use crate::guidance::Feedback;
use crate::plan::{Plan, PlannedTensor, Shard};
use crate::progress::Console;
use crate::resume::{self, Finished};

use stream::{Rows, Sink, Writer, in_order, row_steps};
pub use stream::{interrupted, on_interrupt, write_all_at};

/// Some rows of one tensor and where their blocks go.
struct Chunk<'a> {
    planned: &'a PlannedTensor,
    importance: Option<&'a [f32]>,
    feedback: Option<Arc<Feedback<'a>>>,
    rows: Range<usize>,
    shard: usize,
    offset: u64,
    /// It stands in its output.
    done: AtomicBool,
}

impl Chunk<'_> {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// Writes everything the plan says. Nothing appears under an output's name unless all of it is there.
pub fn run(plan: &Plan, bar: &ProgressBar, console: Console) -> Result<()> {
    let writer = Writer::default();
    let mut chunks = chunks(plan)?;
    let key = plan.resume.then(|| plan.key()).transpose()?;
    let mut outputs = Vec::new();
    for shard in &plan.shards {
        let (output, finished) = create_output(shard, plan.overwrite, key.as_deref(), &writer)?;
        for part in finished {
            chunks.get_mut(part).into_iter().for_each(|chunk| *chunk.done.get_mut() = true);
        }
        outputs.push(output);
    }
    let written = carry_out(&chunks, &Outputs { files: &outputs, writer }, bar, console);
    if let Err(error) = written {
        let is_interrupted = error.is::<Interrupted>();
        // What an earlier run had finished is kept whatever ended this one.
        if !(plan.guidance.feeds_back() && (is_interrupted || plan.resume)) {
            return Err(error);
        }
        let kept = keep(plan, outputs, key, &chunks)?;
        return Err(if is_interrupted { kept.into() } else { error });
    }

    // A loader opens the first shard and then looks for the others: it must be the last to appear.
    for output in outputs.into_iter().rev() {
        let path = output.target().to_path_buf();
        output.commit()?;
        resume::discard(&path);
    }
    Ok(())
}

/// Makes everything the plan says, as [`run`] does, for a sink that keeps nothing.
pub fn produce(plan: &Plan, sink: &dyn Sink, bar: &ProgressBar, console: Console) -> Result<()> {
    carry_out(&chunks(plan)?, sink, bar, console)
}

/// Encodes the chunks that are not done and hands them on.
fn carry_out(chunks: &[Chunk<'_>], sink: &dyn Sink, bar: &ProgressBar, console: Console) -> Result<()> {
    in_order(chunks, |buffers: &mut Buffers, chunk| {
        let source = &chunk.planned.tensor.source;
        if chunk.is_done() {
            chunk.feedback.iter().for_each(|feedback| feedback.finish_group());
        } else {
            sink.put(chunk.shard, buffers.encode(chunk)?, chunk.offset)?;
            chunk.done.store(true, Ordering::Relaxed);
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

/// Starts one output; returns the numbers of the chunks that are there already.
fn create_output(
    shard: &Shard,
    overwrite: bool,
    key: Option<&str>,
    writer: &Writer,
) -> Result<(AtomicFile, Vec<usize>)> {
    // The whole size first: that finds a full disk where the file system can tell, and fixes the length.
    let (output, finished) = resume::start(&shard.path, overwrite, shard.directory.file_bytes, key)?;
    writer.write(output.file(), &shard.path, &shard.directory.head, 0)?;
    Ok((output, finished.parts))
}

/// Keeps the chunks that were finished, for a run that goes on with them.
fn keep(
    plan: &Plan,
    outputs: Vec<AtomicFile>,
    key: Option<String>,
    chunks: &[Chunk<'_>],
) -> Result<Interrupted> {
    let parts = |shard| {
        let finished = chunks.iter().enumerate().filter(|(_, chunk)| chunk.shard == shard && chunk.is_done());
        finished.map(|(number, _)| number).collect::<Vec<_>>()
    };
    if !chunks.iter().any(Chunk::is_done) {
        return Ok(Interrupted::default());
    }
    let key = key.map_or_else(|| plan.key(), Ok)?;
    let mut kept = None;
    for (index, (output, shard)) in outputs.into_iter().zip(&plan.shards).enumerate().rev() {
        let finished = Finished { parts: parts(index), extra: Vec::new() };
        kept = Some(resume::keep(output, &key, shard.directory.file_bytes, finished)?);
    }
    Ok(Interrupted { kept })
}

/// The plan's work in file order.
fn chunks(plan: &Plan) -> Result<Vec<Chunk<'_>>> {
    let mut chunks = Vec::new();
    for (shard_index, shard) in plan.shards.iter().enumerate() {
        for (planned, entry) in plan.tensors[shard.tensors.clone()].iter().zip(&shard.directory.entries) {
            let source = &planned.tensor.source;
            let encoded_row =
                planned.dtype.encoded_len(source.cols()).expect("the plan's rows are whole blocks");
            let importance = plan.guidance.importance(planned.tensor.key, source.cols())?;
            let size = [source.rows(), source.cols()];
            let feedback =
                plan.guidance.feedback(planned.tensor.key, planned.dtype, size, true).map(Arc::new);
            let steps: Vec<Range<usize>> = match &feedback {
                Some(feedback) => feedback.groups().collect(),
                None => row_steps(&**source, 1).collect(),
            };
            chunks.extend(steps.into_iter().map(|rows| Chunk {
                planned,
                importance,
                feedback: feedback.clone(),
                shard: shard_index,
                offset: entry.offset + (rows.start * encoded_row) as u64,
                rows,
                done: AtomicBool::new(false),
            }));
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
        match &chunk.feedback {
            Some(feedback) => feedback.encode(dtype, chunk.rows.start, values, &mut self.blocks),
            None => Ok(codec::encode_rows(dtype, values, cols, chunk.importance, &mut self.blocks)?),
        }
    }
}
