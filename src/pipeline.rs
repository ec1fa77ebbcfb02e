//! The only place that sequences stages: read rows, turn them into blocks, write them where the plan says.

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use indicatif::ProgressBar;
use plmconv_formats::atomic::AtomicFile;
use plmconv_quant::codec;

use crate::error::Interrupted;
use crate::guidance::Feedback;
use crate::plan::{Plan, PlannedTensor, Shard};
use crate::progress::Console;
use crate::resume::{self, Finished};

/// Values a worker holds at a time: small enough that a thread's buffers stay in a few megabytes, large
/// enough that a read is worth its call.
const CHUNK_VALUES: usize = 1 << 20;

/// Written bytes after which the kernel is asked to start storing them, so that the last sync has little left.
const SYNC_EVERY: u64 = 128 << 20;

/// Set by Ctrl-C; every worker looks at it between two chunks.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on Ctrl-C stops the pipeline between two chunks, so that temporaries are cleaned up.
pub fn on_interrupt() -> Result<()> {
    static ONCE: std::sync::OnceLock<Result<(), ctrlc::Error>> = std::sync::OnceLock::new();
    let installed = ONCE.get_or_init(|| ctrlc::set_handler(|| INTERRUPTED.store(true, Ordering::Relaxed)));
    installed.as_ref().map_err(|e| anyhow!("installing the Ctrl-C handler: {e}")).copied()
}

/// Whether the user pressed Ctrl-C.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

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
    let chunks = chunks(plan)?;
    let done: Vec<AtomicBool> = chunks.iter().map(|_| AtomicBool::new(false)).collect();
    let key = plan.resume.then(|| plan.key()).transpose()?;
    let mut outputs = Vec::new();
    for shard in &plan.shards {
        let (output, finished) = create_output(shard, plan.overwrite, key.as_deref())?;
        finished
            .iter()
            .filter_map(|&part| done.get(part))
            .for_each(|done| done.store(true, Ordering::Relaxed));
        outputs.push(output);
    }
    let writer = Writer { outputs: &outputs, turn: Mutex::new(()), sync: BackgroundSync::default() };
    // In file order, so that both files are read and written nearly front to back.
    let next = AtomicUsize::new(0);
    let finished = rayon::broadcast(|_| {
        let mut buffers = Buffers::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((chunk, done)) = chunks.get(number).zip(done.get(number)) else { break };
            let written = if done.load(Ordering::Relaxed) {
                chunk.feedback.iter().for_each(|feedback| feedback.finish_group());
                Ok(())
            } else if interrupted() {
                Err(Interrupted::default().into())
            } else {
                buffers.encode(chunk).and_then(|blocks| writer.write(chunk, blocks))
            };
            written.inspect_err(|_| next.store(chunks.len(), Ordering::Relaxed))?;
            done.store(true, Ordering::Relaxed);
            if chunk.rows.end == chunk.planned.tensor.source.rows() {
                console.detail(bar, || format!("{:<36} {}", chunk.planned.name, chunk.planned.dtype));
            }
            bar.inc((chunk.rows.len() * chunk.planned.tensor.source.row_bytes()) as u64);
        }
        anyhow::Ok(())
    });
    if let Err(error) = finished.into_iter().collect::<Result<()>>() {
        let is_interrupted = error.is::<Interrupted>();
        // What an earlier run had finished is kept whatever ended this one.
        if !(plan.guidance.feeds_back() && (is_interrupted || plan.resume)) {
            return Err(error);
        }
        let kept = keep(plan, outputs, key, |shard| parts_done(&chunks, &done, shard))?;
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

/// Starts one output; returns the chunks of it that are there already.
fn create_output(shard: &Shard, overwrite: bool, key: Option<&str>) -> Result<(AtomicFile, Vec<usize>)> {
    // The whole size first: that finds a full disk where the file system can tell, and fixes the length.
    let (output, finished) = resume::start(&shard.path, overwrite, shard.directory.file_bytes, key)?;
    write_all_at(output.file(), &shard.directory.head, 0).map_err(plmconv_formats::Error::io(&shard.path))?;
    Ok((output, finished.parts))
}

/// Numbers of a shard's finished chunks.
fn parts_done(chunks: &[Chunk<'_>], done: &[AtomicBool], shard: usize) -> Vec<usize> {
    let of_shard = chunks.iter().zip(done).enumerate().filter(|(_, (chunk, _))| chunk.shard == shard);
    of_shard.filter(|(_, (_, done))| done.load(Ordering::Relaxed)).map(|(number, _)| number).collect()
}

/// Keeps the chunks that were finished (`parts` by shard), for a run that goes on with them.
fn keep(
    plan: &Plan,
    outputs: Vec<AtomicFile>,
    key: Option<String>,
    parts: impl Fn(usize) -> Vec<usize>,
) -> Result<Interrupted> {
    if (0..outputs.len()).all(|shard| parts(shard).is_empty()) {
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
            let importance = plan.guidance.importance(planned)?;
            let feedback = plan.guidance.feedback(planned).map(Arc::new);
            let step = match &feedback {
                Some(feedback) => feedback.group_rows,
                None => (CHUNK_VALUES / source.cols().max(1)).max(1),
            };
            for start in (0..source.rows()).step_by(step) {
                chunks.push(Chunk {
                    planned,
                    importance,
                    feedback: feedback.clone(),
                    rows: start..(start + step).min(source.rows()),
                    shard: shard_index,
                    offset: entry.offset + (start * encoded_row) as u64,
                });
            }
        }
    }
    Ok(chunks)
}

/// What a worker keeps between chunks.
#[derive(Default)]
struct Buffers {
    stored: Vec<u8>,
    values: Vec<f32>,
    blocks: Vec<u8>,
}

impl Buffers {
    /// The chunk's rows in the type the plan gives them.
    fn encode(&mut self, chunk: &Chunk<'_>) -> Result<&[u8]> {
        let PlannedTensor { tensor, name, dtype, .. } = chunk.planned;
        let source = &tensor.source;
        source.read_rows(chunk.rows.clone(), &mut self.stored)?;

        let count = chunk.rows.len() * source.cols();
        self.values.resize(count, 0.0);
        codec::decode(source.dtype(), &self.stored, &mut self.values).with_context(|| name.clone())?;
        if let Some(at) = codec::first_non_finite(&self.values) {
            let (row, col) = (chunk.rows.start + at / source.cols(), at % source.cols());
            return Err(anyhow!("tensor `{name}` holds {} at [{row}, {col}]", self.values[at]));
        }
        if *dtype == source.dtype() {
            return Ok(&self.stored);
        }
        self.encode_values(chunk).with_context(|| format!("tensor `{name}`"))?;
        Ok(&self.blocks)
    }

    fn encode_values(&mut self, chunk: &Chunk<'_>) -> Result<()> {
        let (dtype, cols) = (chunk.planned.dtype, chunk.planned.tensor.source.cols());
        let len = dtype.encoded_len(self.values.len()).expect("the plan's rows are whole blocks");
        self.blocks.resize(len, 0);
        match &chunk.feedback {
            Some(feedback) => feedback.encode(dtype, chunk.rows.start, &mut self.values, &mut self.blocks),
            None => Ok(codec::encode_rows(dtype, &self.values, cols, chunk.importance, &mut self.blocks)?),
        }
    }
}

/// Where blocks go.
struct Writer<'a> {
    outputs: &'a [AtomicFile],
    /// The kernel lets one thread at a time write into a file and has the others spin; asleep, they leave their
    /// core to storing the blocks.
    turn: Mutex<()>,
    sync: BackgroundSync,
}

