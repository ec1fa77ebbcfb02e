//! The roundings of ggml whose every bit matters.

/// Adding this moves the integer nearest to a float (ties to even) into the low mantissa bits.
pub(super) const ROUNDING_MAGIC: f32 = 12_582_912.0;

/// ggml's `nearest_int`: exact for |value| < 2^22, and beyond that whatever the mantissa bits say, which is
/// still part of the format's reference encoder.
#[inline(always)]
pub(super) fn nearest_int(value: f32) -> i32 {
    let bits = (value + ROUNDING_MAGIC).to_bits() as i32;
    (bits & 0x007f_ffff) - 0x0040_0000
}

/// f32 to half-precision bits, ties to even. A NaN becomes ggml's canonical one with the sign kept.
pub(super) fn half_bits(value: f32) -> [u8; 2] {
    let half = if value.is_nan() {
        0x7e00 | ((value.to_bits() >> 16) as u16 & 0x8000)
    } else {
        half::f16::from_f32(value).to_bits()
    };
    half.to_le_bytes()
}

/// Half-precision bits to f32.
#[inline(always)]
pub(super) fn half_value(bits: [u8; 2]) -> f32 {
    half::f16::from_le_bytes(bits).to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_int_rounds_ties_to_even_and_wraps_far_out() {
        for (value, expected) in [(0.5, 0), (1.5, 2), (-0.5, 0), (-1.5, -2), (2.49, 2), (4194303.0, 4194303)]
        {
            assert_eq!(nearest_int(value), expected, "{value}");
        }
        assert_eq!(nearest_int(f32::INFINITY), -0x0040_0000);
        // 2^24 + 1.5 * 2^23 is 1.75 * 2^24: the mantissa bits are 0x600000.
        assert_eq!(nearest_int(16_777_216.0), 0x0020_0000);
    }

    #[test]
    fn half_keeps_the_sign_of_nan_and_overflows_to_infinity() {
        assert_eq!(half_bits(f32::NAN), 0x7e00_u16.to_le_bytes());
        assert_eq!(half_bits(-f32::NAN), 0xfe00_u16.to_le_bytes());
        assert_eq!(half_bits(1e6), 0x7c00_u16.to_le_bytes());
        assert_eq!(half_value(half_bits(-1.5)), -1.5);
    }
}
