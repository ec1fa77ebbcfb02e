//! How an output's weights are rounded: to the nearest, with importance, or guided by statistics of the model on text.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use plmconv_formats::gguf::{Metadata, Value};
use plmconv_formats::{DType, Imatrix, Layout, Model, Role, TensorKey, sha256};
use plmconv_quant::feedback::{self, ColumnFactor, Effort, RowFactor};
use plmconv_quant::grid::{Blocks, Grid};
use plmconv_quant::importance::{mean_squares, raise_unreached};
use sha2::{Digest, Sha256};

use crate::balance::Balance;
use crate::curvature::OUTPUT_BLOCK;
use crate::digest::model_digest;
use crate::error::{Error, Result};
use crate::monitor::{Monitor, Notice};
use crate::statistics::Statistics;
use crate::storage::Storage;

/// Rows of the embedding that are rounded at a time: they do not influence each other.
const FREE_ROWS: usize = 1024;

/// A direction that errors are fed back in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Along a row: later columns make up for earlier ones.
    Columns,
    /// Across rows: later rows make up for earlier ones.
    Rows,
}

impl Direction {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Columns => "columns",
            Direction::Rows => "rows",
        }
    }
}

/// How an output's weights are rounded. By default to the nearest.
#[derive(Debug, Default)]
pub struct Rounding {
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
    without: Vec<Direction>,
    /// Channels are rescaled where that helps.
    balanced: bool,
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
    /// they are copies of; `up` is rounded on its own, since the gate makes up for that (src/passes/gate.rs of the program).
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

impl Rounding {
    /// As llama-quantize uses `imatrix`, which was read from `path`, for the matrices of `model`.
    ///
    /// # Errors
    /// An importance matrix without an entry for any matrix of the model.
    pub fn from_imatrix(
        imatrix: Imatrix,
        path: &Path,
        model: &Model,
        monitor: &dyn Monitor,
    ) -> Result<Rounding> {
        report_coverage(path, &imatrix, model, monitor)?;
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
        Ok(Rounding { importance, provenance, digest: Some(sha256::of_file(path)?), ..Rounding::default() })
    }

    /// From statistics of `model`; without an effort only the importance is used. With `balance` they say how the model
    /// is to be rescaled before it is rounded, see [`balance`](Self::balance).
    ///
    /// # Errors
    /// Statistics of another model.
    pub fn from_statistics(
        statistics: Statistics,
        model: &Model,
        effort: Option<Effort>,
        balance: bool,
    ) -> Result<Rounding> {
        statistics.check_model(&model_digest(model)?)?;
        let statistics = if balance {
            let balance = Balance::choose(model, &statistics)?;
            statistics.balanced(balance)
        } else {
            statistics
        };
        let mut importance = BTreeMap::new();
        for tensor in &model.tensors {
            let name = tensor.key.gguf_name();
            // llama.cpp's importance matrices leave the embedding out, as its inputs are those of the head only.
            if let Some(mut values) = statistics.importance(&name)? {
                raise_unreached(&mut values);
                importance.insert(name, values);
            }
        }
        let digest = Some(sha256::of_file(statistics.path())?);
        let statistics = Some(statistics);
        Ok(Rounding { importance, statistics, effort, balanced: balance, digest, ..Rounding::default() })
    }

    /// For an output of this layout.
    #[must_use]
    pub fn for_layout(self, layout: Layout) -> Rounding {
        Rounding { layout, ..self }
    }

    /// No feedback in these directions.
    #[must_use]
    pub fn without(self, directions: Vec<Direction>) -> Rounding {
        Rounding { without: directions, ..self }
    }

    /// Whether the columns of matrices differ in importance.
    pub fn has_importance(&self) -> bool {
        !self.importance.is_empty()
    }

    /// What calibration measured, if it did.
    pub fn statistics(&self) -> Option<&Statistics> {
        self.statistics.as_ref()
    }