impl Writer<'_> {
    fn write(&self, chunk: &Chunk<'_>, blocks: &[u8]) -> Result<()> {
        let output = &self.outputs[chunk.shard];
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        write_all_at(output.file(), blocks, chunk.offset)
            .map_err(plmconv_formats::Error::io(output.target()))?;
        drop(turn);
        self.sync.written(output.file(), blocks.len() as u64);
        Ok(())
    }
}

/// Has the kernel store what was written while the workers go on.
#[derive(Default)]
struct BackgroundSync {
    pending: AtomicU64,
}

impl BackgroundSync {
    fn written(&self, file: &File, bytes: u64) {
        let before = self.pending.fetch_add(bytes, Ordering::Relaxed);
        if before / SYNC_EVERY == (before + bytes) / SYNC_EVERY {
            return;
        }
        if let Ok(file) = file.try_clone() {
            // An error here comes back at the sync before the file gets its name.
            rayon_free_thread(move || drop(file.sync_data()));
        }
    }
}

/// Storing blocks on the disk, so it must not take a worker's place.
fn rayon_free_thread(work: impl FnOnce() + Send + 'static) {
    drop(std::thread::Builder::new().name("sync".into()).spawn(work));
}

#[cfg(unix)]
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, offset)
}

#[cfg(windows)]
pub fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let n = std::os::windows::fs::FileExt::seek_write(file, bytes, offset)?;
        bytes = &bytes[n..];
        offset += n as u64;
    }
    Ok(())
}
