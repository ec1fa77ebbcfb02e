//! How much the output would diverge if a matrix alone were stored in some way: measured on rows of it.
//!
//! The rows are rounded as the file's would be, and the rounding error `E` is weighed by the two Fisher factors that
//! calibration measured: to second order a token's KL divergence grows by `trace(G E H Eᵀ) / (2 trace(G) tokens)` (see
//! [`curvature`](crate::curvature)). The sampled rows are rounded apart from each other, so that of `G` its diagonal is
//! left; where the file's rows will make up for each other's errors, the pivots of its factor take the diagonal's place.
//! An error in the embedding does harm twice: in the head's product, and where text enters the model.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use plmconv_formats::DType;
use plmconv_formats::model::Tensor;
use plmconv_quant::block_symmetric::BlockSymmetric;
use plmconv_quant::codec;
use plmconv_quant::feedback::{self, ColumnFactor, RowFactor};
use plmconv_quant::grid::{self, Blocks, Grid};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::monitor::{Monitor, Task};
use crate::noise::activation_noise;
use crate::rounding::Rounding;
use crate::statistics::Statistics;
use crate::storage::{Menu, Storage};

/// Values of a matrix that are rounded for the measurement: whole rows, spread evenly.
const SAMPLE_VALUES: usize = 1 << 16;
/// Of those rows, every how manieth is rounded to points of a grid, which takes several times as long as other types.
const FEW: usize = 4;

/// Of each matrix, by GGUF name, the divergence in nats per token that each way to store it would cause.
#[derive(Debug, Default)]
pub struct Sensitivity {
    losses: BTreeMap<String, Vec<(Storage, f64)>>,
}

impl Sensitivity {
    /// Measures all matrices of `tensors`, each stored in all ways of `menu` that its rows fit.
    ///
    /// # Errors
    /// Rounding without statistics, statistics that lack a matrix, unreadable rows; a monitor that says stop.
    pub fn measure(
        tensors: &[Tensor],
        rounding: &Rounding,
        menu: Menu,
        monitor: &dyn Monitor,
    ) -> Result<Sensitivity> {
        let matrices: Vec<&Tensor> = tensors.iter().filter(|t| !t.key.role.is_norm()).collect();
        let done = AtomicUsize::new(0);
        let measured = matrices.par_iter().map(|tensor| {
            monitor.check()?;
            let name = tensor.key.gguf_name();
            let losses = Probe::new(tensor, rounding)
                .and_then(|probe| probe.losses(menu))
                .map_err(Error::with_matrix("measuring", &name))?;
            monitor.progress(Task::Measuring, done.fetch_add(1, Ordering::Relaxed) + 1, matrices.len());
            Ok((name, losses))
        });
        let losses = measured.collect::<Result<_>>()?;
        Ok(Sensitivity { losses })
    }

    /// The ways measured for a matrix, each with its divergence.
    pub fn of(&self, name: &str) -> &[(Storage, f64)] {
        self.losses.get(name).map_or(&[], Vec::as_slice)
    }

    /// The divergence of a matrix stored in one way, where it was measured.
    pub fn stored(&self, name: &str, storage: Storage) -> Option<f64> {
        self.of(name).iter().find(|(s, _)| *s == storage).map(|(_, loss)| *loss)
    }
}

/// Some rows of one matrix and what their errors cost.
struct Probe<'a> {
    source: DType,
    cols: usize,
    sample: Sample,
    /// Some of the sample's rows.
    few: Sample,
    importance: Option<&'a [f32]>,
    inputs: BlockSymmetric,
    /// For error feedback.
    columns: Option<ColumnFactor>,
    effort: Option<feedback::Effort>,
    activations: Activations,
    /// Per column, for the embedding: the squares of the gradient where text enters the model.
    lookups: Option<Vec<f32>>,
}

/// Rows that are rounded for the measurement.
struct Sample {
    values: Vec<f32>,
    /// Per row, what an error costs: its share of the whole `G`, over the tokens of the text.
    weights: Vec<f64>,
}

impl Sample {
    /// Every [`FEW`]th row. Weights count for the other rows too: they grow by what values do in all over what they do in
    /// these.
    fn few(&self, inputs: &BlockSymmetric) -> Sample {
        let cols = inputs.size();
        let forms = inputs.quadratic_forms(&self.values);
        let sizes: Vec<f64> = forms.iter().zip(&self.weights).map(|(form, weight)| form * weight).collect();
        let (all, some) = (sizes.iter().sum::<f64>(), sizes.iter().step_by(FEW).sum::<f64>());
        // Where values do nothing, errors are taken to do as much in every row.
        let factor =
            if some > 0.0 { all / some } else { sizes.len() as f64 / sizes.len().div_ceil(FEW) as f64 };
        Sample {
            values: self.values.chunks_exact(cols).step_by(FEW).flatten().copied().collect(),
            weights: self.weights.iter().step_by(FEW).map(|weight| weight * factor).collect(),
        }
    }
}

