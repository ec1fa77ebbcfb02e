//! Exported ONNX graphs in ONNX Runtime, whose library is loaded when the first graph is opened: `ORT_DYLIB_PATH`
//! names it, without that the system's loader looks for `libonnxruntime`.

use std::borrow::Cow;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use ort::logging::LogLevel;
use ort::memory::Allocator;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynTensor, DynValue, Outlet, Tensor, TensorElementType, ValueType};

use crate::error::{Error, Result};
use crate::evaluator::Options;
use crate::runner::{Runtime, RuntimeSequence};

/// What `ORT_DYLIB_PATH` is if it is not set.
const LIBRARY: &str = if cfg!(windows) {
    "onnxruntime.dll"
} else if cfg!(target_vendor = "apple") {
    "libonnxruntime.dylib"
} else {
    "libonnxruntime.so"
};

const PAST: &str = "past_key_values.";
const KEEP: &str = "num_logits_to_keep";

/// A graph of any profile, ready to run.
pub struct OnnxModel {
    path: PathBuf,
    /// Running needs it alone.
    session: Mutex<Session>,
    caches: Vec<CacheTensor>,
    /// The graph has the input `num_logits_to_keep`.
    keeps_logits: bool,
    vocab_size: usize,
    context: usize,
}

/// An input and an output that hold one part of the past, `[batch, heads, past, width]`.
struct CacheTensor {
    past: String,
    present: String,
    element: TensorElementType,
    heads: i64,
    width: i64,
}

/// New tokens of some sequences of one length; shorter ones are padded on the left.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Sequences.
    pub batch: usize,
    /// `[batch, new]`
    pub tokens: &'a [i64],
    /// `[batch, past + new]`, 0 for padding.
    pub mask: &'a [i64],
    /// Only the last positions' logits are needed.
    pub keep: usize,
}

/// The past of a batch, made by [`OnnxModel::empty_cache`] and grown by [`OnnxModel::run`].
pub struct Cache {
    values: Vec<DynValue>,
}

impl OnnxModel {
    /// Opens the graph `path`, whose positions end at `context`. Of the options, `threads` and `exact` concern it.
    ///
    /// # Errors
    /// ONNX Runtime's library is missing or too old; it does not load the graph; the graph is none of our profiles.
    pub fn open(path: &Path, context: usize, options: Options) -> Result<OnnxModel> {
        load_library(&default_library())?;
        let session = session(path, options).map_err(runtime_error(path))?;
        let fail = |detail: &str| Error::Runtime { path: path.to_path_buf(), detail: detail.into() };
        let logits = session.outputs().iter().find(|output| output.name() == "logits");
        let vocab_size = match logits.and_then(|output| output.dtype().tensor_shape()).map(|shape| &shape[..])
        {
            Some(&[_, _, vocab]) if vocab > 0 => vocab as usize,
            _ => return Err(fail("there is no output `logits` of [batch, sequence, vocabulary]")),
        };
        let parts = session.inputs().iter().filter(|input| input.name().starts_with(PAST));
        let caches: Option<Vec<_>> = parts.map(CacheTensor::of).collect();
        let caches = caches.ok_or_else(|| fail("a cache is not of [batch, heads, past, width]"))?;
        let keeps_logits = session.inputs().iter().any(|input| input.name() == KEEP);
        let path = path.to_path_buf();
        Ok(OnnxModel { path, session: Mutex::new(session), caches, keeps_logits, vocab_size, context })
    }

    /// The past of `batch` sequences that have none.
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn empty_cache(&self, batch: usize) -> Result<Cache> {
        let allocator = Allocator::default();
        let empty = |part: &CacheTensor| {
            let shape = [batch as i64, part.heads, 0, part.width];
            Ok(DynTensor::new(&allocator, part.element, shape)?.into_dyn())
        };
        let values: ort::Result<_> = self.caches.iter().map(empty).collect();
        Ok(Cache { values: values.map_err(runtime_error(&self.path))? })
    }

    /// Runs new tokens after `cache`, which then holds them too: `[batch, kept, vocab_size]` logits of the last
    /// `keep` positions or of more.
    ///
    /// # Errors
    /// Those of ONNX Runtime.
    pub fn run(&self, step: Step<'_>, cache: &mut Cache) -> Result<Vec<f32>> {
        self.try_run(step, cache).map_err(runtime_error(&self.path))
    }

    fn try_run(&self, step: Step<'_>, cache: &mut Cache) -> ort::Result<Vec<f32>> {
        let Step { batch, tokens, mask, keep } = step;
        let (new, total) = (tokens.len() / batch, mask.len() / batch);
        let mut inputs: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = vec![
            ("input_ids".into(), Tensor::from_array(([batch, new], tokens.to_vec()))?.into()),
            ("attention_mask".into(), Tensor::from_array(([batch, total], mask.to_vec()))?.into()),
            ("position_ids".into(), Tensor::from_array(([batch, new], positions(step)))?.into()),
        ];
        if self.keeps_logits {
            inputs.push((KEEP.into(), Tensor::from_array(((), vec![keep as i64]))?.into()));
        }
        for (part, value) in self.caches.iter().zip(&cache.values) {
            inputs.push((part.past.as_str().into(), value.into()));
        }
        let mut session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outputs = session.run(inputs)?;
        let mut take = |name: &str| {
            outputs.remove(name).ok_or_else(|| ort::Error::new(format!("there is no output `{name}`")))
        };
        let present: ort::Result<_> = self.caches.iter().map(|part| take(&part.present)).collect();
        let logits = take("logits")?;
        cache.values = present?;
        Ok(logits.try_extract_tensor::<f32>()?.1.to_vec())
    }
}