    /// How the model has to be rescaled, if it has to.
    pub fn balance(&self) -> Option<&Balance> {
        self.statistics.as_ref().map(Statistics::balance).filter(|balance| !balance.is_empty())
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
    pub fn is_guided(&self) -> bool {
        self.statistics.is_some() && self.effort.is_some()
    }

    /// Checks that what was read is still there.
    ///
    /// # Errors
    /// The statistics are not any longer those that were opened.
    pub fn check_unchanged(&self) -> Result<()> {
        self.statistics.as_ref().map_or(Ok(()), Statistics::check_unchanged)
    }

    /// Adds all that decides the rounding by statistics.
    pub fn add_to(&self, hash: &mut Sha256) {
        hash.update(format!("{:?} {:?} {:?} {:?}", self.effort, self.without, self.balanced, self.digest));
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

    /// What `--without` calls the parts of guided rounding that are left out.
    pub fn left_out(&self) -> impl Iterator<Item = &'static str> + '_ {
        let unbalanced = self.statistics.is_some() && !self.balanced;
        self.without.iter().map(|direction| direction.name()).chain(unbalanced.then_some("balance"))
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
            return Err(Error::ImportanceLength { matrix: key.gguf_name(), cols, found: values.len() });
        }
        Ok(Some(values))
    }

    /// Guided rounding of a tensor, where the statistics have its curvature. Without `whole`, the rows are some of the
    /// tensor's, and errors are fed back along each row only.
    pub fn guided<'a>(
        &'a self,
        key: TensorKey,
        storage: Storage,
        [rows, cols]: [usize; 2],
        whole: bool,
    ) -> Option<Guided<'a>> {
        let (statistics, effort) = self.statistics.as_ref().zip(self.effort)?;
        let measured = Measured::of(key, self.layout)?;
        let known = storage.takes_feedback(cols) && statistics.has_curvature(&measured.name);
        let with_outputs = whole
            && measured.same_rows
            && !self.without.contains(&Direction::Rows)
            && statistics.has_outputs(&measured.name);
        known.then(|| Guided {
            statistics,
            effort,
            measured: measured.name,
            with_columns: !self.without.contains(&Direction::Columns),
            with_outputs,
            rows,
            cols,
            group_rows: if with_outputs { OUTPUT_BLOCK } else { FREE_ROWS },
            groups_left: AtomicUsize::new(0),
            factors: Mutex::new(None),
        })
    }
}

/// One tensor's guided rounding. Its factors are computed when first needed and freed after its last group of rows.
#[derive(Debug)]
pub struct Guided<'a> {
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

impl Guided<'_> {
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

    /// Encodes the group of rows that begins at `first_row` in a type of ggml; `values` is used up.
    ///
    /// # Errors
    /// Statistics that cannot be read or have no factor, values that the type cannot hold.
    pub fn encode(&self, dtype: DType, first_row: usize, values: &mut [f32], out: &mut [u8]) -> Result<()> {
        let factors = self.factors().map_err(Error::with_matrix("statistics of", &self.measured))?;
        let rows = factors.rows.get(first_row / self.group_rows);
        feedback::encode_group(dtype, values, &factors.columns, rows, self.effort, out)?;
        self.finish_group();
        Ok(())
    }

    /// The same on an integer grid.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_blocks(
        &self,
        grid: &Grid,
        first_row: usize,
        values: &mut [f32],
        out: &mut Blocks,
    ) -> Result<()> {
        let factors = self.factors().map_err(Error::with_matrix("statistics of", &self.measured))?;
        let rows = factors.rows.get(first_row / self.group_rows);
        feedback::encode_group_in_blocks(grid, values, &factors.columns, rows, self.effort, out)?;
        self.finish_group();
        Ok(())
    }

    /// Computed by the first thread that asks; the others wait.
    fn factors(&self) -> Result<Arc<Factors>> {
        let mut slot = self.factors.lock().expect("no thread panics with the lock");
        if let Some(factors) = &*slot {
            return Ok(factors.clone());
        }
        let missing = || Error::NoStatistics { matrix: self.measured.clone() };
        let mut inputs = self.statistics.inputs(&self.measured, self.cols)?.ok_or_else(missing)?;
        if !self.with_columns {
            inputs.keep_diagonal();
        }
        let rows = if self.with_outputs {
            let outputs = self.statistics.outputs(&self.measured, self.rows)?.ok_or_else(missing)?;
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
fn report_coverage(path: &Path, imatrix: &Imatrix, model: &Model, monitor: &dyn Monitor) -> Result<()> {
    let matrices = || model.tensors.iter().map(|t| t.key).filter(|key| !key.role.is_norm());
    let wanted: HashSet<String> = matrices().map(TensorKey::gguf_name).collect();
    let names = || imatrix.entries.iter().map(|entry| &entry.name);
    let stray: Vec<String> = names().filter(|name| !wanted.contains(*name)).cloned().collect();
    let entries: HashSet<&String> = names().collect();
    if stray.len() == entries.len() {
        return Err(Error::ForeignImatrix {
            path: path.into(),
            entries: entries.len(),
            first: stray.into_iter().next().unwrap_or_default(),
        });
    }
    // The embedding never has an entry: its inputs are those of the head only.
    let inner = || matrices().filter(|key| key.role != Role::TokenEmbedding).map(TensorKey::gguf_name);
    let missing: Vec<String> = inner().filter(|name| !entries.contains(name)).collect();
    if !missing.is_empty() {
        monitor.notice(&Notice::MissingEntries { path: path.into(), missing, matrices: inner().count() });
    }
    if !stray.is_empty() {
        monitor.notice(&Notice::StrayEntries { path: path.into(), stray, entries: entries.len() });
    }
    Ok(())
}
