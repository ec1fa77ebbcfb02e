//! What guides the rounding of weights: nothing, an importance matrix, or statistics of the model on text.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use plmconv_formats::gguf::{Metadata, Value};
use plmconv_formats::{DType, Imatrix, Layout, Model, Role, TensorKey};
use plmconv_quant::calibration::{mean_squares, raise_unreached};
use plmconv_quant::feedback;
use plmconv_quant::feedback::{ColumnFactor, Effort, RowFactor};
use sha2::{Digest, Sha256};

use crate::args::DirectionArg;
use crate::error::{At, Place, UsageError};
use crate::progress::Console;
use crate::statistics::{Statistics, file_digest, model_digest};

/// Rows of the embedding that are rounded at a time: they do not influence each other.
const FREE_ROWS: usize = 1024;

/// What guides the rounding.
#[derive(Debug, Default)]
pub struct Guidance {
    /// Per GGUF name, the importance of each input column.
    importance: BTreeMap<String, Vec<f32>>,
    /// For error feedback, and for the choice of types.
    statistics: Option<Statistics>,
    /// `None`: no error feedback.
    effort: Option<Effort>,
    /// SHA-256 of the file that it comes from.
    digest: Option<String>,
    /// What llama-quantize writes about an importance matrix.
    provenance: Vec<(&'static str, Value)>,
    /// Left out of the feedback.
    without: Option<DirectionArg>,
    /// Of the output; statistics are always of the `plm` layout.
    layout: Layout,
}

/// The matrix of the `plm` layout whose statistics are also those of a matrix of an output.
struct Measured {
    name: String,
    /// The rows are the same, too, in the same order.
    same_rows: bool,
}

impl Measured {
    /// `None` where the other layout has no such matrix.
    ///
    /// In the latent layout `attn_v_b` is the values' rows of kv_b, with the same inputs; `attn_k_b` is a transpose.
    /// Of the FFN's pair, the gate has the inputs and (but for a factor that cancels) the gradients of the matrix
    /// they are copies of; `up` is rounded on its own, since the gate makes up for that ([`crate::passes::gate`]).
    fn of(key: TensorKey, layout: Layout) -> Option<Measured> {
        let (role, same_rows) = match (layout, key.role) {
            (Layout::Latent, Role::FfnUp | Role::KeyB) => return None,
            (Layout::Latent, Role::FfnGate) => (Role::FfnUp, true),
            (Layout::Latent, Role::ValueB) => (Role::KvB, false),
            (_, role) => (role, true),
        };
        Some(Measured { name: TensorKey { role, ..key }.gguf_name(), same_rows })
    }
}

impl Guidance {
    /// As llama-quantize uses `path`, an importance matrix, for the matrices of `model`.
    ///
    /// # Errors
    /// What is no importance matrix, or has no entry for any matrix of the model.
    pub fn from_imatrix(path: &Path, model: &Model, console: Console) -> Result<Guidance> {
        let imatrix = Imatrix::open(path).at(Place::Imatrix)?;
        report_coverage(path, &imatrix, model, console)?;
        let shorten = |text: &str| Value::String(text.chars().take(127).collect());
        let mut provenance = vec![("quantize.imatrix.file", shorten(&path.to_string_lossy()))];
        if let Some(dataset) = imatrix.datasets.first() {
            provenance.push(("quantize.imatrix.dataset", shorten(dataset)));
        }
        provenance.push(("quantize.imatrix.entries_count", Value::U32(imatrix.entries.len() as u32)));
        if imatrix.chunks > 0 {
            provenance.push(("quantize.imatrix.chunks_count", Value::U32(imatrix.chunks)));
        }
        let entries = imatrix.entries.into_iter();
        let importance = entries.map(|e| (e.name, mean_squares(&e.sums, &e.counts))).collect();
        Ok(Guidance { importance, provenance, digest: Some(file_digest(path)?), ..Guidance::default() })
    }

    /// From statistics of `model`; without an effort only the importance is used.
    ///
    /// # Errors
    /// Statistics of another model.
    pub fn from_statistics(path: &Path, model: &Model, effort: Option<Effort>) -> Result<Guidance> {
        let statistics = Statistics::open(path)?;
        statistics.check_model(&model_digest(model)?)?;
        let mut importance = BTreeMap::new();
        for tensor in &model.tensors {
            let name = tensor.key.gguf_name();
            // llama.cpp's importance matrices leave the embedding out, as its inputs are those of the head only.
            if let Some(mut values) = statistics.importance(&name)? {
                raise_unreached(&mut values);
                importance.insert(name, values);
            }
        }
        let digest = Some(file_digest(path)?);
        Ok(Guidance { importance, statistics: Some(statistics), effort, digest, ..Guidance::default() })
    }

