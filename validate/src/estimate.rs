//! Means with their standard errors, as llama-perplexity computes them.

/// A running mean of f64 values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Mean {
    sum: f64,
    squares: f64,
    count: usize,
}

impl Mean {
    /// Takes one more value.
    pub fn add(&mut self, value: f64) {
        self.sum += value;
        self.squares += value * value;
        self.count += 1;
    }

    /// Values taken.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The mean, 0 of nothing.
    pub fn value(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum / self.count as f64 }
    }

    /// The mean's standard error; 0 for fewer than two values.
    pub fn error(&self) -> f64 {
        if self.count < 2 {
            return 0.0;
        }
        let variance = self.squares / self.count as f64 - self.value() * self.value();
        (at_least_zero(variance) / (self.count - 1) as f64).sqrt()
    }
}

/// What rounding took below zero is zero. NaN stays NaN, unlike with `max`: it must not pass for a good result.
pub(crate) fn at_least_zero(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

/// A value and its standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error.
    pub error: f64,
}

impl Estimate {
    /// The mean and its standard error.
    pub fn of(mean: &Mean) -> Estimate {
        Estimate { value: mean.value(), error: mean.error() }
    }

    /// exp of an estimate, its error by the derivative.
    pub fn exp(self) -> Estimate {
        let value = libm::exp(self.value);
        Estimate { value, error: value * self.error }
    }
}

/// Linear interpolation between the order statistics of `sorted`; `fraction` from 0 to 1.
pub fn percentile(sorted: &[f32], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let place = fraction.clamp(0.0, 1.0) * last as f64;
    let low = place.floor() as usize;
    let part = place - low as f64;
    (1.0 - part) * sorted[low] as f64 + part * sorted[(low + 1).min(last)] as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_of_the_mean() {
        let mut mean = Mean::default();
        [1.0, 2.0, 3.0, 4.0].into_iter().for_each(|x| mean.add(x));
        assert_eq!(mean.value(), 2.5);
        // Population variance 1.25, over n - 1.
        assert!((mean.error() - (1.25f64 / 3.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn nan_is_no_good_result() {
        let mut mean = Mean::default();
        [1.0, f64::NAN].into_iter().for_each(|x| mean.add(x));
        assert!(mean.value().is_nan() && mean.error().is_nan());
        assert_eq!((at_least_zero(-1e-9), at_least_zero(0.5)), (0.0, 0.5));
    }

    #[test]
    fn percentiles_interpolate() {
        let sorted = [0.0, 1.0, 2.0, 10.0];
        assert_eq!(percentile(&sorted, 0.5), 1.5);
        assert_eq!(percentile(&sorted, 1.0), 10.0);
        assert!((percentile(&sorted, 0.9) - 7.6).abs() < 1e-6);
        assert_eq!(percentile(&[], 0.5), 0.0);
    }
}
