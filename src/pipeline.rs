//! The only place that sequences stages: read rows, turn them into blocks, write them where the plan says.

pub mod stream;

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_formats::atomic::AtomicFile;
use plmconv_quant::codec;

use crate::error::Interrupted;
use crate::guidance::Feedback;
use crate::plan::{Plan, PlannedTensor, Shard};
use crate::progress::Console;
use crate::readback;
use crate::resume::{self, Finished, Part};

use stream::{Rows, Writer, in_order, row_steps};
pub use stream::{interrupted, on_interrupt, write_all_at};

/// Some rows of one tensor and where their blocks go.
struct Chunk<'a> {
    planned: &'a PlannedTensor,
    importance: Option<&'a [f32]>,
    feedback: Option<Arc<Feedback<'a>>>,
    rows: Range<usize>,
    shard: usize,
    number: usize,
    offset: u64,
    /// It stands in its output, and may be kept.
    finished: OnceLock<Part>,
}

/// Writes everything the plan says. Nothing appears under an output's name unless all of it is there.
pub fn run(plan: &Plan, bar: &ProgressBar, console: Console) -> Result<()> {
    let writer = Writer::default();
    let mut chunks = chunks(plan)?;
    // Before anything is read, so that work on a source that changes meanwhile is never taken up again.
    let keeps = plan.guidance.feeds_back();
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
    let written = in_order(&chunks, |buffers: &mut Buffers, chunk| {
        let output = &outputs[chunk.shard];
        let source = &chunk.planned.tensor.source;
        if chunk.finished.get().is_some() {
            chunk.feedback.iter().for_each(|feedback| feedback.finish_group());
        } else {
            let blocks = buffers.encode(chunk)?;
            writer.write(output.file(), output.target(), blocks, chunk.offset)?;
            if keeps {
                chunk.finished.get_or_init(|| Part::new(chunk.number, chunk.offset, blocks));
            }
        }
        if chunk.rows.end == source.rows() {
            console.detail(bar, || format!("{:<36} {}", chunk.planned.name, chunk.planned.dtype));
        }
        bar.inc((chunk.rows.len() * source.row_bytes()) as u64);
        Ok(())
    });
    if let Err(error) = written {
        let is_interrupted = error.is::<Interrupted>();
        // What an earlier run had finished is kept whatever ended this one.
        let Some(key) = key.filter(|_| keeps && (is_interrupted || plan.resume)) else { return Err(error) };
        let kept = keep(plan, outputs, &key, &chunks)?;
        return Err(if is_interrupted { kept.into() } else { error });
    }

    plan.check_unchanged()?;
    let directories = plan.shards.iter().map(|shard| &shard.directory);
    readback::model(&outputs.iter().zip(directories).collect::<Vec<_>>())?;
    // A loader opens the first shard and then looks for the others: it must be the last to appear.
    for output in outputs.into_iter().rev() {
        output.commit()?;
    }
    // Not before all are there: what was kept of one shard is needed as long as another can still fail.
    plan.shards.iter().for_each(|shard| resume::discard(&shard.path));
    Ok(())
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
    let (output, finished) = resume::start(&shard.path, overwrite, shard.directory.file_bytes, key, console)?;
    writer.write(output.file(), &shard.path, &shard.directory.head, 0)?;
    Ok((output, finished.parts))
}

/// Keeps the chunks that were finished, for a run that goes on with them.
fn keep(plan: &Plan, outputs: Vec<AtomicFile>, key: &str, chunks: &[Chunk<'_>]) -> Result<Interrupted> {
    let parts_of = |shard| {
        let finished = chunks.iter().filter(|chunk| chunk.shard == shard);
        finished.filter_map(|chunk| chunk.finished.get().cloned()).collect::<Vec<_>>()
    };
    let mut outcome = Interrupted::default();
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
            let importance = plan.guidance.importance(planned.tensor.key, source.cols())?;
            let size = [source.rows(), source.cols()];
            let feedback =
                plan.guidance.feedback(planned.tensor.key, planned.dtype, size, true).map(Arc::new);
            let steps: Vec<Range<usize>> = match &feedback {
                Some(feedback) => feedback.groups().collect(),
                None => row_steps(&**source, 1).collect(),
            };
            for rows in steps {
                chunks.push(Chunk {
                    planned,
                    importance,
                    feedback: feedback.clone(),
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
        match &chunk.feedback {
            Some(feedback) => feedback.encode(dtype, chunk.rows.start, values, &mut self.blocks),
            None => Ok(codec::encode_rows(dtype, values, cols, chunk.importance, &mut self.blocks)?),
        }
    }
}