    /// For an output of this layout.
    #[must_use]
    pub fn for_layout(self, layout: Layout) -> Guidance {
        Guidance { layout, ..self }
    }

    /// Feedback in one direction only.
    #[must_use]
    pub fn without(self, direction: Option<DirectionArg>) -> Guidance {
        Guidance { without: direction, ..self }
    }

    /// Whether there is any.
    pub fn is_some(&self) -> bool {
        !self.importance.is_empty()
    }

    /// What calibration measured, if it did.
    pub fn statistics(&self) -> Option<&Statistics> {
        self.statistics.as_ref()
    }

    /// How error feedback searches, if there is any.
    pub fn effort(&self) -> Option<Effort> {
        self.effort
    }

    /// The importance of a matrix's columns, by its GGUF name.
    pub fn importance_of(&self, name: &str) -> Option<&[f32]> {
        self.importance.get(name).map(Vec::as_slice)
    }

    /// Whether errors are fed back, which takes long.
    pub fn feeds_back(&self) -> bool {
        self.statistics.is_some() && self.effort.is_some()
    }

    /// # Errors
    /// The statistics are not any longer those that were opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.statistics.as_ref().map_or(Ok(()), Statistics::check_unchanged)
    }

    /// Adds all that decides the rounding by statistics.
    pub fn add_to(&self, hash: &mut Sha256) {
        hash.update(format!("{:?} {:?} {:?}", self.effort, self.without, self.digest));
    }

    /// SHA-256 of the statistics' file or of the importance matrix.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// What `--effort` is called, where there are statistics.
    pub fn effort_name(&self) -> Option<&'static str> {
        self.statistics.as_ref().map(|_| match self.effort {
            None => "fast",
            Some(Effort::Normal) => "normal",
            Some(Effort::Max) => "max",
        })
    }

    /// The direction that is left out of the feedback.
    pub fn left_out(&self) -> Option<&'static str> {
        self.without.map(|direction| match direction {
            DirectionArg::Columns => "columns",
            DirectionArg::Rows => "rows",
        })
    }

    /// Adds what a file says about it.
    pub fn describe(&self, metadata: &mut Metadata) {
        for (key, value) in &self.provenance {
            metadata.set(*key, value.clone());
        }
    }

    /// The importance of a tensor's `cols` columns.
    ///
    /// # Errors
    /// Importance of another length: it is of another model.
    pub fn importance(&self, key: TensorKey, cols: usize) -> Result<Option<&[f32]>> {
        let measured = Measured::of(key, self.layout);
        let Some(values) = measured.and_then(|m| self.importance.get(&m.name)) else { return Ok(None) };
        if values.len() != cols {
            let message =
                format!("`{}` has {cols} columns, its importance {} values", key.gguf_name(), values.len());
            return Err(UsageError::with_hint(message, "it is of another model").into());
        }
        Ok(Some(values))
    }

    /// Error feedback for a tensor, where there is something to feed back. Without `whole`, the rows are some of the
    /// tensor's, and errors are fed back along each row only.
    pub fn feedback<'a>(
        &'a self,
        key: TensorKey,
        dtype: DType,
        [rows, cols]: [usize; 2],
        whole: bool,
    ) -> Option<Feedback<'a>> {
        let (statistics, effort) = self.statistics.as_ref().zip(self.effort)?;
        let measured = Measured::of(key, self.layout)?;
        let known = feedback::supports(dtype) && statistics.has_curvature(&measured.name);
        let with_outputs = whole
            && measured.same_rows
            && self.without != Some(DirectionArg::Rows)
            && statistics.has_outputs(&measured.name);
        known.then(|| Feedback {
            statistics,
            effort,
            measured: measured.name,
            with_columns: self.without != Some(DirectionArg::Columns),
            with_outputs,
            rows,
            cols,
            group_rows: if with_outputs { plmconv_validate::curvature::OUTPUT_BLOCK } else { FREE_ROWS },
            groups_left: AtomicUsize::new(0),
            factors: Mutex::new(None),
        })
    }
}

/// One tensor's error feedback. Its factors are computed when first needed and freed after its last group of rows.
#[derive(Debug)]
pub struct Feedback<'a> {
    statistics: &'a Statistics,
    effort: Effort,
    /// The matrix of the statistics.
    measured: String,
    with_columns: bool,
    /// Rows influence each other.
    with_outputs: bool,
    rows: usize,
    cols: usize,
    /// Rows that are encoded together.
    group_rows: usize,
    groups_left: AtomicUsize,
    factors: Mutex<Option<Arc<Factors>>>,
}

