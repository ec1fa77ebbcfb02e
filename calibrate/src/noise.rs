//! What a runtime's rounding of activations loses, as far as second moments tell.

/// Steps of an 8-bit rounding on each side of zero.
const STEPS: f64 = 127.0;

/// Per channel, the mean square of what is lost when activations are rounded to 8 bits in blocks of `block_len`
/// channels that share a scale.
///
/// `sizes` are the channels' root mean squares, `active` the shares of tokens on which they are not zero: zero stays
/// zero.
pub(crate) fn activation_noise(sizes: &[f64], active: &[f64], block_len: usize) -> Vec<f64> {
    let mut noise = Vec::with_capacity(sizes.len());
    for (sizes, active) in sizes.chunks(block_len).zip(active.chunks(block_len)) {
        // The mean of a block's largest square: for many values of like size near seven tenths of the fourth root of the
        // sum of the eighth moments, which are 105 times the eighth power of a normal value's size; never more than
        // the sum of the squares, which it comes near where one channel stands out.
        let eighth: f64 = sizes.iter().map(|x| 105.0 * x.powi(8)).sum();
        let sum: f64 = sizes.iter().map(|x| x * x).sum();
        let largest = (0.7 * eighth.sqrt().sqrt()).min(sum);
        noise.extend(active.iter().map(|active| active * largest / (12.0 * STEPS * STEPS)));
    }
    noise
}

#[cfg(test)]
mod tests {
    use plmconv_quant::random::SplitMix64;
    use plmconv_validate::ActivationRounding;

    use super::*;

    #[test]
    fn it_is_what_rounding_loses() {
        let mut random = SplitMix64::new(7);
        // Sums of twelve uniform values are nearly normal.
        let mut normal = || (0..12).map(|_| random.next_f64()).sum::<f64>() - 6.0;
        let sizes: Vec<f64> =
            (0..512).map(|c| if c % 100 == 7 { 16.0 } else { 1.0 + c as f64 / 512.0 }).collect();
        for (rounding, block_len) in
            [(ActivationRounding::Blocks32, 32), (ActivationRounding::Blocks256, 256)]
        {
            let predicted: f64 = activation_noise(&sizes, &[1.0; 512], block_len).iter().sum();
            let mut lost = 0.0;
            for _ in 0..200 {
                let row: Vec<f32> = sizes.iter().map(|size| (size * normal()) as f32).collect();
                let mut rounded = row.clone();
                rounding.apply(&mut rounded);
                lost += row.iter().zip(&rounded).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / 200.0;
            }
            assert!((0.7..1.4).contains(&(predicted / lost)), "{block_len}: {predicted} not {lost}");
        }
    }
}
