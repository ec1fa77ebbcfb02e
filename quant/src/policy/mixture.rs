//! Which type a preset gives each tensor: llama-quantize's mixtures (`llama_tensor_get_type_impl` in
//! llama-quant.cpp), for dense models, in the presets of [`FileType`].

use plmconv_formats::DType;

use super::{FileType, ModelShape};

/// The llama.cpp release whose mixtures a preset means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mixtures {
    /// llama-quantize's as it is.
    #[default]
    Current,
    /// Those of March 2025, when the makers of PLM published their files: attn_kv_b was a matrix like any other, and
    /// rows that Q2_K and Q3_K do not divide became IQ4_NL.
    March2025,
}

impl Mixtures {
    /// The name that users say.
    pub fn name(self) -> &'static str {
        match self {
            Mixtures::Current => "current",
            Mixtures::March2025 => "2025-03",
        }
    }
}

/// What a tensor is to the mixtures; found by name as llama-quantize finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Category {
    TokenEmbedding,
    Output,
    /// attn_v, attn_qkv and attn_kv_b: the most sensitive weights of attention.
    AttentionValue,
    /// attn_q and attn_k.
    AttentionQueryKey,
    AttentionOutput,
    FfnUp,
    FfnGate,
    FfnDown,
    Other,
}

impl Category {
    pub(super) fn of(name: &str, mixtures: Mixtures) -> Category {
        match name {
            "output.weight" => return Category::Output,
            "token_embd.weight" => return Category::TokenEmbedding,
            _ => {}
        }
        let is = |part: &str| name.contains(part);
        let is_value = mixtures == Mixtures::Current && is("attn_kv_b.weight");
        if is("attn_qkv.weight") || is_value || is("attn_v.weight") {
            Category::AttentionValue
        } else if is("attn_k.weight") || is("attn_q.weight") {
            Category::AttentionQueryKey
        } else if is("attn_output.weight") {
            Category::AttentionOutput
        } else if is("ffn_up") {
            Category::FfnUp
        } else if is("ffn_gate") {
            Category::FfnGate
        } else if is("ffn_down") {
            Category::FfnDown
        } else {
            Category::Other
        }
    }
}

/// A preset at work: the counters stand in for layer numbers and advance only at tensors that the mixture decides,
/// so tensors must come in llama-quantize's order.
pub(super) struct Mixture {
    pub(super) file_type: FileType,
    pub(super) shape: ModelShape,
    pub(super) has_importance: bool,
    /// No output.weight: the embedding doubles as the output matrix.
    pub(super) tied: bool,
    /// Tensors of [`Category::AttentionValue`] in the model.
    pub(super) attention_values: usize,
    pub(super) attention_values_seen: usize,
    pub(super) ffn_downs_seen: usize,
    pub(super) ffn_ups_seen: usize,
    pub(super) ffn_gates_seen: usize,
    /// The model is in the latent layout: its layers' types are [`super::latent`]'s.
    pub(super) latent: bool,
}

/// The first and last eighth of the layers, and every third between.
fn more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

impl Mixture {
    /// The type for the next tensor, whose rows are `cols` long, before any fallback for its shape.
    pub(super) fn choose(&mut self, category: Category, cols: usize) -> DType {
        match category {
            Category::Output => self.output(cols),
            Category::TokenEmbedding if self.tied => self.output(cols),
            Category::TokenEmbedding => self.token_embedding(),
            Category::AttentionValue => {
                let index = self.attention_values_seen;
                self.attention_values_seen += 1;
                self.attention_value(index)
            }
            Category::FfnDown => {
                let index = self.ffn_downs_seen;
                self.ffn_downs_seen += 1;
                self.ffn_down(index)
            }
            Category::AttentionQueryKey => self.attention_query_key(),
            Category::AttentionOutput => self.attention_output(),
            Category::FfnUp => {
                let index = self.ffn_ups_seen;
                self.ffn_ups_seen += 1;
                self.ffn_up_or_gate(index)
            }
            Category::FfnGate => {
                let index = self.ffn_gates_seen;
                self.ffn_gates_seen += 1;
                self.ffn_up_or_gate(index)
            }
            Category::Other => self.file_type.base(),
        }
    }

    fn output(&self, cols: usize) -> DType {
        let base = self.file_type.base();
        if base == DType::Q8_0 || !cols.is_multiple_of(base.block_len()) {
            DType::Q8_0
        } else if is_below_three_bits(self.file_type) || self.file_type == FileType::Iq3Xxs {
            DType::Q5K
        } else {
            DType::Q6K
        }
    }

    fn token_embedding(&self) -> DType {
        match self.file_type {
            FileType::Iq2S | FileType::Iq2M | FileType::Iq3Xxs => DType::Iq3S,
            file_type if is_below_three_bits(file_type) => DType::Q2K,
            FileType::Tq1_0 | FileType::Tq2_0 | FileType::Q2_0 => DType::Q4K,
            file_type => file_type.base(),
        }
    }

