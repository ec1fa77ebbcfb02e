//! Products with a layer's weights, forward and backward.

use plmconv_formats::{Model, TensorKey};
use plmconv_quant::product::{self, SparseMatrix, add_sparse_product, sampled_product};
use plmconv_validate::Error as EvaluatorError;
use plmconv_validate::network::{Buffer, Input, Matrix, Products, Rows};

use crate::error::Result;

/// A matrix that values pass in both directions.
pub(super) struct Weight {
    pub forward: Matrix,
    /// Its columns as rows.
    backward: Matrix,
}

impl Weight {
    pub fn load(model: &Model, key: TensorKey) -> Result<Weight> {
        let forward = Matrix::load(model, key)?;
        let backward = transposed(&forward, key)?;
        Ok(Weight { forward, backward })
    }

    /// `[tokens, cols]`: the gradient by the input, given that by the output, `[tokens, rows]`.
    pub fn backward(&self, products: &Products, gradient: &[f32]) -> Buffer<f32> {
        let input = products.prepare(Rows::all(gradient, self.backward.cols()));
        products.product(&input, &self.backward)
    }

    /// `[tokens, rows]`
    pub fn forward(&self, products: &Products, x: &Input<'_>) -> Buffer<f32> {
        products.product(x, &self.forward)
    }
}

/// Columns as rows.
///
/// # Errors
/// Weights of quantized types.
pub(super) fn transposed(matrix: &Matrix, key: TensorKey) -> Result<Matrix> {
    let quantized = || EvaluatorError::UnsupportedType { tensor: key, dtype: matrix.dtype() };
    Ok(matrix.transposed().ok_or_else(quantized)?)
}

/// An f32 matrix whose rows belong to neurons, row-major.
#[derive(Debug)]
pub(super) struct Neurons {
    /// `[neurons, width]`
    values: Vec<f32>,
    width: usize,
}

impl Neurons {
    pub fn new(matrix: &Matrix) -> Neurons {
        Neurons { values: matrix.values(), width: matrix.cols() }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn count(&self) -> usize {
        self.values.len() / self.width
    }

    /// Adds to `into` (`[tokens, width]`) the rows of the neurons that fire, each times its value in `x` (`[tokens,
    /// neurons]`).
    pub fn add_product(&self, x: &SparseMatrix, into: &mut [f32]) {
        let rows = product::Matrix::new(&self.values, self.count(), self.width);
        add_sparse_product(x, 0..x.rows(), rows, into, self.width);
    }

    /// Every row times every row of `x` (`[tokens, width]`), where `places` (`[tokens, neurons]`) has values.
    pub fn sampled_product(&self, x: &[f32], places: &SparseMatrix) -> SparseMatrix {
        sampled_product(x, &self.values, self.width, places)
    }
}
