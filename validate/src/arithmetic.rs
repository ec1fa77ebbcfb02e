//! What a runtime rounds before it multiplies. Weights are as the file has them; activations are rounded by the
//! runtime, and that is part of a file's divergence wherever it runs.

use half::{bf16, f16};
use plmconv_formats::DType;

/// Whose arithmetic is computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Arithmetic {
    /// Nobody's: activations are not rounded, so that only the weights count.
    #[default]
    Exact,
    /// That of llama.cpp on a CPU: activations are rounded as the weight's type asks for (`vec_dot_type` in ggml-cpu),
    /// keys, values and what meets them to half precision.
    Llama,
}

impl Arithmetic {
    /// `exact` or `llama`.
    pub fn name(self) -> &'static str {
        match self {
            Arithmetic::Exact => "exact",
            Arithmetic::Llama => "llama",
        }
    }

    /// How activations are rounded before they are multiplied with weights of a type.
    pub fn rounding(self, weights: DType) -> ActivationRounding {
        match self {
            Arithmetic::Exact => ActivationRounding::None,
            Arithmetic::Llama => ActivationRounding::of_llama(weights),
        }
    }

    /// Whether attention keeps and multiplies half-precision numbers.
    pub(crate) fn half_precision_cache(self) -> bool {
        self == Arithmetic::Llama
    }
}

/// How activations are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationRounding {
    /// Not at all.
    None,
    /// To half precision.
    F16,
    /// To bfloat16.
    Bf16,
    /// 8 bits in blocks of 32, with a half-precision scale: ggml's Q8_0 and Q8_1.
    Blocks32,
    /// 8 bits in blocks of 256, with an f32 scale: ggml's Q8_K.
    Blocks256,
}

impl ActivationRounding {
    fn of_llama(weights: DType) -> ActivationRounding {
        use DType::*;
        match weights {
            F16 => ActivationRounding::F16,
            Bf16 => ActivationRounding::Bf16,
            Q1_0 | Q2_0 | Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | Q8_1 | Iq4Nl | Mxfp4 | Nvfp4 => {
                ActivationRounding::Blocks32
            }
            Q2K | Q3K | Q4K | Q5K | Q6K | Q8K | Iq4Xs | Tq1_0 | Tq2_0 | Iq1S | Iq1M | Iq2Xxs | Iq2Xs
            | Iq2S | Iq3Xxs | Iq3S => ActivationRounding::Blocks256,
            F32 | F64 | I8 | I16 | I32 | I64 => ActivationRounding::None,
        }
    }

    /// Values that share a scale of 8 bits, if any do.
    pub fn block_len(self) -> Option<usize> {
        match self {
            ActivationRounding::Blocks32 => Some(32),
            ActivationRounding::Blocks256 => Some(256),
            ActivationRounding::None | ActivationRounding::F16 | ActivationRounding::Bf16 => None,
        }
    }

    /// Replaces a row by what is left of it.
    pub fn apply(self, row: &mut [f32]) {
        match self {
            ActivationRounding::None => {}
            ActivationRounding::F16 => row.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
            ActivationRounding::Bf16 => row.iter_mut().for_each(|x| *x = bf16::from_f32(*x).to_f32()),
            ActivationRounding::Blocks32 => row.chunks_mut(32).for_each(round_q8_0),
            ActivationRounding::Blocks256 => row.chunks_mut(256).for_each(round_q8_k),
        }
    }
}

/// One block of Q8_0 (`quantize_row_q8_0` of ggml-cpu, whose vector code rounds halves to even).
fn round_q8_0(block: &mut [f32]) {
    let largest = block.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let inverse = 127.0 / largest;
    if !inverse.is_finite() {
        return block.fill(0.0);
    }
    let scale = f16::from_f32(largest / 127.0).to_f32();
    block.iter_mut().for_each(|x| *x = scale * (*x * inverse).round_ties_even());
}

/// One block of Q8_K (`quantize_row_q8_K_ref`): the value of largest magnitude becomes -127.
fn round_q8_k(block: &mut [f32]) {
    let largest = block.iter().fold(0.0f32, |m, x| if x.abs() > m.abs() { *x } else { m });
    let inverse = -127.0 / largest;
    if !inverse.is_finite() {
        return block.fill(0.0);
    }
    block.iter_mut().for_each(|x| *x = (*x * inverse).round_ties_even().min(127.0) / inverse);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_too_small_for_a_scale_is_zero() {
        // Whatever codes ggml's quantizers make of such values, their scale is zero. silu makes them.
        for rounding in [ActivationRounding::Blocks32, ActivationRounding::Blocks256] {
            for value in [0.0, 1e-44, -3e-39] {
                let mut row = [0.0; 256];
                row[7] = value;
                rounding.apply(&mut row);
                assert_eq!(row, [0.0; 256], "{rounding:?} {value}");
            }
        }
    }

    #[test]
    fn eight_bits_keep_the_largest_value_and_multiples_of_its_step() {
        let row: Vec<f32> = (0..256).map(|i| (i % 128) as f32 * 2.0).collect();
        for rounding in [ActivationRounding::Blocks256, ActivationRounding::Blocks32] {
            let mut rounded = row.clone();
            rounding.apply(&mut rounded);
            let largest_of_block = |i: usize| match rounding {
                ActivationRounding::Blocks256 => 254.0,
                _ => row[i / 32 * 32 + 31],
            };
            for (i, (a, b)) in row.iter().zip(&rounded).enumerate() {
                // A half-precision scale is off by up to 2^-11 of itself.
                let step = largest_of_block(i) / 127.0;
                assert!((a - b).abs() <= step / 2.0 + a / 1024.0, "{rounding:?} {i}: {a} {b}");
            }
        }
    }
}