    fn attention_value(&self, index: usize) -> DType {
        let grouped = self.shape.query_heads_per_kv_head >= 4;
        match self.file_type {
            FileType::Q2K if grouped => DType::Q4K,
            FileType::Q2K => DType::Q3K,
            FileType::Q2KS if grouped => DType::Q4K,
            file_type if is_below_three_bits(file_type) => {
                if grouped {
                    DType::Q4K
                } else {
                    favoured(file_type)
                }
            }
            FileType::Iq3Xxs | FileType::Iq3Xs | FileType::Iq3S if grouped => DType::Q4K,
            FileType::Iq3Xxs if !self.has_importance => DType::Iq3S,
            FileType::Iq3M => DType::Q4K,
            FileType::Q3KM if index < 2 => DType::Q5K,
            FileType::Q3KM => DType::Q4K,
            FileType::Q3KL => DType::Q5K,
            FileType::Iq4Nl | FileType::Iq4Xs if grouped => DType::Q5K,
            FileType::Q4KM | FileType::Q5KM if more_bits(index, self.attention_values) => DType::Q6K,
            FileType::Q4KS if index < 4 => DType::Q5K,
            file_type => file_type.base(),
        }
    }

    fn ffn_down(&self, index: usize) -> DType {
        let layers = self.shape.layers;
        let first_eighth = index < layers / 8;
        match self.file_type {
            FileType::Q2K => DType::Q3K,
            FileType::Q2KS if first_eighth => DType::Q4K,
            file_type if is_below_three_bits(file_type) && first_eighth => favoured(file_type),
            FileType::Iq3Xxs if !self.has_importance && !first_eighth => DType::Q3K,
            FileType::Iq3Xxs if !self.has_importance => DType::Q4K,
            FileType::Iq3M if first_eighth => DType::Q4K,
            FileType::Q3KM if index < layers / 16 => DType::Q5K,
            FileType::Q3KM => DType::Q4K,
            FileType::Q3KL => DType::Q5K,
            FileType::Q4KM | FileType::Q5KM if more_bits(index, layers) => DType::Q6K,
            FileType::Iq4Nl | FileType::Iq4Xs if first_eighth && !self.has_importance => DType::Q5K,
            FileType::Q4KS if first_eighth => DType::Q5K,
            // Least squares with an importance can go astray in the first layers without a minimum per block.
            FileType::Q4_0 if first_eighth && self.has_importance => DType::Q4_1,
            FileType::Q5_0 if first_eighth && self.has_importance => DType::Q5_1,
            file_type => file_type.base(),
        }
    }

    fn attention_query_key(&self) -> DType {
        match self.file_type {
            FileType::Iq3Xs => DType::Iq3Xxs,
            FileType::Iq3Xxs => DType::Iq2S,
            file_type => file_type.base(),
        }
    }

    fn attention_output(&self) -> DType {
        match self.file_type {
            FileType::Iq1S | FileType::Iq1M => DType::Iq2Xxs,
            FileType::Iq2S | FileType::Iq2M | FileType::Iq3Xxs => DType::Iq3S,
            FileType::Q2K => DType::Q3K,
            FileType::Q3KM | FileType::Iq3M => DType::Q4K,
            FileType::Q3KL => DType::Q5K,
            file_type => file_type.base(),
        }
    }
    fn ffn_up_or_gate(&self, index: usize) -> DType {
        let layers = self.shape.layers;
        let is_inner = index >= layers / 8 && index < 7 * layers / 8;
        match self.file_type {
            FileType::Iq3Xs if is_inner => DType::Iq3Xxs,
            file_type => file_type.base(),
        }
    }
}

/// The presets of IQ1 and IQ2 types, which share their exceptions.
fn is_below_three_bits(file_type: FileType) -> bool {
    use FileType::{Iq1M, Iq1S, Iq2M, Iq2S, Iq2Xs, Iq2Xxs};
    matches!(file_type, Iq1S | Iq1M | Iq2Xxs | Iq2Xs | Iq2S | Iq2M)
}

/// What the tensors get that those presets favour.
fn favoured(file_type: FileType) -> DType {
    if matches!(file_type, FileType::Iq2S | FileType::Iq2M) { DType::Iq3S } else { DType::Q2K }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_bits_at_the_ends_and_every_third_between() {
        let chosen: Vec<usize> = (0..32).filter(|&layer| more_bits(layer, 32)).collect();
        assert_eq!(chosen, [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        // Fewer than eight layers: no first eighth, and 7 * 6 / 8 = 5.
        let chosen: Vec<usize> = (0..6).filter(|&layer| more_bits(layer, 6)).collect();
        assert_eq!(chosen, [2, 5]);
    }

    #[test]
    fn categories_by_name() {
        for (name, category) in [
            ("token_embd.weight", Category::TokenEmbedding),
            ("output.weight", Category::Output),
            ("blk.3.attn_output.weight", Category::AttentionOutput),
            ("blk.3.attn_kv_b.weight", Category::AttentionValue),
            ("blk.3.attn_v.weight", Category::AttentionValue),
            ("blk.3.attn_v_b.weight", Category::Other),
            ("blk.3.attn_k_b.weight", Category::Other),
            ("blk.3.attn_kv_a_mqa.weight", Category::Other),
            ("blk.3.ffn_down.weight", Category::FfnDown),
            ("blk.3.ffn_gate.weight", Category::FfnGate),
            ("blk.3.ffn_up.weight", Category::FfnUp),
            ("blk.3.attn_q.weight", Category::AttentionQueryKey),
            ("blk.3.attn_q_b.weight", Category::Other),
        ] {
            assert_eq!(Category::of(name, Mixtures::Current), category, "{name}");
        }
        assert_eq!(Category::of("blk.3.attn_kv_b.weight", Mixtures::March2025), Category::Other);
    }
}
