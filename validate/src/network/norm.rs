//! RMSNorm (arXiv 1910.07467): `x / rms(x) * weight`, row by row.

use rayon::prelude::*;

/// Sums that run side by side, so that vector instructions can add them up.
const LANES: usize = 8;

/// `1 / sqrt(mean of squares + eps)` of one row. Squares are added in f64, as llama.cpp and ONNX Runtime do.
pub fn rms_scale(row: &[f32], eps: f32) -> f32 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += square(x));
    }
    let squares: f64 = sums.iter().sum::<f64>() + rest.iter().map(|&x| square(x)).sum::<f64>();
    1.0 / ((squares / row.len() as f64) as f32 + eps).sqrt()
}

/// `x / rms(x) * weight` of every row of `weight.len()` values. `x` and `out` are `[rows, weight.len()]`.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let rows = out.par_chunks_exact_mut(weight.len()).zip(x.par_chunks_exact(weight.len()));
    rows.for_each(|(out, row)| {
        out.copy_from_slice(row);
        rms_norm_row(out, weight, eps);
    });
}

/// [`rms_norm`] of one row, in place.
pub fn rms_norm_row(row: &mut [f32], weight: &[f32], eps: f32) {
    let scale = rms_scale(row, eps);
    row.iter_mut().zip(weight).for_each(|(x, w)| *x *= scale * w);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_weight_as_their_root_mean_square() {
        let x: Vec<f32> = (0..2 * 19).map(|i| (i as f32 * 0.7).sin() * 40.0).collect();
        let weight = [0.5; 19];
        let mut out = vec![0.0; x.len()];
        rms_norm(&x, &weight, 0.0, &mut out);
        for row in out.chunks_exact(19) {
            let mean = row.iter().map(|x| x * x).sum::<f32>() / 19.0;
            assert!((mean.sqrt() - 0.5).abs() < 1e-6, "{mean}");
        }
        // eps counts beside the mean of the squares.
        assert_eq!(rms_scale(&[0.0; 4], 0.25), 2.0);
    }
}
