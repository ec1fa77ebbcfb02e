//! The few scalar operations whose exact bits matter, as the C of ggml computes them on x86-64.

/// Truncation toward zero as the processor's own conversion does it: what does not fit in 32 bits becomes
/// `i32::MIN`. Rust's `as` saturates instead, which would differ where a subnormal scale's inverse is
/// infinite.
#[inline(always)]
pub(crate) fn truncate(value: f32) -> i32 {
    if (-2147483648.0..2147483648.0).contains(&value) { value as i32 } else { i32::MIN }
}

/// C's `roundf` followed by a conversion to an integer: halves go away from zero.
///
/// Adding the number just below one half and truncating is exact where adding one half is not
/// (0.49999997 must become 0).
#[inline(always)]
pub(crate) fn round_half_away(value: f32) -> i32 {
    const BELOW_HALF: f32 = 0.499_999_97;
    truncate(value + BELOW_HALF.copysign(value))
}

/// Nearest integer, halves to even, for |value| < 2^22: the addition of 1.5 * 2^23 leaves the integer in the
/// low mantissa bits (`nearest_int` in ggml-quants.c).
#[inline(always)]
pub(crate) fn nearest_int(value: f32) -> i32 {
    let bits = (value + 12_582_912.0).to_bits() as i32;
    (bits & 0x007f_ffff) - 0x0040_0000
}

/// 1 / `value`, or 0 for 0: how ggml inverts every scale.
#[inline(always)]
pub(crate) fn inverse_or_zero(value: f32) -> f32 {
    if value != 0.0 { 1.0 / value } else { 0.0 }
}

/// The value of largest magnitude with its sign, the first of equals; 0 when all are zero.
#[inline(always)]
pub(crate) fn signed_max(values: &[f32]) -> f32 {
    let (mut magnitude, mut max) = (0.0, 0.0);
    for &value in values {
        if magnitude < value.abs() {
            magnitude = value.abs();
            max = value;
        }
    }
    max
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
    fn nearest_int_is_half_to_even() {
        for twice in -600..=600 {
            let value = twice as f32 / 2.0;
            assert_eq!(nearest_int(value), value.round_ties_even() as i32);
        }
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
    }
}
