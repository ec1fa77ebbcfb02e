//! Channels rescaled so that rounding harms them less: calibration says by which powers of two.

use std::sync::Arc;

use plmconv_calibrate::{Balance, Exponents};
use plmconv_formats::model::Tensor;

use super::values::{Exact, Scaled, replace};

/// Multiplies rows and columns of tensors as `balance` says.
pub fn apply(tensors: &mut [Tensor], balance: &Balance) {
    for tensor in tensors {
        if let Some(Exponents { columns, rows }) = balance.of(tensor.key) {
            replace(tensor, Exact::PowerOfTwo, |source| Scaled {
                source,
                factor: 1.0,
                row_factors: factors(rows),
                column_factors: factors(columns),
            });
        }
    }
}

fn factors(exponents: &[i8]) -> Option<Arc<[f32]>> {
    let factor = |&exponent: &i8| libm::ldexpf(1.0, i32::from(exponent));
    (!exponents.is_empty()).then(|| exponents.iter().map(factor).collect())
}
