//! What guides the rounding of weights: nothing, an importance matrix, or statistics of the model on text.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use plmconv_formats::gguf::{Metadata, Value};
use plmconv_formats::{Imatrix, Model};
use plmconv_quant::calibration::mean_squares;
use plmconv_quant::feedback;
use plmconv_quant::feedback::{ColumnFactor, Effort, RowFactor};
use sha2::{Digest, Sha256};

use crate::error::UsageError;
use crate::plan::PlannedTensor;
use crate::statistics::{Statistics, model_digest};

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
    /// What llama-quantize writes about an importance matrix.
    provenance: Vec<(&'static str, Value)>,
}

impl Guidance {
    /// As llama-quantize uses `path`, an importance matrix.
    pub fn from_imatrix(path: &Path) -> Result<Guidance> {
        let imatrix = Imatrix::open(path)?;
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
        Ok(Guidance { importance, provenance, ..Guidance::default() })
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
            if let Some(values) = statistics.importance(&name)? {
                importance.insert(name, values);
            }
        }
        Ok(Guidance { importance, statistics: Some(statistics), effort, provenance: Vec::new() })
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

    /// Adds all that decides the rounding by statistics.
    pub fn add_to(&self, hash: &mut Sha256) -> Result<()> {
        hash.update(format!("{:?}", self.effort));
        self.statistics.as_ref().map_or(Ok(()), |statistics| statistics.add_to(hash))
    }

    /// Adds what a file says about it.
    pub fn describe(&self, metadata: &mut Metadata) {
        for (key, value) in &self.provenance {
            metadata.set(*key, value.clone());
        }
    }

    /// The importance of a tensor's columns.
    ///
    /// # Errors
    /// Importance of another length: it is of another model.
    pub fn importance(&self, planned: &PlannedTensor) -> Result<Option<&[f32]>> {
        let Some(values) = self.importance.get(&planned.name) else { return Ok(None) };
        let cols = planned.tensor.source.cols();
        if values.len() != cols {
            let message =
                format!("`{}` has {cols} columns, its importance {} values", planned.name, values.len());
            return Err(UsageError::with_hint(message, "it is of another model").into());
        }
        Ok(Some(values))
    }

    /// Error feedback for a tensor, where there is something to feed back.
    pub fn feedback<'a>(&'a self, planned: &PlannedTensor) -> Option<Feedback<'a>> {
        let (statistics, effort) = self.statistics.as_ref().zip(self.effort)?;
        let (rows, cols) = (planned.tensor.source.rows(), planned.tensor.source.cols());
        let known = feedback::supports(planned.dtype) && statistics.has_curvature(&planned.name);
        known.then(|| Feedback {
            statistics,
            effort,
            name: planned.name.clone(),
            rows,
            cols,
            group_rows: if statistics.has_outputs(&planned.name) {
                plmconv_validate::curvature::OUTPUT_BLOCK
            } else {
                FREE_ROWS
            },
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
    name: String,
    rows: usize,
    cols: usize,
    /// Rows that influence each other.
    pub group_rows: usize,
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
    /// Counts a group as done, encoded now or by a run before; the last frees the factors.
    pub fn finish_group(&self) {
        let groups = self.rows.div_ceil(self.group_rows);
        if self.groups_left.fetch_add(1, Ordering::AcqRel) + 1 == groups {
            *self.factors.lock().expect("no thread panics with the lock") = None;
        }
    }

    /// Encodes the group of rows that begins at `first_row`; `values` is used up.
    pub fn encode(
        &self,
        dtype: plmconv_formats::DType,
        first_row: usize,
        values: &mut [f32],
        out: &mut [u8],
    ) -> Result<()> {
        let factors = self.factors().with_context(|| format!("statistics of `{}`", self.name))?;
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
        let curvature = self.statistics.curvature(&self.name, self.rows, self.cols)?;
        let curvature = curvature.context("missing")?;
        let rows = match &curvature.outputs {
            Some(outputs) => RowFactor::per_group(outputs)?,
            None => Vec::new(),
        };
        let factors = Arc::new(Factors { columns: ColumnFactor::new(&curvature.inputs)?, rows });
        *slot = Some(factors.clone());
        Ok(factors)
    }
}

/// The level of search that a name stands for: `None` uses importance alone.
pub fn effort(name: crate::args::EffortArg) -> Option<Effort> {
    match name {
        crate::args::EffortArg::Fast => None,
        crate::args::EffortArg::Normal => Some(Effort::Normal),
        crate::args::EffortArg::Max => Some(Effort::Max),
    }
}
