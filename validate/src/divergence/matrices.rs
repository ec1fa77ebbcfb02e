//! Which matrices a runtime's rounding of activations harms: what it changes of their products, for some tokens.

use std::collections::BTreeMap;

use plmconv_formats::{Role, TensorKey};

use crate::arithmetic::Arithmetic;
use crate::evaluator::Evaluator;
use crate::linear::{Linear, Rows};
use crate::site::{Point, Site};
use crate::weights::{KvB, Matrix, Query, Weights};

/// Rows of each site that are kept: all sites are held at once, and their products are computed in f32.
const ROWS: usize = 24;

/// What rounding of activations does to one matrix's product.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MatrixRounding {
    /// The matrix.
    pub matrix: TensorKey,
    /// Squared change of the product over its square.
    pub relative_error: f64,
}

/// Inputs of every matrix that an observer sees: `[rows, cols]`.
#[derive(Default)]
pub(super) struct MatrixProbe {
    inputs: BTreeMap<Site, Vec<f32>>,
}

impl MatrixProbe {
    /// For a candidate whose arithmetic rounds activations.
    pub fn of(candidate: &Evaluator) -> Option<MatrixProbe> {
        (candidate.options().arithmetic != Arithmetic::Exact).then(MatrixProbe::default)
    }

    /// Keeps rows of the first batch.
    pub fn see(&mut self, candidate: &Evaluator, site: Site, values: &[f32]) {
        let weights = &candidate.model.weights;
        if let Some((_, matrix)) = readers(weights, site).first() {
            self.inputs.entry(site).or_insert_with(|| {
                let step = (values.len() / matrix.cols).div_ceil(ROWS).max(1);
                values.chunks_exact(matrix.cols).step_by(step).flatten().copied().collect()
            });
        }
    }

    /// The matrices in the order of the layers.
    pub fn finish(self, candidate: &Evaluator) -> Vec<MatrixRounding> {
        let weights = &candidate.model.weights;
        let workspace = &candidate.model.linear.workspace;
        let linear = Linear::new(workspace.kernels, true, Arithmetic::Exact);
        let rounding = |matrix: &Matrix| candidate.options().arithmetic.rounding(matrix.dtype);
        let of_site = |(site, inputs): (Site, Vec<f32>)| {
            let found = readers(weights, site).into_iter().map(|(role, matrix)| {
                let mut lost = inputs.clone();
                lost.chunks_exact_mut(matrix.cols).for_each(|row| rounding(matrix).apply(row));
                lost.iter_mut().zip(&inputs).for_each(|(rounded, x)| *rounded -= x);
                let relative_error = square(&linear, matrix, &lost) / square(&linear, matrix, &inputs);
                let matrix = TensorKey { layer: site.layer, role };
                MatrixRounding { matrix, relative_error }
            });
            found.collect::<Vec<_>>()
        };
        // The head's site is of no layer, which sorts before all others.
        let (head, layers): (Vec<_>, Vec<_>) =
            self.inputs.into_iter().partition(|(site, _)| site.layer.is_none());
        candidate.install(|| layers.into_iter().chain(head).flat_map(of_site).collect())
    }
}

/// The matrices that are multiplied with a site's activations.
fn readers(weights: &Weights, site: Site) -> Vec<(Role, &Matrix)> {
    let Some(layer) = site.layer.map(|layer| &weights.layers[layer]) else {
        return vec![(Role::TokenEmbedding, &weights.embedding)];
    };
    match (site.point, &layer.query, &layer.kv_b) {
        (Point::AttentionInput, Query::Direct(matrix), _) => {
            vec![(Role::Query, matrix), (Role::KvA, &layer.kv_a)]
        }
        (Point::AttentionInput, Query::LowRank { a, .. }, _) => {
            vec![(Role::QueryA, a), (Role::KvA, &layer.kv_a)]
        }
        (Point::QueryLatent, Query::LowRank { b, .. }, _) => vec![(Role::QueryB, b)],
        (Point::KvLatent, _, KvB::Joint(matrix)) => vec![(Role::KvB, matrix)],
        (Point::AttentionOutput, ..) => vec![(Role::AttentionOutput, &layer.attention_output)],
        (Point::FfnInput, ..) => {
            let gate = layer.ffn.gate.iter().map(|gate| (Role::FfnGate, gate));
            gate.chain([(Role::FfnUp, &layer.ffn.up)]).collect()
        }
        (Point::FfnHidden, ..) => vec![(Role::FfnDown, &layer.ffn.down)],
        // The latent layout multiplies its split kv_b with queries and weighted latents, which no observer sees.
        (Point::QueryLatent | Point::KvLatent | Point::FfnUp | Point::LayerOutput | Point::HeadInput, ..) => {
            Vec::new()
        }
    }
}

/// Sum of the squares of a product.
fn square(linear: &Linear, matrix: &Matrix, inputs: &[f32]) -> f64 {
    let input = linear.prepare(Rows::all(inputs, matrix.cols), &[matrix]);
    linear.product(matrix, &input).iter().map(|&x| f64::from(x).powi(2)).sum()
}
