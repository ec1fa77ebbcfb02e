//! Balance: factors by which the network's channels are rescaled so that rounding harms them less, weights and
//! activations alike, while the function stays what it is.
//!
//! Where one tensor makes a channel and another one takes it, the first may be divided and the second multiplied by any
//! factor: a norm's weight and the columns behind it, the values' rows of kv_b and the columns of the output projection,
//! and, since squared ReLU is homogeneous of degree two, a neuron's row of `up` by `s` and its column of `down` by
//! `1 / s²`. Runtimes round activations in blocks that share a scale, and so do types of weights: a channel that is large
//! among small ones costs its neighbours their precision. Moving a part of its size from one side to the other is
//! SmoothQuant's idea (arXiv 2211.10438); here factors are powers of two, which lose nothing, and each site takes them
//! only where the harm is predicted to shrink.

use std::collections::BTreeMap;

use plmconv_formats::{Config, DType, Model, Role, TensorKey};
use plmconv_quant::codec;
use plmconv_validate::Error as EvaluatorError;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::noise::activation_noise;
use crate::statistics::Statistics;

/// How much of a channel's factor follows the activations' size; the rest follows the weights'.
const SHARES: [f64; 3] = [0.25, 0.5, 0.0];
/// A site is rescaled only if that is predicted to take so much off what rounding does there: predictions are of
/// rounding to nearest, and guided rounding makes up for some of what is predicted.
const LEAST_GAIN: f64 = 0.2;
/// No factor is beyond two to this power.
const MAX_EXPONENT: i32 = 12;
/// Values of a matrix that are looked at: whole rows, spread evenly.
const SAMPLE_VALUES: usize = 1 << 17;
/// Columns of a block of ggml's Q8_K, in which activations share a scale.
const ACTIVATION_BLOCK: usize = 256;

/// By which powers of two a tensor's values are multiplied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exponents {
    /// `[cols]`, or empty.
    pub columns: Vec<i8>,
    /// `[rows]`, or empty.
    pub rows: Vec<i8>,
}

/// The rescaling of a whole model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    tensors: BTreeMap<TensorKey, Exponents>,
}

impl Balance {
    /// Chooses factors for every site of `model`, by `statistics` of it.
    ///
    /// # Errors
    /// Statistics that lack a matrix, weights that cannot be read.
    pub fn choose(model: &Model, statistics: &Statistics) -> Result<Balance> {
        let sites: Vec<Site> = Site::all(&model.config).collect();
        let measured = sites.par_iter().map(|site| Ok(Channels::measure(model, statistics, site)?.best()));
        let exponents = measured.collect::<Result<Vec<Option<Vec<i8>>>>>()?;
        Ok(Balance::of_sites(&model.config, sites.iter().zip(exponents)))
    }

    /// With these exponents for the columns of each site's consumers; of neurons they are even.
    pub fn of_sites<'a>(
        config: &Config,
        sites: impl IntoIterator<Item = (&'a Site, Option<Vec<i8>>)>,
    ) -> Balance {
        let mut balance = Balance::default();
        for (site, exponents) in sites {
            if let Some(exponents) = exponents {
                balance.take(config, site, &exponents);
            }
        }
        balance
    }

    /// What becomes of a tensor, if anything does.
    pub fn of(&self, key: TensorKey) -> Option<&Exponents> {
        self.tensors.get(&key)
    }

    /// Whether nothing is rescaled.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    fn take(&mut self, config: &Config, site: &Site, exponents: &[i8]) {
        for &key in &site.consumers {
            self.tensors.entry(key).or_default().columns = exponents.to_vec();
        }
        let negative = || exponents.iter().map(|e| -e).collect();
        let entry = self.tensors.entry(site.producer).or_default();
        match site.kind {
            Kind::Norm => entry.columns = negative(),
            // down's columns times 2^e = 1 / s², so up's rows times s = 2^(-e / 2).
            Kind::Neurons => entry.rows = exponents.iter().map(|e| -e / 2).collect(),
            Kind::Values => entry.rows = value_rows(config, exponents),
        }
    }
}

/// The values' exponents among kv_b's rows, each head's after those of its keys.
fn value_rows(config: &Config, exponents: &[i8]) -> Vec<i8> {
    let heads = exponents.chunks_exact(config.v_head_dim);
    heads
        .flat_map(|head| vec![0; config.qk_nope_head_dim].into_iter().chain(head.iter().map(|e| -e)))
        .collect()
}

/// What makes the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Norm,
    /// Neurons of the FFN, whose factors are squares.
    Neurons,
    /// Channels of the values, head by head.
    Values,
}

/// Channels of one place, the tensor that makes them and those that take them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    kind: Kind,
    producer: TensorKey,
    consumers: Vec<TensorKey>,
}