#[derive(Debug)]
struct Factors {
    columns: ColumnFactor,
    /// Empty where rows do not influence each other.
    rows: Vec<RowFactor>,
}

impl Feedback<'_> {
    /// The groups of rows that are encoded at a time.
    pub fn groups(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, step) = (self.rows, self.group_rows);
        (0..rows).step_by(step).map(move |start| start..(start + step).min(rows))
    }

    /// Counts a group as done, encoded now or by a run before; the last frees the factors.
    pub fn finish_group(&self) {
        let groups = self.rows.div_ceil(self.group_rows);
        if self.groups_left.fetch_add(1, Ordering::AcqRel) + 1 == groups {
            *self.factors.lock().expect("no thread panics with the lock") = None;
        }
    }

    /// Encodes the group of rows that begins at `first_row`; `values` is used up.
    pub fn encode(&self, dtype: DType, first_row: usize, values: &mut [f32], out: &mut [u8]) -> Result<()> {
        let factors = self.factors().with_context(|| format!("statistics of `{}`", self.measured))?;
        let rows = factors.rows.get(first_row / self.group_rows);
        feedback::encode_group(dtype, values, &factors.columns, rows, self.effort, out)?;
        self.finish_group();
        Ok(())
    }

    /// Computed by the first thread that asks; the others wait.
    fn factors(&self) -> Result<Arc<Factors>> {
        let mut slot = self.factors.lock().expect("no thread panics with the lock");
        if let Some(factors) = &*slot {
            return Ok(factors.clone());
        }
        let mut inputs = self.statistics.inputs(&self.measured, self.cols)?.context("missing")?;
        if !self.with_columns {
            inputs.keep_diagonal();
        }
        let rows = if self.with_outputs {
            let outputs = self.statistics.outputs(&self.measured, self.rows)?.context("missing")?;
            RowFactor::per_group(&outputs)?
        } else {
            Vec::new()
        };
        let factors = Arc::new(Factors { columns: ColumnFactor::new(&inputs)?, rows });
        *slot = Some(factors.clone());
        Ok(factors)
    }
}

/// Says which matrices of the model an importance matrix leaves out, and which of its entries are of none.
///
/// # Errors
/// No entry is of a matrix of the model.
fn report_coverage(path: &Path, imatrix: &Imatrix, model: &Model, console: Console) -> Result<()> {
    let matrices = || model.tensors.iter().map(|t| t.key).filter(|key| !key.role.is_norm());
    let wanted: HashSet<String> = matrices().map(TensorKey::gguf_name).collect();
    let entries: HashSet<&str> = imatrix.entries.iter().map(|entry| entry.name.as_str()).collect();
    let strangers: Vec<&str> =
        imatrix.entries.iter().map(|e| e.name.as_str()).filter(|n| !wanted.contains(*n)).collect();
    if strangers.len() == entries.len() {
        let message = format!(
            "{}: none of its {} entries is of a matrix of this model (the first is `{}`)",
            path.display(),
            entries.len(),
            strangers.first().copied().unwrap_or_default()
        );
        let hint = "it is of another model, or its names were changed: llama-imatrix makes one from a GGUF of this model";
        return Err(UsageError::with_hint(message, hint).into());
    }
    // The embedding never has an entry: its inputs are those of the head only.
    let inner = || matrices().filter(|key| key.role != Role::TokenEmbedding).map(TensorKey::gguf_name);
    let missing: Vec<String> = inner().filter(|name| !entries.contains(name.as_str())).collect();
    if !missing.is_empty() {
        console.warn(&format!(
            "{}: no entry for {} of {} matrices, which are rounded without regard to their inputs: {}",
            path.display(),
            missing.len(),
            inner().count(),
            some_of(&missing)
        ));
    }
    if !strangers.is_empty() {
        console.warn(&format!(
            "{}: {} of {} entries are of no matrix of this model: {}",
            path.display(),
            strangers.len(),
            entries.len(),
            some_of(&strangers)
        ));
    }
    Ok(())
}

/// The first few of `names`, and how many more there are.
fn some_of(names: &[impl AsRef<str>]) -> String {
    const SHOWN: usize = 6;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let rest = names.len() - shown.len();
    shown.join(", ") + &if rest > 0 { format!(" and {rest} more") } else { String::new() }
}

/// The level of search that a name stands for: `None` uses importance alone.
pub fn effort(name: crate::args::EffortArg) -> Option<Effort> {
    match name {
        crate::args::EffortArg::Fast => None,
        crate::args::EffortArg::Normal => Some(Effort::Normal),
        crate::args::EffortArg::Max => Some(Effort::Max),
    }
}
