//! Stored reference outputs: a safetensors file of token ids and what the reference model said of them.
//!
//! Full form: `input_ids` `[windows, ctx]` (I64 or I32) and `logits` (F32, F16 or BF16), either of all
//! positions, `[windows, ctx, vocab]`, as six lines of Python write them, or of the scored ones only,
//! `[windows, scored, vocab]`. Short form: instead of logits, of every scored position the most likely
//! tokens, `top_ids` and `top_log_probs` `[windows, scored, k]`, most likely first, the text's own token's
//! `target_log_probs` `[windows, scored]`, and the metadata key `vocab_size`.

mod write;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use plmconv_formats::DType;
use plmconv_formats::safetensors::SafetensorsFile;
use plmconv_formats::source::{InputFile, RowSource, StoredTensor};
use plmconv_quant::codec;

pub use write::{ReferenceOptions, write_reference};

use crate::error::{Error, Result};
use crate::readback::check_sample;
use crate::windows::{Windows, scored};

/// Metadata key of the model's digest.
pub const MODEL_DIGEST: &str = "plmconv.model_sha256";
/// Metadata key of the text's digest.
pub const TEXT_DIGEST: &str = "plmconv.text_sha256";
/// The longest window; ids of one are read at a time.
const MAX_CTX: usize = 1 << 20;
const VOCAB_SIZE: &str = "plmconv.vocab_size";

/// An opened file of reference outputs; logits stay on disk.
#[derive(Debug)]
pub struct Reference {
    path: PathBuf,
    ctx: usize,
    tokens: Vec<u32>,
    vocab_size: usize,
    metadata: Vec<(String, String)>,
    outputs: Outputs,
}

#[derive(Debug)]
enum Outputs {
    /// Rows of logits; the first stored position of a window, and how many are stored.
    Logits {
        rows: StoredTensor,
        first: usize,
        per_window: usize,
    },
    TopK {
        ids: StoredTensor,
        log_probs: StoredTensor,
        targets: StoredTensor,
    },
}

/// Which form a file has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// All logits of every position.
    Logits,
    /// The most probable tokens of every position, with their log-probabilities.
    TopK,
}

/// What a reference kept of one position.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TopK {
    /// Most likely first.
    pub ids: Vec<u32>,
    pub log_probs: Vec<f32>,
    /// Of the token that follows in the text.
    pub target_log_prob: f32,
}

impl Reference {
    /// Opens and checks a file.
    ///
    /// # Errors
    /// Not a safetensors file, tensors missing, of another type or shape, token ids outside the vocabulary.
    pub fn open(path: impl AsRef<Path>) -> Result<Reference> {
        Reference::from_input(InputFile::open(path.as_ref())?)
    }

