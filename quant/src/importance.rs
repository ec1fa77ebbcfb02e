//! Importance: how much the squared error of each column of a matrix weighs, as llama.cpp's importance matrices have it.

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

/// What a column counts at least, as a share of the mean over all columns.
const LEAST_SHARE: f32 = 1e-3;

/// Raises the importance of columns that the text (nearly) never reached: another text may reach them, and a block
/// in which nothing counts has no best scale. Where no column was reached, all count the same.
pub fn raise_unreached(importance: &mut [f32]) {
    let sum: f64 = importance.iter().map(|&x| f64::from(x)).sum();
    let mean = (sum / importance.len().max(1) as f64) as f32;
    let least = if mean > 0.0 { LEAST_SHARE * mean } else { 1.0 };
    importance.iter_mut().for_each(|x| *x = x.max(least));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_never_reached_keeps_a_little_importance() {
        let mut some = [4.0, 0.0, 0.0, 0.0];
        raise_unreached(&mut some);
        assert_eq!(some, [4.0, 1e-3, 1e-3, 1e-3]);
        let mut none = [0.0; 3];
        raise_unreached(&mut none);
        assert_eq!(none, [1.0; 3]);
    }
}