impl<'a> Probe<'a> {
    fn new(tensor: &Tensor, rounding: &'a Rounding) -> Result<Probe<'a>> {
        let (rows, cols) = (tensor.source.rows(), tensor.source.cols());
        let name = tensor.key.gguf_name();
        let statistics = rounding.statistics().ok_or(Error::NothingToMeasureBy)?;
        let inputs = statistics.inputs(&name, cols)?;
        let inputs = inputs.ok_or_else(|| Error::NoStatistics { matrix: name.clone() })?;
        let outputs = statistics.outputs(&name, rows)?;
        let tokens = statistics.tokens(&name)?;
        let count = (SAMPLE_VALUES / cols.max(1)).clamp(1, rows);
        let sample: Vec<usize> = (0..count).map(|i| i * rows / count).collect();
        let effort = rounding.effort();
        let weights = row_weights(outputs.as_ref(), &sample, effort.is_some(), tokens)?;
        let columns = effort.map(|_| ColumnFactor::new(&inputs)).transpose()?;
        let values = read_rows(tensor, &sample)?;
        // Nothing makes up for what is lost of activations.
        let shares = row_weights(outputs.as_ref(), &sample, false, tokens)?;
        let activations = Activations::new(statistics, &name, &inputs.diagonal(), &shares, &values)?;
        let sample = Sample { values, weights };
        Ok(Probe {
            source: tensor.source.dtype(),
            cols,
            few: sample.few(&inputs),
            sample,
            importance: rounding.importance_of(&name),
            inputs,
            columns,
            effort,
            activations,
            lookups: statistics.lookups(&name)?,
        })
    }

    fn losses(&self, menu: Menu) -> Result<Vec<(Storage, f64)>> {
        let storages = menu.storages(self.source, self.cols).into_iter();
        storages
            .filter_map(|storage| {
                self.loss(menu, storage).map(|loss| loss.map(|loss| (storage, loss))).transpose()
            })
            .collect()
    }

    /// `None` where the values cannot be stored so.
    fn loss(&self, menu: Menu, storage: Storage) -> Result<Option<f64>> {
        let sample = if storage.shares_points() { &self.few } else { &self.sample };
        let Some(errors) = self.errors(storage, &sample.values)? else { return Ok(None) };
        let mut forms = self.inputs.quadratic_forms(&errors);
        if let Some(lookups) = &self.lookups {
            for (form, errors) in forms.iter_mut().zip(errors.chunks_exact(self.cols)) {
                let terms =
                    errors.iter().zip(lookups).map(|(&e, &g)| f64::from(e) * f64::from(e) * f64::from(g));
                *form += terms.sum::<f64>();
            }
        }
        let loss: f64 = forms.iter().zip(&sample.weights).map(|(form, weight)| form.max(0.0) * weight).sum();
        Ok(Some(loss / 2.0 + self.activations.loss(menu.activation_block(storage))))
    }

    /// What rounding the rows changes, or `None` where they cannot be stored so.
    fn errors(&self, storage: Storage, values: &[f32]) -> Result<Option<Vec<f32>>> {
        let rounded = match storage {
            Storage::Type(dtype) => self.rounded_to_type(dtype, values),
            Storage::Blocks(grid) => self.rounded_to_blocks(grid, values),
        };
        let mut errors = match rounded {
            Err(plmconv_quant::Error::NotRepresentable { .. }) => return Ok(None),
            other => other?,
        };
        errors.iter_mut().zip(values).for_each(|(e, x)| *e -= x);
        Ok(Some(errors))
    }

    /// For rounding with feedback, where the storage takes any.
    fn feedback(&self, storage: Storage) -> Option<(&ColumnFactor, feedback::Effort)> {
        self.columns.as_ref().zip(self.effort).filter(|_| storage.takes_feedback(self.cols))
    }

    fn rounded_to_type(
        &self,
        dtype: DType,
        values: &[f32],
    ) -> std::result::Result<Vec<f32>, plmconv_quant::Error> {
        let len = dtype.encoded_len(values.len()).expect("only types that fit the rows are tried");
        let mut blocks = vec![0; len];
        if let Some((columns, effort)) = self.feedback(Storage::Type(dtype)) {
            let mut targets = values.to_vec();
            feedback::encode_group(dtype, &mut targets, columns, None, effort, &mut blocks)?;
        } else {
            codec::encode_rows(dtype, values, self.cols, self.importance, &mut blocks)?;
        }
        let mut rounded = vec![0.0; values.len()];
        codec::decode(dtype, &blocks, &mut rounded)?;
        Ok(rounded)
    }

    fn rounded_to_blocks(
        &self,
        grid: Grid,
        values: &[f32],
    ) -> std::result::Result<Vec<f32>, plmconv_quant::Error> {
        let (mut blocks, mut rounded) = (Blocks::default(), Vec::new());
        if let Some((columns, effort)) = self.feedback(Storage::Blocks(grid)) {
            let mut targets = values.to_vec();
            feedback::encode_group_in_blocks(&grid, &mut targets, columns, None, effort, &mut blocks)?;
        } else {
            grid::quantize(&grid, values, self.cols, self.importance, &mut blocks)?;
        }
        grid::dequantize(&grid, &blocks, self.cols, &mut rounded);
        Ok(rounded)
    }
}

/// A matrix's inputs, and what errors in them cost.
struct Activations {
    /// Root mean squares of the columns.
    sizes: Vec<f64>,
    /// Share of the tokens on which a column is not zero.
    active: Vec<f64>,
    /// Per column, what a squared error of the input costs, in nats a token.
    costs: Vec<f64>,
}

impl Activations {
    /// From the inputs' Fisher diagonal, and sampled rows (`values`) with what an error in each costs.
    fn new(
        statistics: &Statistics,
        name: &str,
        inputs: &[f32],
        row_weights: &[f64],
        values: &[f32],
    ) -> Result<Activations> {
        let missing = || Error::NoStatistics { matrix: name.into() };
        let squares = statistics.importance(name)?.ok_or_else(missing)?;
        let active = statistics.active(name)?.ok_or_else(missing)?;
        let tokens = statistics.tokens(name)?;
        let sum = |values: &[f32]| values.iter().map(|&x| f64::from(x)).sum::<f64>();
        // The inputs' factor weighs each token's squares by the gradient's: without them the weight is left.
        let gradient = sum(inputs) / sum(&squares).max(f64::MIN_POSITIVE);
        let mut costs = vec![0.0; squares.len()];
        for (row, weight) in values.chunks_exact(squares.len()).zip(row_weights) {
            for (cost, &value) in costs.iter_mut().zip(row) {
                *cost += f64::from(value).powi(2) * weight * gradient / 2.0;
            }
        }
        Ok(Activations {
            sizes: squares.iter().map(|&x| f64::from(x).sqrt()).collect(),
            active: active.iter().map(|&n| f64::from(n) / tokens).collect(),
            costs,
        })
    }

