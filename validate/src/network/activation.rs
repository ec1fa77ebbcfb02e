//! What the FFN does with its neurons. NaN passes through, so that it is seen; `max` would hide it.

/// Replaces negative values by zero.
pub fn rectify(values: &mut [f32]) {
    values.iter_mut().for_each(|x| *x = rectified(*x));
}

/// Replaces `x` by `relu(x)²`, PLM's activation.
pub fn squared_relu(values: &mut [f32]) {
    for x in values {
        let positive = rectified(*x);
        *x = positive * positive;
    }
}

#[inline]
fn rectified(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

/// Replaces `x` by `silu(gate) * x`, the activation of the latent layout's graph.
pub(crate) fn silu_gate(values: &mut [f32], gate: &[f32]) {
    for (x, g) in values.iter_mut().zip(gate) {
        *x *= g / (1.0 + libm::expf(-*g));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_values_are_zero_and_nan_stays() {
        let mut values = [-2.0, 0.0, 3.0, f32::NAN];
        squared_relu(&mut values);
        assert_eq!(values[..3], [0.0, 0.0, 9.0]);
        assert!(values[3].is_nan());
        let mut values = [-2.0, 3.0, f32::NAN];
        rectify(&mut values);
        assert_eq!(values[..2], [0.0, 3.0]);
        assert!(values[2].is_nan());
    }
}
