//! What each tensor of a PLM is for, and its names in checkpoints and GGUF files.

use std::fmt;

/// The part a tensor plays in the network. [`Config::shape_of`](super::Config::shape_of) gives its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A row for each token; also the output head, which is tied to it.
    TokenEmbedding,
    /// RMSNorm before attention.
    AttentionNorm,
    /// Queries of all heads.
    Query,
    /// The first of two query projections, where `q_lora_rank` is set.
    QueryA,
    /// RMSNorm between the two query projections.
    QueryANorm,
    /// The second of two query projections.
    QueryB,
    /// The latent of keys and values, and the RoPE key that all heads share.
    KvA,
    /// RMSNorm of the latent.
    KvANorm,
    /// Keys and values of all heads from the latent: per head first the key's rows, then the value's.
    KvB,
    /// Latent layout only: the key's rows of [`KvB`](Role::KvB), transposed per head.
    KeyB,
    /// Latent layout only: the value's rows of [`KvB`](Role::KvB).
    ValueB,
    /// What attention adds to the residual stream.
    AttentionOutput,
    /// RMSNorm before the feed-forward network.
    FfnNorm,
    /// Latent layout only: the gate that stands in for squared ReLU.
    FfnGate,
    /// The feed-forward network's first matrix; a row is a neuron.
    FfnUp,
    /// The feed-forward network's second matrix; a column is a neuron.
    FfnDown,
    /// RMSNorm before the output head.
    OutputNorm,
}

/// One row of the name table. A layer tensor's names follow `model.layers.N.` and `blk.N.`.
struct Names {
    role: Role,
    /// First the published name, then other spellings seen in checkpoints.
    hugging_face: &'static [&'static str],
    gguf: &'static str,
}

/// THE table of names, in the order in which files are written.
const TABLE: [Names; 17] = [
    names(Role::TokenEmbedding, &["model.embed_tokens.weight"], "token_embd.weight"),
    names(Role::AttentionNorm, &["input_layernorm.weight"], "attn_norm.weight"),
    names(Role::Query, &["self_attn.q_proj.weight"], "attn_q.weight"),
    names(Role::QueryA, &["self_attn.q_a_proj.weight"], "attn_q_a.weight"),
    names(Role::QueryANorm, &["self_attn.q_a_layernorm.weight"], "attn_q_a_norm.weight"),
    names(Role::QueryB, &["self_attn.q_b_proj.weight"], "attn_q_b.weight"),
    names(Role::KvA, &["self_attn.kv_a_proj_with_mqa.weight"], "attn_kv_a_mqa.weight"),
    names(Role::KvANorm, &["self_attn.kv_a_layernorm.weight"], "attn_kv_a_norm.weight"),
    names(Role::KvB, &["self_attn.kv_b_proj.weight"], "attn_kv_b.weight"),
    names(Role::KeyB, &[], "attn_k_b.weight"),
    names(Role::ValueB, &[], "attn_v_b.weight"),
    names(Role::AttentionOutput, &["self_attn.o_proj.weight"], "attn_output.weight"),
    names(Role::FfnNorm, &["post_attention_layernorm.weight"], "ffn_norm.weight"),
    names(Role::FfnGate, &[], "ffn_gate.weight"),
    names(Role::FfnUp, &["mlp.up_proj.weight", "mlp.fc1.weight"], "ffn_up.weight"),
    names(Role::FfnDown, &["mlp.down_proj.weight", "mlp.fc2.weight"], "ffn_down.weight"),
    names(Role::OutputNorm, &["model.norm.weight"], "output_norm.weight"),
];

const fn names(role: Role, hugging_face: &'static [&'static str], gguf: &'static str) -> Names {
    Names { role, hugging_face, gguf }
}

impl Role {
    /// All roles, in file order.
    pub fn all() -> impl Iterator<Item = Role> {
        TABLE.iter().map(|n| n.role)
    }

