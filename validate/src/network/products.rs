//! Products of activations, or of gradients, with weights.

use super::{Buffer, Input, Matrix, Rows, Workspace};
use crate::arithmetic::{ActivationRounding, Arithmetic};
use crate::kernels::Kernels;
use crate::linear::{Linear, Target};

/// The evaluator's products, in its own arithmetic. Their bits depend on neither CPU nor threads.
pub struct Products(Linear);

impl Products {
    /// With the fastest instructions of the process: in f32 if `exact`, otherwise operands are rounded to 16 bits in
    /// groups of 64 columns whose sums are exact.
    pub fn new(exact: bool) -> Products {
        Products(Linear::new(Kernels::best(), exact, Arithmetic::Exact))
    }

    /// What attention is computed with.
    pub fn workspace(&self) -> &Workspace {
        &self.0.workspace
    }

    /// `len` values of any content, in memory that is used again.
    pub fn buffer(&self, len: usize) -> Buffer<f32> {
        self.0.workspace.floats.take(len)
    }

    /// `len` zeros, in memory that is used again.
    pub fn zeros(&self, len: usize) -> Buffer<f32> {
        self.0.workspace.floats.zeroed(len)
    }

    /// Packs the left side of products.
    pub fn prepare<'a>(&self, rows: Rows<'a>) -> Input<'a> {
        self.0.prepare_rounded(rows, &[ActivationRounding::None])
    }

    /// `[rows of input, matrix.rows()]`: every row of the matrix times every row of the input.
    pub fn product(&self, input: &Input<'_>, matrix: &Matrix) -> Buffer<f32> {
        self.0.product(matrix, input)
    }

    /// The same into columns `offset..offset + matrix.rows()` of `out`, whose rows have `stride` values.
    pub fn product_into(
        &self,
        input: &Input<'_>,
        matrix: &Matrix,
        out: &mut [f32],
        stride: usize,
        offset: usize,
    ) {
        self.0.product_into(matrix, 0..matrix.rows, input, out, Target { stride, offset });
    }
}
