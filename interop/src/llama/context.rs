//! A running context: key-value cache, batches in, logits out.

use std::path::Path;
use std::ptr::NonNull;

use llama_cpp_sys_2 as sys;

use super::{Line, Model, SequenceState, c_path, capture, log_text};
use crate::error::{Error, Result};

/// A token's id.
pub type Token = sys::llama_token;

/// How a context is set up.
#[derive(Debug, Clone, Copy)]
pub struct ContextOptions {
    /// Cells of the key-value cache, over all sequences together.
    pub n_ctx: usize,
    /// Most tokens a batch may have.
    pub n_batch: usize,
    /// Most tokens that are computed at once.
    pub n_ubatch: usize,
    /// Number of independent sequences.
    pub n_seq: usize,
    /// Threads, for batches and for single tokens alike.
    pub threads: usize,
    /// The architecture `plm` aborts llama.cpp on an assertion (`ggml_set_rows`) with it.
    pub flash_attention: bool,
}

impl Default for ContextOptions {
    fn default() -> Self {
        Self { n_ctx: 512, n_batch: 512, n_ubatch: 512, n_seq: 1, threads: 2, flash_attention: false }
    }
}

/// Tokens to compute in one call.
#[derive(Debug, Default)]
pub struct Batch {
    tokens: Vec<Token>,
    positions: Vec<sys::llama_pos>,
    sequences: Vec<sys::llama_seq_id>,
    wants_logits: Vec<i8>,
}

impl Batch {
    pub fn clear(&mut self) {
        self.tokens.clear();
        self.positions.clear();
        self.sequences.clear();
        self.wants_logits.clear();
    }

    pub fn push(&mut self, token: Token, position: usize, sequence: usize, wants_logits: bool) {
        self.tokens.push(token);
        // Positions and sequences are bounded by the context's size, which llama.cpp itself holds in 32 bits.
        self.positions.push(position as sys::llama_pos);
        self.sequences.push(sequence as sys::llama_seq_id);
        self.wants_logits.push(i8::from(wants_logits));
    }

    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn outputs(&self) -> usize {
        self.wants_logits.iter().filter(|&&wanted| wanted != 0).count()
    }
}

/// A context on a model.
#[derive(Debug)]
pub struct Context<'model> {
    pointer: NonNull<sys::llama_context>,
    model: &'model Model,
    n_batch: usize,
    /// Rows of logits that the last decoded batch left.
    outputs: usize,
    creation_log: Vec<Line>,
}

impl<'model> Context<'model> {
    /// Makes a context; llama.cpp allocates the whole key-value cache here.
    ///
    /// # Errors
    /// [`Error::Context`] with what llama.cpp logged; [`Error::Option`] for sizes beyond 32 bits.
    pub fn new(model: &'model Model, options: ContextOptions) -> Result<Self> {
        // SAFETY: returns a plain struct.
        let mut params = unsafe { sys::llama_context_default_params() };
        params.n_ctx = small("n_ctx", options.n_ctx)?;
        params.n_batch = small("n_batch", options.n_batch)?;
        params.n_ubatch = small("n_ubatch", options.n_ubatch)?;
        params.n_seq_max = small("n_seq", options.n_seq)?;
        params.n_threads = small("threads", options.threads)?;
        params.n_threads_batch = params.n_threads;
        params.flash_attn_type = if options.flash_attention {
            sys::LLAMA_FLASH_ATTN_TYPE_ENABLED
        } else {
            sys::LLAMA_FLASH_ATTN_TYPE_DISABLED
        };
        // SAFETY: the model is live and outlives the context by the lifetime `'model`; `params` comes from llama.cpp
        // itself, its pointers are its defaults.
        let (pointer, creation_log) =
            capture(|| unsafe { sys::llama_init_from_model(model.pointer(), params) });
        match NonNull::new(pointer) {
            Some(pointer) => Ok(Self { pointer, model, n_batch: options.n_batch, outputs: 0, creation_log }),
            None => Err(Error::Context { log: log_text(&creation_log) }),
        }
    }

