//! What writing has in common whatever the format: steps in file order on all workers, rows read and checked, bytes
//! written by turns, Ctrl-C between two steps.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use plmconv_formats::atomic::write_all_at;
use plmconv_formats::source::RowSource;
use plmconv_quant::codec;

use crate::error::{At, Place};
use crate::interrupt;

/// Values a worker holds at a time: small enough that a thread's buffers stay in a few megabytes, large
/// enough that a read is worth its call.
pub const CHUNK_VALUES: usize = 1 << 20;

/// Written bytes after which the kernel is asked to start storing them, so that the last sync has little left.
const SYNC_EVERY: u64 = 128 << 20;

/// Does `work` for every step on all workers of the pool, each with its own buffers. Steps are taken in order, so that
/// files are read and written nearly front to back.
///
/// # Errors
/// The first error of a worker; the steps not yet taken are then left. [`interrupted`](crate::error::interrupted) after
/// Ctrl-C.
pub fn in_order<S: Sync, B: Default>(
    steps: &[S],
    work: impl Fn(&mut B, &S) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let finished = rayon::broadcast(|_| {
        let mut buffers = B::default();
        while let Some(step) = steps.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = interrupt::check().and_then(|()| work(&mut buffers, step));
            done.inspect_err(|_| next.store(steps.len(), Ordering::Relaxed))?;
        }
        Ok(())
    });
    finished.into_iter().collect()
}

/// Cuts `rows` into runs of about [`CHUNK_VALUES`] values, each a multiple of `multiple` rows but for the last.
pub fn row_steps(source: &dyn RowSource, multiple: usize) -> impl Iterator<Item = Range<usize>> + use<> {
    let rows = source.rows();
    let step = (CHUNK_VALUES / source.cols().max(1)).max(1).next_multiple_of(multiple);
    (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
}

/// Rows of a tensor, as they are stored and as values.
#[derive(Debug, Default)]
pub struct Rows {
    pub stored: Vec<u8>,
    pub values: Vec<f32>,
}

impl Rows {
    /// Reads and decodes `rows` of the tensor that is called `name`.
    ///
    /// # Errors
    /// Rows that cannot be read; NaN and infinity, with their place.
    pub fn load(&mut self, name: &str, source: &dyn RowSource, rows: Range<usize>) -> Result<()> {
        let cols = source.cols();
        source.read_rows(rows.clone(), &mut self.stored).at(Place::Model)?;
        self.values.resize(rows.len() * cols, 0.0);
        codec::decode(source.dtype(), &self.stored, &mut self.values).with_context(|| name.to_string())?;
        if let Some(at) = codec::first_non_finite(&self.values) {
            let (row, col) = (rows.start + at / cols, at % cols);
            return Err(anyhow!("tensor `{name}` holds {} at [{row}, {col}]", self.values[at]));
        }
        Ok(())
    }
}

/// Where finished bytes go, from all workers: into the files of an output, or beside those of one that is verified.
pub trait Sink: Sync {
    /// Takes `bytes`, which belong at `offset` of the output's file number `file`.
    fn put(&self, file: usize, bytes: &[u8], offset: u64) -> Result<()>;
}

/// Writes into output files from all workers.
#[derive(Debug, Default)]
pub struct Writer {
    /// The kernel lets one thread at a time write into a file and has the others spin; asleep, they leave their
    /// core to storing the blocks.
    write: Mutex<()>,
    sync: BackgroundSync,
}

impl Writer {
    /// Writes `bytes` at `offset` of `file`, which errors call `path`.
    pub fn write(&self, file: &File, path: &Path, bytes: &[u8], offset: u64) -> Result<()> {
        let write = self.write.lock().unwrap_or_else(PoisonError::into_inner);
        write_all_at(file, bytes, offset).map_err(plmconv_formats::Error::io(path))?;
        drop(write);
        self.sync.written(file, bytes.len() as u64);
        Ok(())
    }
}

/// Has the kernel store what was written while the workers go on.
#[derive(Debug, Default)]
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