impl Site {
    /// Every place of a model whose channels can be rescaled.
    pub fn all(config: &Config) -> impl Iterator<Item = Site> + use<> {
        (0..config.num_hidden_layers).flat_map(Site::of_layer)
    }

    /// Number of channels.
    pub fn channels(&self, config: &Config) -> usize {
        config.matrix_shape(self.consumers[0].role).map_or(0, |[_, cols]| cols)
    }

    /// What the exponents of its channels are multiples of.
    pub fn step(&self) -> i8 {
        if self.kind == Kind::Neurons { 2 } else { 1 }
    }

    fn of_layer(layer: usize) -> impl Iterator<Item = Site> {
        let site = move |kind, producer, consumers: &[Role]| Site {
            kind,
            producer: TensorKey::in_layer(layer, producer),
            consumers: consumers.iter().map(|&role| TensorKey::in_layer(layer, role)).collect(),
        };
        [
            site(Kind::Norm, Role::AttentionNorm, &[Role::Query, Role::KvA]),
            site(Kind::Norm, Role::KvANorm, &[Role::KvB]),
            site(Kind::Values, Role::KvB, &[Role::AttentionOutput]),
            site(Kind::Norm, Role::FfnNorm, &[Role::FfnUp]),
            site(Kind::Neurons, Role::FfnUp, &[Role::FfnDown]),
        ]
        .into_iter()
    }
}

/// A site's channels: how large they are, and what errors in them cost.
struct Channels {
    /// What exponents are multiples of.
    step: i8,
    /// Root mean squares of the activations.
    activations: Vec<f64>,
    /// Root mean squares of the weights' columns, over all consumers.
    weights: Vec<f64>,
    /// Share of the tokens on which a channel is not zero.
    active: Vec<f64>,
    consumers: Vec<Consumer>,
}

/// Some rows of a matrix, and what their errors cost.
struct Consumer {
    cols: usize,
    /// The type whose rounding represents any.
    dtype: DType,
    /// `[rows, cols]`
    values: Vec<f32>,
    importance: Vec<f32>,
    /// Per column, what a squared error of a weight costs: the diagonal of the inputs' Fisher factor.
    inputs: Vec<f64>,
    /// Per row, the share of the outputs' Fisher factor, times the rows that it represents.
    rows: Vec<f64>,
    /// Mean over the tokens of the gradient's square by all outputs.
    gradient: f64,
}

impl Channels {
    fn measure(model: &Model, statistics: &Statistics, site: &Site) -> Result<Channels> {
        let consumers: Vec<Consumer> = site
            .consumers
            .iter()
            .map(|&key| Consumer::measure(model, statistics, key))
            .collect::<Result<_>>()?;
        let name = site.consumers[0].gguf_name();
        let cols = consumers[0].cols;
        let mut squares = vec![0.0; cols];
        let mut rows = 0;
        for consumer in &consumers {
            for row in consumer.values.chunks_exact(cols) {
                squares.iter_mut().zip(row).for_each(|(sum, &w)| *sum += f64::from(w).powi(2));
                rows += 1;
            }
        }
        let missing = || Error::NoStatistics { matrix: name.clone() };
        let active = statistics.active(&name)?.ok_or_else(missing)?;
        let tokens = statistics.tokens(&name)?;
        Ok(Channels {
            step: site.step(),
            activations: consumers[0].importance.iter().map(|&x| f64::from(x).sqrt()).collect(),
            weights: squares.iter().map(|sum| (sum / rows as f64).sqrt()).collect(),
            active: active.iter().map(|&n| f64::from(n) / tokens).collect(),
            consumers,
        })
    }

    /// The exponents with the least predicted harm, unless leaving the site alone is as good.
    fn best(&self) -> Option<Vec<i8>> {
        let unscaled = vec![0; self.activations.len()];
        let alone = self.harm(&unscaled);
        let candidates = SHARES.map(|share| self.exponents(share));
        let harms = candidates.iter().map(|exponents| self.harm(exponents));
        let (least, exponents) = harms.zip(&candidates).min_by(|a, b| a.0.total_cmp(&b.0))?;
        (least < (1.0 - LEAST_GAIN) * alone).then(|| exponents.clone())
    }

    /// Factors of the weights' columns of `activations^share / weights^(1 - share)`, as powers of two around 1.
    fn exponents(&self, share: f64) -> Vec<i8> {
        let known = |(&x, &w): (&f64, &f64)| x > 0.0 && w > 0.0;
        let log = |(&x, &w): (&f64, &f64)| share * libm::log2(x) - (1.0 - share) * libm::log2(w);
        let channels = || self.activations.iter().zip(&self.weights);
        let mut logs: Vec<f64> = channels().filter(|&c| known(c)).map(log).collect();
        logs.sort_unstable_by(f64::total_cmp);
        let Some(&median) = logs.get(logs.len() / 2) else { return vec![0; self.weights.len()] };
        let step = i32::from(self.step);
        let exponent = |channel| {
            let wanted = if known(channel) { log(channel) - median } else { 0.0 };
            let steps = (wanted / f64::from(step)).round() as i32;
            (steps.clamp(-MAX_EXPONENT / step, MAX_EXPONENT / step) * step) as i8
        };
        channels().map(exponent).collect()
    }

