//! How a command runs that streams a model.

use std::num::NonZeroUsize;
use std::time::Instant;

use anyhow::{Context, Result};
use rayon::ThreadPool;

use crate::progress::Console;

/// Its threads, and what it tells.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// All cores, if not said.
    pub threads: Option<NonZeroUsize>,
    pub json: bool,
    /// Print the plan and write nothing.
    pub dry_run: bool,
    /// When the command began: planning may take longer than writing.
    pub started: Instant,
    pub console: Console,
}

impl Run {
    /// The workers the user asked for.
    ///
    /// # Errors
    /// Threads that cannot be started.
    pub fn pool(&self) -> Result<ThreadPool> {
        thread_pool(self.threads)
    }
}

/// So many workers; without a number, one for each core.
///
/// # Errors
/// Threads that cannot be started.
pub fn thread_pool(threads: Option<NonZeroUsize>) -> Result<ThreadPool> {
    let threads = threads.map_or(0, NonZeroUsize::get);
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().context("starting the worker threads")
}