    /// [`open`](Self::open) for a file that is open already.
    fn from_input(input: Arc<InputFile>) -> Result<Reference> {
        let file = SafetensorsFile::from_input(input)?;
        let path = file.path();
        let fail = |detail: String| Error::Reference { path: path.to_path_buf(), detail };
        let find = |name: &str| {
            let info = file.tensors.iter().find(|t| t.name == name)?;
            Some((info.shape.clone(), info.data.clone()?))
        };
        let need = |name: &str| find(name).ok_or_else(|| fail(format!("there is no tensor `{name}`")));

        let (shape, ids) = need("input_ids")?;
        let [windows, ctx] = shape[..] else {
            return Err(fail(format!("`input_ids` has shape {shape:?}, expected [windows, tokens]")));
        };
        if windows == 0 || ctx < 4 {
            return Err(fail(format!("`input_ids` has shape {shape:?}: windows have at least 4 tokens")));
        }
        if ctx > MAX_CTX {
            return Err(fail(format!("`input_ids` has windows of {ctx} tokens, more than {MAX_CTX}")));
        }
        let positions = scored(ctx);
        let (vocab_size, outputs) = if let Some((shape, rows)) = find("logits") {
            if !rows.dtype().is_float() {
                return Err(fail(format!("`logits` are {}, expected F32, F16 or BF16", rows.dtype())));
            }
            let first = match shape[..] {
                [n, t, _] if n == windows && t == ctx => 0,
                [n, t, _] if n == windows && t == positions.len() => positions.start,
                _ => {
                    return Err(fail(format!(
                        "`logits` have shape {shape:?}, expected [{windows}, {ctx}, vocabulary] or \
                         [{windows}, {}, vocabulary]",
                        positions.len()
                    )));
                }
            };
            (shape[2], Outputs::Logits { rows, first, per_window: shape[1] })
        } else {
            let (shape, top_ids) = find("top_ids")
                .ok_or_else(|| fail("there is neither a tensor `logits` nor a tensor `top_ids`".into()))?;
            let (_, log_probs) = need("top_log_probs")?;
            let (_, targets) = need("target_log_probs")?;
            let value = file.metadata.iter().find(|(k, _)| k == VOCAB_SIZE).map(|(_, v)| v);
            let vocab_size = value.and_then(|v| v.parse().ok());
            let vocab_size = vocab_size.ok_or_else(|| fail(format!("metadata `{VOCAB_SIZE}` is missing")))?;
            let rows = windows * positions.len();
            let whole = top_ids.dtype() == DType::I32
                && log_probs.dtype() == DType::F32
                && targets.dtype() == DType::F32
                && top_ids.cols() > 0
                && (top_ids.rows(), top_ids.cols()) == (log_probs.rows(), log_probs.cols())
                && top_ids.rows() == rows
                && targets.rows() * targets.cols() == rows;
            if !whole {
                return Err(fail(format!(
                    "`top_ids` {shape:?}, `top_log_probs` and `target_log_probs` do not fit \
                     {windows} windows of {ctx} tokens"
                )));
            }
            (vocab_size, Outputs::TopK { ids: top_ids, log_probs, targets })
        };
        let mut tokens = Vec::with_capacity(windows * ctx);
        // By window: eight bytes of an id, and these twice, become four.
        for window in 0..windows {
            let ids = read_integers(&ids, window..window + 1)
                .ok_or_else(|| fail(format!("`input_ids` are {}, expected I64 or I32", ids.dtype())))??;
            for id in ids {
                let valid = u32::try_from(id).ok().filter(|id| (*id as usize) < vocab_size);
                let token = valid.ok_or_else(|| {
                    fail(format!("token id {id} is outside the vocabulary of {vocab_size}"))
                })?;
                tokens.push(token);
            }
        }
        Ok(Reference { path: path.to_path_buf(), ctx, tokens, vocab_size, metadata: file.metadata, outputs })
    }