    /// Adds a LoRA adapter's products, times `scale`, to all that is computed from now on. llama.cpp frees the adapter
    /// with its model.
    ///
    /// # Errors
    /// [`Error::Load`] with what llama.cpp logged.
    pub fn add_adapter(&mut self, path: &Path, scale: f32) -> Result<()> {
        let name = c_path(path)?;
        let refused = |lines: &[Line]| Error::Load { path: path.to_owned(), log: log_text(lines) };
        // SAFETY: the model is live, and `name` is a zero-terminated string that outlives the call.
        let (adapter, lines) =
            capture(|| unsafe { sys::llama_adapter_lora_init(self.model.pointer(), name.as_ptr()) });
        let Some(adapter) = NonNull::new(adapter) else { return Err(refused(&lines)) };
        let (mut adapters, mut scales) = ([adapter.as_ptr()], [scale]);
        // SAFETY: the context and the adapter, which belongs to its model, are live; both arrays have one element and
        // are only read.
        let (status, lines) = capture(|| unsafe {
            sys::llama_set_adapters_lora(self.pointer.as_ptr(), adapters.as_mut_ptr(), 1, scales.as_mut_ptr())
        });
        if status == 0 { Ok(()) } else { Err(refused(&lines)) }
    }

    pub fn model(&self) -> &'model Model {
        self.model
    }

    /// What llama.cpp logged while it made the context.
    pub fn creation_log(&self) -> &[Line] {
        &self.creation_log
    }

    /// Bytes of the key-value cache as llama.cpp's log says them (to 0.01 MiB), all cells.
    pub fn kv_cache_bytes(&self) -> Option<f64> {
        let mebibytes = self.creation_log.iter().filter_map(|line| {
            let (_, rest) = line.text.split_once("llama_kv_cache: size =")?;
            rest.trim_start().split_once(" MiB")?.0.parse::<f64>().ok()
        });
        // One line per cache; architectures with several caches log several.
        mebibytes.fold(None, |sum, size| Some(sum.unwrap_or(0.0) + size * 1024.0 * 1024.0))
    }

    /// Forgets everything decoded so far.
    pub fn clear(&mut self) {
        // SAFETY: the context is live; its memory object is part of it.
        unsafe { sys::llama_memory_clear(sys::llama_get_memory(self.pointer.as_ptr()), true) };
    }

    /// Takes the tokens of sequence 0 from `position` on out of the cache; whether llama.cpp could (a cache of keys
    /// and values always can).
    pub fn forget_from(&mut self, position: usize) -> bool {
        let Ok(position) = sys::llama_pos::try_from(position) else { return false };
        // SAFETY: the context is live; its memory object is part of it. A negative end means to the last token.
        unsafe { sys::llama_memory_seq_rm(sys::llama_get_memory(self.pointer.as_ptr()), 0, position, -1) }
    }

    /// Bytes that saving sequence 0 takes: its cached keys and values and a small header. The difference between two
    /// lengths is the exact size of a token in the cache.
    pub fn sequence_state_bytes(&mut self) -> usize {
        // SAFETY: the context is live.
        unsafe { sys::llama_state_seq_get_size(self.pointer.as_ptr(), 0) }
    }

    /// Saves sequence 0.
    ///
    /// # Errors
    /// [`Error::State`] where llama.cpp does not.
    pub fn sequence_state(&mut self) -> Result<SequenceState> {
        let mut bytes = vec![0; self.sequence_state_bytes()];
        // SAFETY: the context is live; llama.cpp writes at most `bytes.len()` bytes.
        let written = unsafe {
            sys::llama_state_seq_get_data(self.pointer.as_ptr(), bytes.as_mut_ptr(), bytes.len(), 0)
        };
        if written != bytes.len() {
            return Err(Error::State { why: "llama.cpp does not save it" });
        }
        Ok(SequenceState { bytes })
    }

    /// Restores sequence 0, replacing what is there.
    ///
    /// # Errors
    /// [`Error::State`] where llama.cpp refuses it.
    pub fn restore_sequence(&mut self, state: &SequenceState) -> Result<()> {
        let bytes = &state.bytes;
        // SAFETY: the context is live; llama.cpp reads at most `bytes.len()` bytes.
        let read =
            unsafe { sys::llama_state_seq_set_data(self.pointer.as_ptr(), bytes.as_ptr(), bytes.len(), 0) };
        if read != bytes.len() {
            return Err(Error::State { why: "llama.cpp does not restore it" });
        }
        Ok(())
    }

    /// Computes a batch.
    ///
    /// # Errors
    /// [`Error::BatchTooLong`], [`Error::Decode`] with llama.cpp's status (1: the cache has no room).
    pub fn decode(&mut self, batch: &mut Batch) -> Result<()> {
        let tokens = batch.len();
        if tokens > self.n_batch {
            return Err(Error::BatchTooLong { tokens, limit: self.n_batch });
        }
        let mut counts = vec![1i32; tokens];
        let mut pointers: Vec<*mut sys::llama_seq_id> =
            batch.sequences.iter_mut().map(std::ptr::from_mut).collect();
        let raw = sys::llama_batch {
            n_tokens: tokens as i32,
            token: batch.tokens.as_mut_ptr(),
            embd: std::ptr::null_mut(),
            pos: batch.positions.as_mut_ptr(),
            n_seq_id: counts.as_mut_ptr(),
            seq_id: pointers.as_mut_ptr(),
            logits: batch.wants_logits.as_mut_ptr(),
        };
        self.outputs = 0;
        // SAFETY: the context is live and exclusively borrowed; every array has `n_tokens` elements and outlives the
        // call, and each sequence pointer points at one id, as `n_seq_id` says.
        let status = unsafe { sys::llama_decode(self.pointer.as_ptr(), raw) };
        if status != 0 {
            return Err(Error::Decode { status, tokens });
        }
        self.outputs = batch.outputs();
        Ok(())
    }

    /// The logits that the last batch asked for, `[outputs, vocab_size]` in the batch's order.
    ///
    /// # Errors
    /// [`Error::NoLogits`] if it asked for none.
    pub fn logits(&mut self) -> Result<&[f32]> {
        if self.outputs == 0 {
            return Err(Error::NoLogits);
        }
        // SAFETY: the context is live; the call waits for the computation to end.
        let pointer = unsafe { sys::llama_get_logits(self.pointer.as_ptr()) };
        if pointer.is_null() {
            return Err(Error::NoLogits);
        }
        // SAFETY: llama.cpp holds a row of `vocab_size` values for each token whose flag was set, and leaves them
        // until the next call that takes the context exclusively.
        Ok(unsafe { std::slice::from_raw_parts(pointer, self.outputs * self.model.vocab_size()) })
    }

    /// Waits until everything asked for has been computed.
    pub fn synchronize(&mut self) {
        // SAFETY: the context is live.
        unsafe { sys::llama_synchronize(self.pointer.as_ptr()) };
    }

    /// Logits after each of `tokens`, `[tokens, vocab_size]`, from an empty cache.
    ///
    /// # Errors
    /// Those of [`Context::decode`] and [`Context::logits`].
    pub fn logits_of(&mut self, tokens: &[Token]) -> Result<Vec<f32>> {
        self.clear();
        let mut batch = Batch::default();
        for (position, &token) in tokens.iter().enumerate() {
            batch.push(token, position, 0, true);
        }
        self.decode(&mut batch)?;
        Ok(self.logits()?.to_vec())
    }

    /// The `count` tokens that follow `prompt` when the likeliest is always taken (the first of equals).
    ///
    /// # Errors
    /// Those of [`Context::decode`]; [`Error::NoLogits`] for an empty prompt.
    pub fn generate_greedy(&mut self, prompt: &[Token], count: usize) -> Result<Vec<Token>> {
        self.clear();
        let mut batch = Batch::default();
        for (position, &token) in prompt.iter().enumerate() {
            batch.push(token, position, 0, position + 1 == prompt.len());
        }
        let mut generated = Vec::with_capacity(count);
        while generated.len() < count {
            self.decode(&mut batch)?;
            let token = crate::golden::likeliest(self.logits()?) as Token;
            batch.clear();
            batch.push(token, prompt.len() + generated.len(), 0, true);
            generated.push(token);
        }
        Ok(generated)
    }
}

impl Drop for Context<'_> {
    fn drop(&mut self) {
        // SAFETY: the pointer came from llama.cpp and is freed once, before the model it borrows.
        unsafe { sys::llama_free(self.pointer.as_ptr()) };
    }
}

fn small<T: TryFrom<usize>>(what: &'static str, value: usize) -> Result<T> {
    T::try_from(value).map_err(|_| Error::Option { what, value: value.to_string(), why: "it has 32 bits" })
}
