//! What calibration text tells about a model's matrices, and sums of it.

mod quadratic;
mod symmetric;

pub use symmetric::BlockSymmetric;

/// Mean squares of a matrix's input columns from sums and counts, as llama-quantize takes them from an importance
/// matrix: a part that no token reached counts as 1.
pub fn mean_squares(sums: &[f32], counts: &[f32]) -> Vec<f32> {
    let part = sums.len() / counts.len().max(1);
    let mean = |(i, sum): (usize, &f32)| {
        let count = counts[i / part.max(1)];
        if count > 0.0 { sum / count } else { 1.0 }
    };
    sums.iter().enumerate().map(mean).collect()
}
