//! Speed of reading a prompt and of generating at given depths of context, as llama.cpp's `llama-bench` measures it.

use std::time::Instant;

use crate::error::Result;
use crate::llama::{Batch, Context, ContextOptions, Model, Token};

/// What to measure.
#[derive(Debug, Clone)]
pub struct SpeedOptions {
    /// Numbers of tokens that are in the cache before a measurement.
    pub depths: Vec<usize>,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens to generate.
    pub generate: usize,
    pub n_batch: usize,
    pub threads: usize,
    pub flash_attention: bool,
    /// Compute every token of a depth instead of repeating the keys and values of the first [`COMPUTED`].
    pub compute_depths: bool,
}

/// Tokens whose keys and values fill a deep cache, over and over: what they are does not change how long anything takes.
pub const COMPUTED: usize = 512;

/// Speeds at one depth, tokens per second.
#[derive(Debug, Clone, Copy, serde::Serialize)]
pub struct Speed {
    pub depth: usize,
    pub prompt: f64,
    pub generate: f64,
}

/// What was measured.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Speeds {
    pub speeds: Vec<Speed>,
    /// Cells of the key-value cache: the largest depth and what is measured on top.
    pub n_ctx: usize,
    /// Its bytes, as llama.cpp logs them.
    pub kv_cache_bytes: Option<f64>,
    /// The most memory this process had resident (the mapped file's pages included) at the deepest, where Linux says it.
    pub peak_resident_bytes: Option<u64>,
}

/// Measures `model` at each depth, in rising order. One context serves all: it is filled up to a depth, measured, and
/// what the measurement added is taken out again.
///
/// # Errors
/// Those of [`Context`].
pub fn speed(model: &Model, options: &SpeedOptions) -> Result<Speeds> {
    let mut depths = options.depths.clone();
    depths.sort_unstable();
    depths.dedup();
    // llama.cpp pads a context to whole hundreds anyway; the room avoids its refusal at the very end.
    let n_ctx = depths.last().copied().unwrap_or(0) + options.prompt.max(options.generate) + 256;
    let mut context = Context::new(
        model,
        ContextOptions {
            n_ctx,
            n_batch: options.n_batch,
            n_ubatch: options.n_batch,
            n_seq: 1,
            threads: options.threads,
            flash_attention: options.flash_attention,
        },
    )?;
    let mut run = Run { tokens: Tokens::new(model.vocab_size()), n_batch: options.n_batch };
    // Pages in the weights and starts the threads.
    run.generate(&mut context, 0, 1)?;
    context.clear();
    let mut filled = 0;
    let mut speeds = Vec::with_capacity(depths.len());
    for depth in depths {
        let computed = if options.compute_depths { depth } else { depth.min(COMPUTED) };
        run.prompt(&mut context, filled, computed.saturating_sub(filled))?;
        if computed < depth {
            let state = context.sequence_state()?.repeated(depth)?;
            context.restore_sequence(&state)?;
            drop(state);
            forget_peak_resident();
        }
        filled = depth;
        let prompt = timed(options.prompt, || run.prompt(&mut context, depth, options.prompt))?;
        context.forget_from(depth);
        let generate = timed(options.generate, || run.generate(&mut context, depth, options.generate))?;
        context.forget_from(depth);
        speeds.push(Speed { depth, prompt, generate });
    }
    let peak_resident_bytes = peak_resident_bytes();
    Ok(Speeds { speeds, n_ctx, kv_cache_bytes: context.kv_cache_bytes(), peak_resident_bytes })
}

fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// Takes the present size for the peak: copies of a cache are no part of running a model. Where Linux does not allow
/// it, the peak just stays too high.
fn forget_peak_resident() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn timed(tokens: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(tokens as f64 / start.elapsed().as_secs_f64())
}

struct Run {
    tokens: Tokens,
    n_batch: usize,
}

impl Run {
    /// Computes `count` tokens from `position` on, in batches; logits for the last of each.
    fn prompt(&mut self, context: &mut Context<'_>, position: usize, count: usize) -> Result<()> {
        let mut batch = Batch::default();
        for start in (position..position + count).step_by(self.n_batch) {
            batch.clear();
            let end = (start + self.n_batch).min(position + count);
            for position in start..end {
                batch.push(self.tokens.next(), position, 0, position + 1 == end);
            }
            context.decode(&mut batch)?;
        }
        context.synchronize();
        Ok(())
    }

    /// Computes `count` tokens from `position` on, one at a time.
    fn generate(&mut self, context: &mut Context<'_>, position: usize, count: usize) -> Result<()> {
        let mut batch = Batch::default();
        for position in position..position + count {
            batch.clear();
            batch.push(self.tokens.next(), position, 0, true);
            context.decode(&mut batch)?;
            context.synchronize();
        }
        Ok(())
    }
}

/// Tokens without meaning, the same in each run: a linear congruential generator (Knuth's MMIX constants).
struct Tokens {
    state: u64,
    vocab: u64,
}

impl Tokens {
    fn new(vocab: usize) -> Self {
        Self { state: 1, vocab: vocab.max(1) as u64 }
    }

    fn next(&mut self) -> Token {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.state >> 33) % self.vocab) as Token
    }
}
