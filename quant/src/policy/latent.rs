//! Which type a preset gives each tensor in the latent layout.
//!
//! llama-quantize knows no better than its `plm` mixtures for these models, so the mixtures are ours. They follow
//! from measurements of what each matrix's rounding does to the output (docs/latent.md):
//!
//! - `ffn_gate` makes up for the rounding of `ffn_up`, so what counts to first order is the gate's rounding
//!   halved, and to second order that of `up`: the pair does with coarser types than one copy.
//! - The pair costs most in the first and the last layers: there its gate gets more bits.
//! - The rounding of `ffn_down` costs most after that, evenly over layers, and that of `attn_kv_a_mqa` costs
//!   far more than its size would suggest, as the latent feeds every head.
//! - `attn_k_b` hardly matters, and its rows are as long as a head's position-free part (128), which blocks of
//!   256 do not divide: it gets a type with blocks of 32.

use plmconv_formats::DType;

use super::FileType;

/// Types of one preset's matrices.
#[derive(Clone, Copy, Debug)]
struct Mix {
    kv_a: DType,
    key_b: DType,
    value_b: DType,
    attention_output: DType,
    up: DType,
    gate: DType,
    /// The gate of the first and the last layers.
    outer_gate: DType,
    down: DType,
}

/// The mixture of a preset, or `None` where every matrix gets the base type.
fn mix(file_type: FileType) -> Option<Mix> {
    use DType::{Iq4Xs, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5K, Q6K, Q8_0};
    let row = |kv_a, key_b, value_b, attention_output, up, gate, outer_gate, down| {
        Some(Mix { kv_a, key_b, value_b, attention_output, up, gate, outer_gate, down })
    };
    match file_type {
        FileType::Q2K | FileType::Q2KS => row(Q4K, Q4_0, Q3K, Q3K, Q2K, Q2K, Q3K, Q3K),
        FileType::Q3KS => row(Q4K, Q4_0, Q3K, Q3K, Q2K, Q3K, Q3K, Q3K),
        FileType::Q3KM => row(Q4K, Q4_0, Q4K, Q4K, Q2K, Q3K, Q4K, Q4K),
        FileType::Q3KL => row(Q5K, Q4_0, Q4K, Q4K, Q3K, Q3K, Q4K, Q4K),
        FileType::Q4KS => row(Q5K, Q4_0, Q4K, Q4K, Q3K, Q3K, Q4K, Q4K),
        FileType::Q4KM => row(Q5K, Q4_0, Q4K, Q4K, Q3K, Q3K, Q4K, Q5K),
        FileType::Iq4Xs => row(Q5K, Q4_0, Iq4Xs, Iq4Xs, Q3K, Q3K, Iq4Xs, Iq4Xs),
        FileType::Q5KS => row(Q6K, Q5_0, Q5K, Q5K, Q3K, Q4K, Q5K, Q5K),
        FileType::Q5KM => row(Q6K, Q5_0, Q5K, Q5K, Q3K, Q4K, Q5K, Q6K),
        FileType::Q6K => row(Q8_0, Q8_0, Q6K, Q6K, Q4K, Q5K, Q6K, Q6K),
        _ => None,
    }
}

/// The first and the last eighth of the layers, at least one each.
fn is_outer(layer: usize, layers: usize) -> bool {
    let eighth = (layers / 8).max(1);
    layer < eighth || layer + eighth >= layers
}

/// The layer a tensor belongs to, from its name.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// The type for the layer tensor of this name in a model of `layers` layers, before any fallback for its shape.
pub(super) fn choose(file_type: FileType, name: &str, layers: usize) -> DType {
    let base = file_type.base();
    let Some(mix) = mix(file_type) else { return base };
    let outer = layer_of(name).is_some_and(|layer| is_outer(layer, layers));
    let types = [
        ("attn_kv_a_mqa", mix.kv_a),
        ("attn_k_b", mix.key_b),
        ("attn_v_b", mix.value_b),
        ("attn_output", mix.attention_output),
        ("ffn_up", mix.up),
        ("ffn_gate", if outer { mix.outer_gate } else { mix.gate }),
        ("ffn_down", mix.down),
    ];
    types.iter().find(|(part, _)| name.contains(part)).map_or(base, |(_, dtype)| *dtype)
}

/// Whether a model with this tensor is in the latent layout.
pub(super) fn is_latent(name: &str) -> bool {
    name.ends_with("attn_k_b.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pair_is_coarser_than_one_copy_and_finer_at_the_ends() {
        let of = |name: &str| choose(FileType::Q4KM, name, 32);
        assert_eq!(of("blk.9.ffn_up.weight"), DType::Q3K);
        assert_eq!(of("blk.9.ffn_gate.weight"), DType::Q3K);
        for layer in [0, 3, 28, 31] {
            assert_eq!(of(&format!("blk.{layer}.ffn_gate.weight")), DType::Q4K, "layer {layer}");
        }
        assert_eq!(of("blk.4.ffn_gate.weight"), DType::Q3K);
        assert_eq!(choose(FileType::Q4KM, "blk.5.ffn_gate.weight", 6), DType::Q4K);
        assert_eq!(of("blk.9.attn_q.weight"), DType::Q4K);
    }

    #[test]
    fn types_of_32_values_have_no_mixture() {
        for file_type in [FileType::Q4_0, FileType::Q8_0, FileType::F16, FileType::Tq1_0] {
            assert_eq!(choose(file_type, "blk.0.ffn_gate.weight", 6), file_type.base());
        }
    }
}
