//! The few scalar operations whose exact bits matter, as the C of ggml computes them on x86-64.

/// Truncation toward zero as the processor's own conversion does it: what does not fit in 32 bits becomes
/// `i32::MIN`. Rust's `as` saturates instead, which would differ where a subnormal scale's inverse is
/// infinite.
#[inline(always)]
pub(crate) fn truncate(value: f32) -> i32 {
    // Saturation and NaN are put right by one comparison, which compiles to vector code.
    let saturated = value as i32;
    if value.abs() < 2147483648.0 { saturated } else { i32::MIN }
}

/// The largest f32 below one half.
pub(crate) const BELOW_HALF: f32 = 0.499_999_97;

/// C's `roundf` followed by a conversion to an integer: halves go away from zero.
///
/// Adding the number just below one half and truncating is exact where adding one half is not
/// (0.49999997 must become 0).
#[inline(always)]
pub(crate) fn round_half_away(value: f32) -> i32 {
    truncate(value + BELOW_HALF.copysign(value))
}

/// Adding this (1.5 * 2^23) moves the integer nearest to a float below 2^22, halves to even, into the low mantissa bits;
/// subtracting it again leaves that integer as a float.
pub(crate) const ROUNDING_MAGIC: f32 = 12_582_912.0;

/// `nearest_int` in ggml-quants.c: exact for |value| < 2^22, and beyond that whatever the mantissa bits say, which is
/// still part of the formats' reference encoders.
#[inline(always)]
pub(crate) fn nearest_int(value: f32) -> i32 {
    let bits = (value + ROUNDING_MAGIC).to_bits() as i32;
    (bits & 0x007f_ffff) - 0x0040_0000
}

/// 1 / `value`, or 0 for 0: how ggml inverts every scale.
#[inline(always)]
pub(crate) fn inverse_or_zero(value: f32) -> f32 {
    if value != 0.0 { 1.0 / value } else { 0.0 }
}

/// Values that are reduced side by side: a reduction over floats in one chain cannot be vectorized, because the
/// compiler may not reorder it. Minima and maxima of finite values do not mind the order (but for signed zeros).
const LANES: usize = 8;

/// The largest magnitude of finite values; 0 for none.
#[inline(always)]
pub(crate) fn largest_magnitude(values: &[f32]) -> f32 {
    let (groups, rest) = values.as_chunks::<LANES>();
    let larger = |max: f32, v: f32| if max > v.abs() { max } else { v.abs() };
    let mut lanes = [0.0_f32; LANES];
    for group in groups {
        for (max, v) in lanes.iter_mut().zip(group) {
            *max = larger(*max, *v);
        }
    }
    lanes.iter().chain(rest).fold(0.0, |max, v| larger(max, *v))
}

/// The value of largest magnitude with its sign, the first of equals; 0 when all are zero.
#[inline(always)]
pub(crate) fn signed_max(values: &[f32]) -> f32 {
    let magnitude = largest_magnitude(values);
    if magnitude == 0.0 {
        return 0.0;
    }
    // Mostly one sign has it; only where both have does the first count.
    let has = |wanted: f32| values.iter().fold(false, |any, v| any | (*v == wanted));
    match (has(magnitude), has(-magnitude)) {
        (true, true) => values.iter().copied().find(|v| v.abs() == magnitude).unwrap_or(magnitude),
        (false, true) => -magnitude,
        _ => magnitude,
    }
}

/// The value of largest magnitude with its sign, the first of equals; 0 for none. NaN is passed over, as by C's
/// comparisons.
#[inline(always)]
pub(crate) fn peak(values: impl Iterator<Item = f32>) -> f32 {
    let (mut peak, mut magnitude) = (0.0, 0.0);
    for value in values {
        if value.abs() > magnitude {
            magnitude = value.abs();
            peak = value;
        }
    }
    peak
}

/// The smallest and the largest value, the first of equals (zeros of both signs are equal).
#[inline(always)]
pub(crate) fn range<const N: usize>(values: &[f32; N]) -> (f32, f32) {
    let lower = |min: f32, v: f32| if v < min { v } else { min };
    let upper = |max: f32, v: f32| if v > max { v } else { max };
    let (groups, rest) = values.as_chunks::<LANES>();
    let (mut mins, mut maxes) = ([f32::MAX; LANES], [-f32::MAX; LANES]);
    for group in groups {
        for lane in 0..LANES {
            mins[lane] = lower(mins[lane], group[lane]);
            maxes[lane] = upper(maxes[lane], group[lane]);
        }
    }
    let min = mins.iter().chain(rest).fold(f32::MAX, |min, v| lower(min, *v));
    let max = maxes.iter().chain(rest).fold(-f32::MAX, |max, v| upper(max, *v));
    let first_zero = || values.iter().copied().find(|v| *v == 0.0).unwrap_or(0.0);
    (if min == 0.0 { first_zero() } else { min }, if max == 0.0 { first_zero() } else { max })
}

/// Sum of squares in order of the values: float addition does not commute, and the order is ggml's.
#[inline(always)]
pub(crate) fn sum_of_squares(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |sum, value| sum + value * value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_half_away_from_zero_around_every_half() {
        for twice in -600..=600 {
            let middle = twice as f32 / 2.0;
            for bits in middle.to_bits().saturating_sub(3)..=middle.to_bits() + 3 {
                let value = f32::from_bits(bits);
                assert_eq!(round_half_away(value), value.round() as i32, "{value:e}");
            }
        }
    }

    #[test]
    fn nearest_int_is_half_to_even_and_wraps_far_out() {
        for twice in -600..=600 {
            let value = twice as f32 / 2.0;
            assert_eq!(nearest_int(value), value.round_ties_even() as i32);
        }
        assert_eq!(nearest_int(4_194_303.0), 4_194_303);
        assert_eq!(nearest_int(f32::INFINITY), -0x0040_0000);
        // 2^24 + 1.5 * 2^23 is 1.75 * 2^24: the mantissa bits are 0x600000.
        assert_eq!(nearest_int(16_777_216.0), 0x0020_0000);
    }

    #[test]
    fn truncation_marks_what_does_not_fit() {
        assert_eq!(truncate(-7.9), -7);
        assert_eq!(truncate(f32::INFINITY), i32::MIN);
        assert_eq!(truncate(f32::NAN), i32::MIN);
        assert_eq!(truncate(2147483648.0), i32::MIN);
        assert_eq!(truncate(2147483520.0), 2147483520);
    }

    #[test]
    fn the_first_of_equal_magnitudes_wins() {
        assert_eq!(signed_max(&[1.0, -3.0, 3.0]), -3.0);
        assert_eq!(signed_max(&[1.0, 3.0, -3.0]), 3.0);
        assert_eq!(signed_max(&[-0.0, 0.0]).to_bits(), 0);
        let many: Vec<f32> = (0..40).map(|i| if i == 23 { -7.0 } else { (i % 7) as f32 }).collect();
        assert_eq!(signed_max(&many), -7.0);
    }

    #[test]
    fn the_first_zero_is_the_minimum() {
        let mut values = [1.0; 32];
        (values[9], values[17]) = (-0.0, 0.0);
        assert_eq!(range(&values).0.to_bits(), (-0.0_f32).to_bits());
        values[3] = 0.0;
        assert_eq!(range(&values).0.to_bits(), 0);
        values = values.map(|v| -v);
        assert_eq!(range(&values), (-1.0, 0.0));
        assert_eq!(range(&values).1.to_bits(), (-0.0_f32).to_bits());
    }
}