    fn names(self) -> &'static Names {
        TABLE.iter().find(|n| n.role == self).expect("every Role has a row in TABLE")
    }

    /// True for the roles that each layer has.
    pub fn is_per_layer(self) -> bool {
        !matches!(self, Role::TokenEmbedding | Role::OutputNorm)
    }

    /// True for the one-axis tensors, which are never quantized.
    pub fn is_norm(self) -> bool {
        matches!(
            self,
            Role::AttentionNorm | Role::QueryANorm | Role::KvANorm | Role::FfnNorm | Role::OutputNorm
        )
    }
}

impl fmt::Display for Role {
    /// The GGUF name without its suffix, e.g. `attn_kv_b`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.names().gguf.trim_end_matches(".weight"))
    }
}

/// A tensor's identity: its role, and its layer where each layer has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorKey {
    /// `None` for the tensors that the model has once.
    pub layer: Option<usize>,
    /// What it is for.
    pub role: Role,
}

impl TensorKey {
    /// A tensor that the model has once.
    pub fn global(role: Role) -> TensorKey {
        debug_assert!(!role.is_per_layer());
        TensorKey { layer: None, role }
    }

    /// A tensor of layer `layer`.
    pub fn in_layer(layer: usize, role: Role) -> TensorKey {
        debug_assert!(role.is_per_layer());
        TensorKey { layer: Some(layer), role }
    }

    /// The name in a GGUF file, e.g. `blk.3.attn_kv_b.weight`.
    pub fn gguf_name(self) -> String {
        match self.layer {
            Some(layer) => format!("blk.{layer}.{}", self.role.names().gguf),
            None => self.role.names().gguf.to_string(),
        }
    }

    /// The published name in a checkpoint, or `None` for a tensor that only a GGUF layout has.
    pub fn hugging_face_name(self) -> Option<String> {
        let name = self.role.names().hugging_face.first()?;
        Some(match self.layer {
            Some(layer) => format!("model.layers.{layer}.{name}"),
            None => name.to_string(),
        })
    }

    /// What a checkpoint's tensor name means, in any of the known spellings.
    pub fn from_hugging_face(name: &str) -> Option<TensorKey> {
        let (layer, rest) = split_layer(name, "model.layers.")?;
        find(layer, |n| n.hugging_face.contains(&rest))
    }

    /// What a GGUF tensor name means.
    pub fn from_gguf(name: &str) -> Option<TensorKey> {
        let (layer, rest) = split_layer(name, "blk.")?;
        find(layer, |n| n.gguf == rest)
    }
}

fn find(layer: Option<usize>, is: impl Fn(&Names) -> bool) -> Option<TensorKey> {
    let role = TABLE.iter().find(|n| n.role.is_per_layer() == layer.is_some() && is(n))?.role;
    Some(TensorKey { layer, role })
}

/// `blk.3.x` → `(Some(3), "x")`; a name without the prefix → `(None, name)`; a bad number → `None`.
fn split_layer<'a>(name: &'a str, prefix: &str) -> Option<(Option<usize>, &'a str)> {
    let Some(rest) = name.strip_prefix(prefix) else {
        return Some((None, name));
    };
    let (layer, rest) = rest.split_once('.')?;
    Some((Some(layer.parse().ok()?), rest))
}

impl fmt::Display for TensorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.gguf_name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for role in Role::all() {
            let key = TensorKey { layer: role.is_per_layer().then_some(17), role };
            assert_eq!(TensorKey::from_gguf(&key.gguf_name()), Some(key));
            if let Some(name) = key.hugging_face_name() {
                assert_eq!(TensorKey::from_hugging_face(&name), Some(key));
            }
        }
    }

    #[test]
    fn both_spellings_of_the_ffn_are_known() {
        let up = TensorKey::in_layer(0, Role::FfnUp);
        assert_eq!(TensorKey::from_hugging_face("model.layers.0.mlp.fc1.weight"), Some(up));
        assert_eq!(TensorKey::from_hugging_face("model.layers.0.mlp.up_proj.weight"), Some(up));
        assert_eq!(TensorKey::from_hugging_face("model.layers.x.mlp.up_proj.weight"), None);
        assert_eq!(TensorKey::from_hugging_face("mlp.up_proj.weight"), None);
    }
}