    /// The divergence that a runtime causes, in nats a token, by rounding the inputs to 8 bits in blocks of `block_len`.
    fn loss(&self, block_len: Option<usize>) -> f64 {
        let Some(block_len) = block_len else { return 0.0 };
        let noise = activation_noise(&self.sizes, &self.active, block_len);
        noise.iter().zip(&self.costs).map(|(noise, cost)| noise * cost).sum()
    }
}

/// What an error in each row of `sample` costs: the diagonal of `G`, or its factor's pivots, over the diagonal's sum in
/// the sample and over the tokens. Rows of the embedding count alike.
fn row_weights(
    outputs: Option<&BlockSymmetric>,
    sample: &[usize],
    made_up_for: bool,
    tokens: f64,
) -> Result<Vec<f64>> {
    let Some(outputs) = outputs else {
        return Ok(vec![1.0 / (sample.len() as f64 * tokens); sample.len()]);
    };
    let diagonal = outputs.diagonal();
    let sum: f64 = sample.iter().map(|&row| f64::from(diagonal[row])).sum();
    let costs = if made_up_for {
        let mean = diagonal.iter().map(|&x| f64::from(x)).sum::<f64>() / diagonal.len() as f64;
        let pivots: Vec<f32> =
            RowFactor::per_group(outputs)?.iter().flat_map(|group| group.pivots().iter().copied()).collect();
        pivots.iter().map(|&pivot| mean * f64::from(pivot)).collect()
    } else {
        diagonal.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>()
    };
    Ok(sample.iter().map(|&row| costs[row] / (sum * tokens).max(f64::MIN_POSITIVE)).collect())
}

fn read_rows(tensor: &Tensor, rows: &[usize]) -> Result<Vec<f32>> {
    let cols = tensor.source.cols();
    let mut values = vec![0.0; rows.len() * cols];
    let mut bytes = Vec::new();
    for (&row, values) in rows.iter().zip(values.chunks_exact_mut(cols)) {
        tensor.source.read_rows(row..row + 1, &mut bytes)?;
        codec::decode(tensor.source.dtype(), &bytes, values)?;
    }
    Ok(values)
}
