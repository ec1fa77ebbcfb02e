//! A model with outlier channels such as large models have, made from one without.

use half::bf16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

/// Multiplies some channels of every norm of a bf16 `model.safetensors` by 32 and divides the columns behind it: the
/// same function, exactly.
pub fn with_outliers(bytes: &[u8]) -> Vec<u8> {
    let tensors = SafeTensors::deserialize(bytes).expect("the fixture");
    let outlier = |channel: usize| channel % 97 == 13;
    let scaled = |name: &str, tensor: &TensorView<'_>| {
        assert_eq!(tensor.dtype(), Dtype::BF16);
        let cols = *tensor.shape().last().expect("an axis");
        let power = match name.rsplit('.').nth(1).expect("a module") {
            "input_layernorm" | "kv_a_layernorm" | "post_attention_layernorm" => 5,
            "q_proj" | "kv_a_proj_with_mqa" | "kv_b_proj" | "up_proj" => -5,
            _ => 0,
        };
        let mut out = tensor.data().to_vec();
        for (index, half) in out.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let value = bf16::from_le_bytes(*half);
            if outlier(index % cols) && value.to_f32() != 0.0 {
                *half = bf16::from_f32(value.to_f32() * 2f32.powi(power)).to_le_bytes();
            }
        }
        out
    };
    let all: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| (name.to_string(), tensor.shape().to_vec(), scaled(name, &tensor)))
        .collect();
    let views = all.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("a tensor's bytes"))
    });
    safetensors::serialize(views, None).expect("writes")
}