    /// The windows that were stored; a candidate is run on these.
    pub fn windows(&self) -> Windows<'_> {
        Windows::stored(&self.tokens, self.ctx)
    }

    /// Logits per position.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// A value of the file's metadata, such as [`MODEL_DIGEST`].
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Which form the file has.
    pub fn stored(&self) -> Stored {
        match self.outputs {
            Outputs::Logits { .. } => Stored::Logits,
            Outputs::TopK { .. } => Stored::TopK,
        }
    }

    /// Fails unless `windows` are a run of this file's windows from its first on.
    pub(crate) fn check_windows(&self, windows: &Windows<'_>) -> Result<()> {
        let same = windows.ctx() == self.ctx
            && windows.count() * self.ctx <= self.tokens.len()
            && (0..windows.count())
                .all(|w| windows.inputs(w) == self.tokens[w * self.ctx..(w + 1) * self.ctx]);
        if same {
            return Ok(());
        }
        Err(self.fail("the text's windows are not those that the reference was made from"))
    }

    /// Reads what is stored for the first and the last window, as a comparison would, and a sample of what is between.
    fn check_sample(&self) -> Result<()> {
        let last = self.tokens.len() / self.ctx - 1;
        match &self.outputs {
            Outputs::Logits { rows, .. } => check_sample(rows),
            Outputs::TopK { log_probs, targets, .. } => {
                self.read_top_k(0..1)?;
                self.read_top_k(last..last + 1)?;
                check_sample(log_probs)?;
                check_sample(targets)
            }
        }
    }

    fn fail(&self, detail: impl Into<String>) -> Error {
        Error::Reference { path: self.path.clone(), detail: detail.into() }
    }

    /// Replaces `out` by columns of the scored positions' logits: `[windows * scored, columns]`.
    pub(crate) fn read_logits(
        &self,
        windows: Range<usize>,
        columns: Range<usize>,
        out: &mut Vec<f32>,
    ) -> Result<()> {
        let Outputs::Logits { rows, first, per_window } = &self.outputs else {
            return Err(self.fail("the file holds no logits"));
        };
        let positions = scored(self.ctx);
        let value_bytes = rows.dtype().block_bytes();
        let mut bytes = vec![0u8; columns.len() * value_bytes];
        out.resize(windows.len() * positions.len() * columns.len(), 0.0);
        let wanted = windows.flat_map(|w| positions.clone().map(move |p| w * per_window + p - first));
        for (row, out) in wanted.zip(out.chunks_exact_mut(columns.len())) {
            let at = rows.offset() + ((row * self.vocab_size + columns.start) * value_bytes) as u64;
            rows.file().read_exact_at(&mut bytes, at)?;
            codec::decode(rows.dtype(), &bytes, out).map_err(|e| self.fail(e.to_string()))?;
            if out.iter().any(|x| !x.is_finite()) {
                return Err(self.fail(format!("the logits of row {row} are not finite")));
            }
        }
        Ok(())
    }

    /// The scored positions of some windows.
    pub(crate) fn read_top_k(&self, windows: Range<usize>) -> Result<Vec<TopK>> {
        let Outputs::TopK { ids, log_probs, targets } = &self.outputs else {
            return Err(self.fail("the file holds no most likely tokens"));
        };
        let per_window = scored(self.ctx).len();
        let rows = windows.start * per_window..windows.end * per_window;
        let found = read_integers(ids, rows.clone()).ok_or_else(|| self.fail("`top_ids` are not I32"))??;
        let log_probs = read_floats(log_probs, rows.clone())?;
        // A vector of one axis counts as one row.
        let targets = read_floats(targets, 0..targets.rows())?;
        let k = ids.cols();
        let rows = rows.zip(found.chunks_exact(k)).zip(log_probs.chunks_exact(k));
        rows.map(|((row, ids), log_probs)| {
            if ids.iter().any(|id| *id < 0 || *id as u64 >= self.vocab_size as u64) {
                return Err(self.fail(format!("row {row} of `top_ids` points outside the vocabulary")));
            }
            let log_probs = log_probs.to_vec();
            if log_probs.iter().chain([&targets[row]]).any(|x| !x.is_finite() || *x > 1e-3) {
                return Err(self.fail(format!("row {row} holds a log-probability that is none")));
            }
            Ok(TopK {
                ids: ids.iter().map(|id| *id as u32).collect(),
                log_probs,
                target_log_prob: targets[row],
            })
        })
        .collect()
    }
}

/// Rows of an integer tensor; `None` for another type.
fn read_integers(tensor: &StoredTensor, rows: Range<usize>) -> Option<Result<Vec<i64>>> {
    let mut bytes = Vec::new();
    let read = tensor.read_rows(rows, &mut bytes).map_err(Error::from);
    let values = match tensor.dtype() {
        DType::I64 => bytes.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect(),
        DType::I32 => bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b) as i64).collect(),
        _ => return None,
    };
    Some(read.map(|()| values))
}

fn read_floats(tensor: &StoredTensor, rows: Range<usize>) -> Result<Vec<f32>> {
    let mut bytes = Vec::new();
    tensor.read_rows(rows, &mut bytes)?;
    Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}
