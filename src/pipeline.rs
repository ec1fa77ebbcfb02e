//! The only place that sequences stages: read rows, turn them into blocks, write them where the plan says.

pub mod stream;

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use indicatif::ProgressBar;
use plmconv_formats::atomic::AtomicFile;
use plmconv_quant::codec;

use crate::guidance::Feedback;
use crate::plan::{Plan, PlannedTensor, Shard};
use crate::progress::Console;

use stream::{Rows, Writer, in_order, row_steps};
pub use stream::{interrupted, on_interrupt, write_all_at};

/// Some rows of one tensor and where their blocks go.
struct Chunk<'a> {
    planned: &'a PlannedTensor,
    importance: Option<&'a [f32]>,
    feedback: Option<Arc<Feedback<'a>>>,
    rows: Range<usize>,
    shard: usize,
    offset: u64,
}

/// Writes everything the plan says. Nothing appears under an output's name unless all of it is there.
pub fn run(plan: &Plan, bar: &ProgressBar, console: Console) -> Result<()> {
    let writer = Writer::default();
    let outputs: Vec<AtomicFile> = plan
        .shards
        .iter()
        .map(|shard| create_output(shard, plan.overwrite, &writer))
        .collect::<Result<_>>()?;
    in_order(&chunks(plan)?, |buffers: &mut Buffers, chunk| {
        let output = &outputs[chunk.shard];
        let source = &chunk.planned.tensor.source;
        writer.write(output.file(), output.target(), buffers.encode(chunk)?, chunk.offset)?;
        if chunk.rows.end == source.rows() {
            console.detail(bar, || format!("{:<36} {}", chunk.planned.name, chunk.planned.dtype));
        }
        bar.inc((chunk.rows.len() * source.row_bytes()) as u64);
        Ok(())
    })?;

    // A loader opens the first shard and then looks for the others: it must be the last to appear.
    for output in outputs.into_iter().rev() {
        output.commit()?;
    }
    Ok(())
}

fn create_output(shard: &Shard, overwrite: bool, writer: &Writer) -> Result<AtomicFile> {
    let output = AtomicFile::create(&shard.path, overwrite)?;
    // Reserving the whole size first finds a full disk where the file system can tell, and fixes the length.
    output.file().set_len(shard.directory.file_bytes).map_err(plmconv_formats::Error::io(&shard.path))?;
    writer.write(output.file(), &shard.path, &shard.directory.head, 0)?;
    Ok(output)
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
