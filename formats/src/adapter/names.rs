//! The names of an adapter's tensors, as peft writes them.

/// What peft puts before the names of the model it wraps.
const WRAPPER: &str = "base_model.model.";

/// What a tensor of an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// `[rank, cols]` of a matrix.
    A,
    /// `[rows, rank]` of a matrix.
    B,
    /// `[rank, rows]` of an embedding.
    EmbeddingA,
    /// `[cols, rank]` of an embedding.
    EmbeddingB,
    /// A weight of the base model, saved because its module is a target.
    Base,
    /// A whole weight.
    Whole,
}

/// How names end, and what they then are. The longer end comes first.
const ENDS: [(&str, Part); 7] = [
    (".lora_A.weight", Part::A),
    (".lora_B.weight", Part::B),
    (".lora_embedding_A", Part::EmbeddingA),
    (".lora_embedding_B", Part::EmbeddingB),
    (".base_layer.weight", Part::Base),
    (".modules_to_save.weight", Part::Whole),
    (".weight", Part::Whole),
];

/// A tensor's module and which part of it this is; `None` for what no such adapter has.
pub(super) fn split(name: &str) -> Option<(&str, Part)> {
    let name = name.strip_prefix(WRAPPER).unwrap_or(name);
    ENDS.iter().find_map(|(end, part)| Some((name.strip_suffix(end)?, *part)))
}

/// What a tensor that is none of these is, where it is well known.
pub(super) fn foreign(name: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 4] = [
        (".lora_magnitude_vector", "DoRA (`lora_magnitude_vector`)"),
        (".lora_B.bias", "biases (`lora_bias`)"),
        (".bias", "biases, which a PLM has none of,"),
        (".trainable_tokens_delta", "tokens trained by themselves (`trainable_tokens`)"),
    ];
    KNOWN.iter().find(|(part, _)| name.contains(part)).map(|(_, what)| *what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_as_peft_puts_them_together() {
        for (name, expected) in [
            (
                "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight",
                ("model.layers.0.mlp.up_proj", Part::A),
            ),
            (
                "base_model.model.model.embed_tokens.lora_embedding_B",
                ("model.embed_tokens", Part::EmbeddingB),
            ),
            ("base_model.model.model.embed_tokens.base_layer.weight", ("model.embed_tokens", Part::Base)),
            ("base_model.model.lm_head.weight", ("lm_head", Part::Whole)),
            ("model.norm.weight", ("model.norm", Part::Whole)),
        ] {
            assert_eq!(split(name), Some(expected));
        }
        assert_eq!(split("base_model.model.model.layers.0.mlp.up_proj.lora_A.default"), None);
        assert!(foreign("base_model.model.x.lora_magnitude_vector.weight").is_some());
    }
}
