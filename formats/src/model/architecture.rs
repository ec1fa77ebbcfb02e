//! The networks that plmconv knows, each as a description. What a model of one consists of, how it is named, written, run
//! and measured follows from its description and its [`Config`](super::Config).

use super::metadata_keys::MetadataKey;

/// A network: what all models of it have in common.
#[derive(Debug, PartialEq, Eq)]
pub struct Architecture {
    /// One model of it, with its article, as messages say it.
    pub a_model: &'static str,
    /// `model_type` in config.json.
    pub model_type: &'static str,
    /// The class in config.json's `architectures`.
    pub class: &'static str,
    /// `general.architecture` of the GGUFs that llama.cpp's graph for it reads.
    pub gguf: &'static str,
    /// Where keys and values come from.
    pub attention: AttentionKind,
    /// How a feed-forward network's neurons are activated.
    pub ffn: FfnKind,
    /// Whether a model may have an output matrix beside its embedding.
    pub head: HeadKind,
    /// How checkpoints pair the values that RoPE rotates where config.json does not say it.
    pub pairing: Pairing,
    /// The scaled forms of RoPE that its graph can express.
    pub scaling: &'static [ScalingKind],
    /// Its hyperparameters in GGUF metadata, in the converter's order.
    pub metadata: &'static [MetadataKey],
}

/// Where keys and values come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttentionKind {
    /// Multi-head latent attention: a latent, and a RoPE key that all heads share. The rotated values of a head are its
    /// last.
    Latent,
    /// Heads of keys and values that as many query heads each share. The rotated values of a head are its first.
    Grouped,
}

/// How a feed-forward network's neurons are activated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FfnKind {
    /// `down(relu(up x)²)`
    SquaredRelu,
}

/// Whether a model may have an output matrix beside its embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadKind {
    /// The embedding is the output head.
    Tied,
    /// Unless config.json ties it to the embedding.
    Own,
}

/// Which values RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Neighbours.
    Interleaved,
    /// Values half of the rotated ones apart.
    Halves,
}

/// A form of RoPE whose frequencies are not one geometric series.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalingKind {
    /// [`Yarn`](super::Yarn)
    Yarn,
}

/// THE table of architectures.
pub static ARCHITECTURES: [&Architecture; 2] = [&PLM, &ARCEE];

/// The network that the others are relatives of.
pub static PLM: Architecture = Architecture {
    a_model: "a PLM",
    model_type: "plm",
    class: "PLMForCausalLM",
    gguf: "plm",
    attention: AttentionKind::Latent,
    ffn: FfnKind::SquaredRelu,
    head: HeadKind::Tied,
    pairing: Pairing::Interleaved,
    scaling: &[],
    metadata: &[
        MetadataKey::BlockCount,
        MetadataKey::ContextLength,
        MetadataKey::EmbeddingLength,
        MetadataKey::FeedForwardLength,
        MetadataKey::HeadCount,
        MetadataKey::StatedHeadCountKv,
        MetadataKey::RopeFreqBase,
        MetadataKey::LayerNormRmsEpsilon,
        MetadataKey::FileType,
        MetadataKey::VocabSize,
        MetadataKey::KvLoraRank,
        MetadataKey::KeyLength,
        MetadataKey::ValueLength,
        MetadataKey::RopeDimensionCount,
    ],
};

/// Arcee's AFM-4.5B.
pub static ARCEE: Architecture = Architecture {
    a_model: "an Arcee AFM",
    model_type: "arcee",
    class: "ArceeForCausalLM",
    gguf: "arcee",
    attention: AttentionKind::Grouped,
    ffn: FfnKind::SquaredRelu,
    head: HeadKind::Own,
    pairing: Pairing::Halves,
    scaling: &[ScalingKind::Yarn],
    metadata: &[
        MetadataKey::BlockCount,
        MetadataKey::ContextLength,
        MetadataKey::EmbeddingLength,
        MetadataKey::FeedForwardLength,
        MetadataKey::HeadCount,
        MetadataKey::HeadCountKv,
        MetadataKey::RopeScaling,
        MetadataKey::RopeFreqBase,
        MetadataKey::LayerNormRmsEpsilon,
        MetadataKey::KeyLength,
        MetadataKey::ValueLength,
        MetadataKey::FileType,
        MetadataKey::VocabSize,
        MetadataKey::RopeDimensionCount,
    ],
};

impl Architecture {
    /// The network of a config.json with this `model_type` and this first entry of `architectures`.
    pub fn from_config(model_type: &str, class: &str) -> Option<&'static Architecture> {
        let by_type = ARCHITECTURES.into_iter().find(|known| known.model_type == model_type);
        // Fine-tunes name classes of their own after the one that they extend.
        let extends = |known: &&Architecture| class.to_ascii_lowercase().starts_with(known.model_type);
        by_type.or_else(|| ARCHITECTURES.into_iter().find(extends))
    }

    /// The network that llama.cpp calls so.
    pub fn from_gguf(name: &str) -> Option<&'static Architecture> {
        ARCHITECTURES.into_iter().find(|known| known.gguf == name)
    }

    /// What a config.json means that does not say whether it ties the head to the embedding: transformers' default.
    pub(super) fn ties_by_default(&self) -> bool {
        self.head == HeadKind::Tied
    }

    /// The names that config.json and GGUF metadata may say.
    pub fn known() -> String {
        ARCHITECTURES.map(|known| known.model_type).join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_found_by_each_of_its_names() {
        for known in ARCHITECTURES {
            assert_eq!(Architecture::from_config(known.model_type, ""), Some(known));
            assert_eq!(Architecture::from_config("", known.class), Some(known));
            assert_eq!(Architecture::from_gguf(known.gguf), Some(known));
        }
        assert_eq!(Architecture::from_config("llama", "LlamaForCausalLM"), None);
        assert_eq!(Architecture::from_config("plm", "ArceeForCausalLM"), Some(&PLM));
    }
}