/// Of each new token: how many tokens before it are not padding.
fn positions(step: Step<'_>) -> Vec<i64> {
    let (new, total) = (step.tokens.len() / step.batch, step.mask.len() / step.batch);
    let rows = step.mask.chunks_exact(total).flat_map(|row| {
        let mut seen = 0;
        let positions = row.iter().map(move |shown| {
            seen += shown;
            (seen - 1).max(0)
        });
        positions.skip(total - new)
    });
    rows.collect()
}

impl CacheTensor {
    fn of(input: &Outlet) -> Option<CacheTensor> {
        let ValueType::Tensor { ty, shape, .. } = input.dtype() else { return None };
        let &[_, heads, _, width] = &shape[..] else { return None };
        let past = input.name().to_string();
        let present = past.replace(PAST, "present.");
        (heads > 0 && width > 0).then_some(CacheTensor { past, present, element: *ty, heads, width })
    }
}

impl Runtime for OnnxModel {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn context(&self) -> usize {
        self.context
    }

    fn start(&self) -> Result<Box<dyn RuntimeSequence + '_>> {
        Ok(Box::new(OnnxSequence { model: self, cache: self.empty_cache(1)?, len: 0 }))
    }
}

struct OnnxSequence<'a> {
    model: &'a OnnxModel,
    cache: Cache,
    len: usize,
}

impl RuntimeSequence for OnnxSequence<'_> {
    fn len(&self) -> usize {
        self.len
    }

    fn extend(&mut self, tokens: &[u32], wanted: Range<usize>) -> Result<Vec<f32>> {
        self.len += tokens.len();
        let ids: Vec<i64> = tokens.iter().map(|&token| i64::from(token)).collect();
        let step =
            Step { batch: 1, tokens: &ids, mask: &vec![1; self.len], keep: tokens.len() - wanted.start };
        let mut logits = self.model.run(step, &mut self.cache)?;
        // The graph gives all positions or those from `wanted` on.
        let vocab_size = self.model.vocab_size;
        let first = tokens.len() - logits.len() / vocab_size;
        logits.truncate((wanted.end - first) * vocab_size);
        logits.drain(..(wanted.start - first) * vocab_size);
        Ok(logits)
    }
}

/// The library that `ORT_DYLIB_PATH` names, or what the system's loader knows it by.
fn default_library() -> PathBuf {
    let path = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty());
    path.map_or_else(|| LIBRARY.into(), PathBuf::from)
}

/// Loads ONNX Runtime's library `path`, unless one is loaded already.
///
/// # Errors
/// [`Error::RuntimeLibrary`]: missing, no such library, or too old.
pub fn load_library(path: &Path) -> Result<()> {
    static LOADED: OnceLock<()> = OnceLock::new();
    if LOADED.get().is_some() {
        return Ok(());
    }
    // `ort` makes its own errors with the library, so it waits for itself for ever where there is none: try it before.
    ort::util::preload_dylib(path)
        .map_err(|e| Error::RuntimeLibrary { detail: format!("{}: {e}", path.display()) })?;
    let environment = ort::init_from(path).map_err(|e| Error::RuntimeLibrary { detail: e.to_string() })?;
    // False where there already is one, which is as good.
    environment.with_name("plmconv").with_telemetry(false).commit();
    LOADED.get_or_init(|| ());
    Ok(())
}

fn session(path: &Path, options: Options) -> ort::Result<Session> {
    let mut builder = Session::builder()?.with_log_level(LogLevel::Error)?;
    if options.threads > 0 {
        builder = builder.with_intra_threads(options.threads)?;
    }
    if options.exact {
        // DequantizeLinear and MatMul become one MatMulNBits, which rounds activations to 8 bits unless told not to.
        // MatMulNBits nodes of the graph say so themselves, by their accuracy_level.
        builder = builder.with_config_entry("session.qdq_matmulnbits_accuracy_level", "1")?;
    }
    builder.commit_from_file(path)
}

fn runtime_error(path: &Path) -> impl Fn(ort::Error) -> Error + use<> {
    let path = path.to_path_buf();
    move |error| Error::Runtime { path: path.clone(), detail: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn padding_takes_no_position() {
        let step = Step { batch: 2, tokens: &[0; 6], mask: &[1, 1, 1, 1, 0, 0, 0, 1], keep: 0 };
        assert_eq!(positions(step), [1, 2, 3, 0, 0, 0]);
    }
}