    /// Divergence, in nats a token, that rounding is predicted to cause at the site's matrices.
    fn harm(&self, exponents: &[i8]) -> f64 {
        let factors: Vec<f64> = exponents.iter().map(|&e| libm::exp2(f64::from(e))).collect();
        let noise = self.noise(&factors);
        self.consumers.iter().map(|consumer| consumer.harm(&factors, &noise)).sum()
    }

    /// Per channel, the mean square of what is lost when activations are rounded, as seen by the unscaled weights.
    fn noise(&self, factors: &[f64]) -> Vec<f64> {
        let scaled: Vec<f64> = self.activations.iter().zip(factors).map(|(x, f)| x / f).collect();
        let noise = activation_noise(&scaled, &self.active, ACTIVATION_BLOCK);
        noise.iter().zip(factors).map(|(noise, factor)| noise * factor * factor).collect()
    }
}

impl Consumer {
    fn measure(model: &Model, statistics: &Statistics, key: TensorKey) -> Result<Consumer> {
        let name = key.gguf_name();
        let source = &model.tensor(key).ok_or(EvaluatorError::MissingTensor { tensor: key })?.source;
        let (rows, cols) = (source.rows(), source.cols());
        let missing = || Error::NoStatistics { matrix: name.clone() };
        let importance = statistics.importance(&name)?.ok_or_else(missing)?;
        let inputs = statistics.inputs(&name, cols)?.ok_or_else(missing)?.diagonal();
        let outputs = statistics.outputs(&name, rows)?.ok_or_else(missing)?.diagonal();
        let tokens = statistics.tokens(&name)?;
        let total: f64 = outputs.iter().map(|&g| f64::from(g)).sum::<f64>().max(f64::MIN_POSITIVE);
        let count = (SAMPLE_VALUES / cols.max(1)).clamp(1, rows);
        let sample: Vec<usize> = (0..count).map(|i| i * rows / count).collect();
        let mut values = vec![0.0; count * cols];
        let mut bytes = Vec::new();
        for (&row, values) in sample.iter().zip(values.chunks_exact_mut(cols)) {
            source.read_rows(row..row + 1, &mut bytes)?;
            codec::decode(source.dtype(), &bytes, values)?;
        }
        let sampled: f64 = sample.iter().map(|&row| f64::from(outputs[row])).sum();
        Ok(Consumer {
            cols,
            dtype: if cols.is_multiple_of(DType::Q4K.block_len()) { DType::Q4K } else { DType::Q4_0 },
            values,
            importance,
            inputs: inputs.iter().map(|&h| f64::from(h) / total).collect(),
            rows: sample
                .iter()
                .map(|&row| f64::from(outputs[row]) / sampled.max(f64::MIN_POSITIVE))
                .collect(),
            gradient: total / tokens,
        })
    }

    /// What rounding weights and activations costs, in nats a token, to second order.
    fn harm(&self, factors: &[f64], noise: &[f64]) -> f64 {
        let mut scaled = self.values.clone();
        for row in scaled.chunks_exact_mut(self.cols) {
            row.iter_mut().zip(factors).for_each(|(w, &f)| *w *= f as f32);
        }
        let mut importance: Vec<f32> =
            self.importance.iter().zip(factors).map(|(x, f)| (f64::from(*x) / (f * f)) as f32).collect();
        plmconv_quant::importance::raise_unreached(&mut importance);
        let mut blocks = vec![0; self.dtype.encoded_len(scaled.len()).unwrap_or_default()];
        let mut rounded = vec![0.0; scaled.len()];
        let encoded = codec::encode_rows(self.dtype, &scaled, self.cols, Some(&importance), &mut blocks)
            .and_then(|()| codec::decode(self.dtype, &blocks, &mut rounded));
        if encoded.is_err() {
            return f64::INFINITY;
        }
        let rows = self.values.chunks_exact(self.cols).zip(scaled.chunks_exact(self.cols));
        let mut harm = 0.0;
        for (((values, scaled), rounded), weight) in rows.zip(rounded.chunks_exact(self.cols)).zip(&self.rows)
        {
            let mut sum = 0.0;
            for col in 0..self.cols {
                let error = f64::from(rounded[col] - scaled[col]) / factors[col];
                let value = f64::from(values[col]);
                sum += error * error * self.inputs[col] + value * value * noise[col];
            }
            harm += sum * weight;
        }
        harm * self.gradient / 2.0
    }
}
